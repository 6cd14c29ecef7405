"""Jobs on Kubernetes, as Jobs of ``batch/v1``.

| capability | how |
| --- | --- |
| status | a watch of Jobs and of pods for each namespace |
| logs | the pod's log through the API server, live and afterwards |
| cancel | delete in the foreground, then wait for the pods |
| retries | the Job controller: backoffLimitPerIndex and podFailurePolicy |
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_exec.clients import kubernetes as api
from mlflow_exec.clients import kubernetes_config as ways
from mlflow_exec.clients.kubernetes_doctor import findings
from mlflow_exec.clients.kubernetes_watch import list_pages
from mlflow_exec.errors import (
    ConfigError,
    ConflictError,
    JobNotFoundError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.jobs import JobHandle, JobSpec, JobStatus
from mlflow_exec.reports import Finding, Report
from mlflow_exec.schedulers.base import Delivery, Plan, Scheduler
from mlflow_exec.schedulers.kubernetes.cancel import cancel, delete_job, find_job, find_pods
from mlflow_exec.schedulers.kubernetes.explain import job_events, warnings, why_held
from mlflow_exec.schedulers.kubernetes.follow import follow as follow_jobs
from mlflow_exec.schedulers.kubernetes.follow import known_status
from mlflow_exec.schedulers.kubernetes.logs import PodLog, has_log, has_run
from mlflow_exec.schedulers.kubernetes.objects import (
    BATCH,
    collection_of,
    essential,
    job_of,
    owner_of,
    path_of,
    selector,
    with_contents,
)
from mlflow_exec.schedulers.kubernetes.plan import (
    CONFIGMAP_BUNDLE_BYTES,
    JOB_TEMPLATE,
    LABEL_RUN,
    SUBMITTING,
    make_plan,
)
from mlflow_exec.schedulers.kubernetes.preflight import check
from mlflow_exec.schedulers.kubernetes.rights import RIGHTS
from mlflow_exec.schedulers.kubernetes.status import job_status, needs_events
from mlflow_exec.settings import BackendSettings, KubernetesSettings

Json = Mapping[str, Any]

_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"


class KubernetesScheduler(Scheduler):
    """Runs jobs on one Kubernetes cluster."""

    template = JOB_TEMPLATE

    def __init__(self, settings: BackendSettings) -> None:
        """Keep the settings; nothing is read or asked yet."""
        if not isinstance(settings, KubernetesSettings):
            raise TypeError(f"KubernetesSettings are needed, not {type(settings).__name__}")
        self._settings = settings
        self._clients: dict[str, api.KubernetesClient] = {}

    # -- planning ---------------------------------------------------------------------------

    def delivery(self, size_bytes: int) -> Delivery:
        """See :meth:`~.Scheduler.delivery`."""
        asked = self._settings.source
        fits = size_bytes <= CONFIGMAP_BUNDLE_BYTES
        if asked == "configmap" and not fits:
            raise ConfigError(
                f"source: configmap: the packed project has {size_bytes} bytes, "
                f"{CONFIGMAP_BUNDLE_BYTES} fit; use source 'artifact' or 'git'"
            )
        if asked == "configmap" or (asked == "auto" and fits):
            return Delivery("scheduler")
        return Delivery(
            "artifact" if asked == "auto" else asked,
            otherwise="make the project fit a ConfigMap with .mlflowignore, or use source 'git' "
            "or 'image'",
        )

    def assumed(self) -> dict[str, tuple[str, str]]:
        """See :meth:`~.Scheduler.assumed`: the context's namespace."""
        if self._settings.namespace:
            return {}
        client = self._connect()
        return {"namespace": (client.namespace, client.name)}

    def plan(self, spec: JobSpec) -> Plan:
        """See :meth:`~.Scheduler.plan`."""
        return make_plan(spec, self._settings, self._namespace())

    def _namespace(self) -> str:
        settings = self._settings
        if settings.namespace:
            return settings.namespace
        return self._connect().namespace

    def _connect(self) -> api.KubernetesClient:
        client = self._clients.get("")
        if client is None:
            settings = self._settings
            client = ways.connect(settings.context or settings.kube_context, settings.kubeconfig)
            self._clients[""] = client
        return client

    def _client_of(self, *handles: JobHandle) -> api.KubernetesClient:
        """Return the way to the cluster of jobs of one place, be some of them gone."""
        identity = handles[0].cluster
        client = self._clients.get(identity)
        if client is None:
            settings = self._settings
            client = ways.find(
                identity,
                settings.cluster_name,
                settings.context or settings.kube_context,
                settings.kubeconfig,
                lambda candidate: _holds(candidate, handles),
            )
            self._clients[identity] = client
        return client

    def check(self, plan: Plan) -> Report:
        """See :meth:`~.Scheduler.check`; an answer counts for jobs of the same shape."""
        return check(self._connect(), plan)

    def diagnose(self) -> Iterator[Finding]:
        """See :meth:`~.Scheduler.diagnose`."""
        try:
            client, namespace = self._connect(), self._namespace()
        except ConfigError as error:
            yield Finding(False, "kubeconfig", str(error), "Point KUBECONFIG at a kubeconfig.")
            return
        name = self._settings.cluster_name
        yield from findings(client, namespace, name, RIGHTS, "docs/kubernetes.md")

    # -- acting -----------------------------------------------------------------------------

    def handle(self, plan: Plan) -> JobHandle:
        """See :meth:`~.Scheduler.handle`."""
        client, metadata = self._connect(), plan.objects[0]["metadata"]
        identity = client.identity(self._settings.cluster_name)
        self._clients[identity] = client
        return JobHandle("k8s", identity, (metadata["namespace"], metadata["name"]))

    def submit(self, plan: Plan) -> JobHandle:
        """See :meth:`~.Scheduler.submit`."""
        client = self._connect()
        job = self._create(client, plan.objects[0], plan)
        owner = {
            "apiVersion": BATCH,
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": False,
            "blockOwnerDeletion": False,
        }
        try:
            for item in plan.objects[1:]:
                self._create(client, item, plan, owner)
            self._start(client, job)
        except BaseException:
            if _is_incomplete(job):
                delete_job(client, path_of(job), {"uid": job["metadata"]["uid"]})
            raise
        return replace(self.handle(plan), uid=job["metadata"]["uid"])

    def _create(
        self,
        client: api.KubernetesClient,
        item: Mapping[str, Any],
        plan: Plan,
        owner: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Create an object, or find the one that an earlier try made.

        The answer of a try may have been lost; so a conflict decides nothing, the object does.
        """
        body = with_contents(item, plan)
        if owner:
            body["metadata"]["ownerReferences"] = [owner]
        try:
            return client.request("POST", collection_of(item), body=body)
        except ConflictError as conflict:
            found = client.request("GET", path_of(item))
            if (found["metadata"].get("labels") or {}).get(LABEL_RUN) != plan.spec.run_id:
                raise ConflictError(
                    f"{item['kind']} {item['metadata']['name']!r}: exists and is not of this "
                    f"run: {conflict}",
                    status=409,
                ) from conflict
            return found

    def _start(self, client: api.KubernetesClient, job: Mapping[str, Any]) -> None:
        """Say that the submission is complete, and un-suspend unless a queue does that.

        Only if nobody did so before. What else changed meanwhile does not matter: the Job's
        controller writes its status at once, and a comparison of versions would then fail.
        """
        if not _is_incomplete(job):
            return  # an earlier try has done it
        mark, uid = f"/metadata/annotations/{SUBMITTING.replace('/', '~1')}", job["metadata"]["uid"]
        body: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "remove", "path": mark},
        ]
        if not self._settings.queue:
            body.append({"op": "add", "path": "/spec/suspend", "value": False})
        try:
            client.request("PATCH", path_of(job), body=body, content_type=_JSON_PATCH)
        except RejectedError:
            fresh = client.request("GET", path_of(job))
            if fresh["metadata"]["uid"] == uid and _is_incomplete(fresh):
                raise

    def cancel(self, handle: JobHandle, *, timeout_s: float = 120) -> None:
        """See :meth:`~.Scheduler.cancel`."""
        cancel(self._client_of(handle), handle, timeout_s)

    def retire(
        self,
        handle: JobHandle,
        after_s: int | None,
        objects: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """See :meth:`~.Scheduler.retire`."""
        if after_s is None:
            return
        namespace, name = handle.path
        body = {"spec": {"ttlSecondsAfterFinished": after_s}}
        path = api.object_path("jobs", namespace, name, group=BATCH)
        try:
            self._client_of(handle).request("PATCH", path, body=body, content_type=_MERGE_PATCH)
        except NotFoundError:
            return

    # -- reading ----------------------------------------------------------------------------

    def snapshot(
        self, *, run_id: str | None = None, near: Sequence[JobHandle] = ()
    ) -> Iterator[tuple[JobHandle, JobStatus]]:
        """See :meth:`~.Scheduler.snapshot`."""
        client = self._client_of(*near) if near else self._connect()
        namespace = near[0].path[0] if near else self._namespace()
        chosen = selector([run_id] if run_id else [])
        identity = near[0].cluster if near else client.identity(self._settings.cluster_name)
        # Jobs first: then the pods of one that has ended tell how, as far as they are still there.
        path = api.object_path("jobs", namespace, group=BATCH)
        jobs = [essential(j) for page in list_pages(client, path, chosen) for j in page["items"]]
        pods: dict[str, list[Any]] = {}
        for page in list_pages(client, api.object_path("pods", namespace), chosen):
            for pod in page["items"]:
                pods.setdefault(job_of(pod), []).append(essential(pod))
        events: dict[str, list[Any]] | None = None
        for job in jobs:
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            found = [pod for pod in pods.get(name, []) if owner_of(pod) in ("", uid)]
            status = job_status(job, found, now=client.now())
            if needs_events(status):
                if events is None:  # one list of them for all that wait
                    events = warnings(client, namespace, "Job", "Pod")
                uids = [uid, *[pod["metadata"]["uid"] for pod in found]]
                told = [event for key in uids for event in events.get(key, [])]
                status = job_status(job, found, told, now=client.now())
            yield JobHandle("k8s", identity, (namespace, name), uid), status

    def status(self, handle: JobHandle) -> JobStatus:
        """See :meth:`~.Scheduler.status`; two requests, no watch."""
        client = self._client_of(handle)
        namespace, name = handle.path
        try:
            job = client.request("GET", api.object_path("jobs", namespace, name, group=BATCH))
        except NotFoundError:
            job = None
        if job is None or handle.uid not in ("", job["metadata"]["uid"]):
            raise JobNotFoundError(f"{handle}: the cluster does not know this job (any more)")
        query = {"labelSelector": f"batch.kubernetes.io/job-name={name}"}
        pods = client.request("GET", api.object_path("pods", namespace), query=query)["items"]
        uids = [job["metadata"]["uid"], *[pod["metadata"]["uid"] for pod in pods[-1:]]]
        status = job_status(job, pods, now=client.now())
        if status.failure is None and not needs_events(status):
            return status
        events = job_events(client, namespace, uids)
        return job_status(job, pods, events, why_held(client, job), client.now())

    def glance(self, handle: JobHandle) -> JobStatus:
        """See :meth:`~.Scheduler.glance`; from the second question on the job is followed."""
        return known_status(self._client_of(handle), handle) or self.status(handle)

    def watch(
        self, handles: Iterable[JobHandle], stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """See :meth:`~.Scheduler.watch`."""
        yield from follow_jobs([(self._client_of(handle), handle) for handle in handles], stop)

    def last_logs(self, handle: JobHandle, status: JobStatus) -> Iterator[str]:
        """See :meth:`~.Scheduler.last_logs`: the record names the pods."""
        if "pods" not in status.native:
            yield from self.logs(handle)
            return
        pods = [(pod["name"], pod) for pod in status.native["pods"]]
        yield from self._logs_of(handle, pods, status.native["job"])

    def _logs_of(
        self, handle: JobHandle, pods: Sequence[tuple[str, Json]], job: Json | None
    ) -> Iterator[str]:
        if not pods and has_run(job):
            raise NotFoundError(f"{handle}: its pods are gone, and their logs with them")
        client, namespace = self._client_of(handle), handle.path[0]
        for name, pod in pods:
            if has_log(pod):
                yield from PodLog(client, namespace, name, pod).pieces(follow=False)

    def logs(self, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        """See :meth:`~.Scheduler.logs`."""
        client = self._client_of(handle)
        if not follow:
            named = [(pod["metadata"]["name"], pod) for pod in find_pods(client, handle)]
            yield from self._logs_of(handle, named, None if named else find_job(client, handle))
            return
        done: set[str] = set()
        for _, status in self.watch([handle]):
            try:
                pods = find_pods(client, handle)
            except UnreachableError:
                continue  # the watch says when the cluster answers again
            for pod in pods:
                if pod["metadata"]["uid"] not in done and has_log(pod):
                    name, namespace = pod["metadata"]["name"], handle.path[0]
                    yield from PodLog(client, namespace, name, pod).pieces(follow=True)
                    done.add(pod["metadata"]["uid"])
            if status is None:
                return


def _is_incomplete(job: Mapping[str, Any]) -> bool:
    """Whether a Job's submission is not complete, so that it has never been started."""
    return SUBMITTING in (job["metadata"].get("annotations") or {})


def _holds(client: api.KubernetesClient, handles: Sequence[JobHandle]) -> bool:
    """Whether a cluster has one of these very jobs of one namespace, by its uid."""
    namespace, name = handles[0].path
    uids = {handle.uid for handle in handles} - {""}
    if len(handles) == 1:
        job = client.request("GET", api.object_path("jobs", namespace, name, group=BATCH))
        return job["metadata"]["uid"] in uids
    pages = list_pages(client, api.object_path("jobs", namespace, group=BATCH), selector([]))
    return any(job["metadata"]["uid"] in uids for page in pages for job in page["items"])
