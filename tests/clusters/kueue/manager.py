"""Kueue's manager as a process of this machine, beside a cluster of ours."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from tests.clusters.cache import discard, locked
from tests.clusters.kubernetes.cluster import Cluster
from tests.clusters.kubernetes.components import environment, get
from tests.clusters.kueue import build
from tests.clusters.processes import Process, appears, start

Json = dict[str, Any]

API = "kueue.x-k8s.io/v1beta2"
_QUEUE = "kueue.x-k8s.io/queue-name"
_NAMESPACE = "kueue-system"
# Kueue knows them by these names, and its webhooks' configurations by the Service's.
_SERVICE = {"name": "kueue-webhook-service", "namespace": _NAMESPACE}
_CERTIFICATES = {"name": "kueue-webhook-server-cert", "namespace": _NAMESPACE}
_CONVERTED = ("clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads")
_HOOK_PORT = 9443
_HEALTH_PORT = 8081
_PATIENCE_S = 60.0


@contextmanager
def running(cluster: Cluster) -> Iterator[Kueue]:
    """Run Kueue for a cluster; afterwards nothing of it is left there.

    Another session that wants it for the same cluster waits.
    """
    with (
        locked(cluster.slot.run / "kueue.lock"),
        config.new_client_from_config(str(cluster.kubeconfig)) as api_client,
    ):
        kueue = Kueue(cluster, DynamicClient(api_client))
        try:
            kueue.start()
            yield kueue
        finally:
            kueue.stop()


class Kueue:
    """A Kueue that takes care of the Jobs that name a queue, and of no others."""

    def __init__(self, cluster: Cluster, dynamic: DynamicClient) -> None:
        self._slot = cluster.slot
        self._kubeconfig = cluster.kubeconfig
        self._dynamic = dynamic
        self._folder = cluster.slot.folder / "kueue"
        self._record = cluster.slot.pid_file("kueue")
        self._made: list[Json] = []

    def apply(self, *objects: Json) -> None:
        """Create objects, or change them; they go together with Kueue."""
        for item in objects:
            self._resource(item).server_side_apply(
                body=item, field_manager="mlflow-exec-test", force_conflicts=True
            )
            if item not in self._made:
                self._made.append(item)

    def items(self, kind: str, namespace: str | None = None) -> list[Json]:
        """Return the objects of one of Kueue's kinds, such as `Workload`."""
        return self._list({"apiVersion": API, "kind": kind}, namespace=namespace)

    def start(self) -> None:
        """Install it and return when it serves.

        Raises:
            RuntimeError: it does not serve in time; names its log's last lines.
        """
        files = build.folder()
        self._end_process()  # of a session that was killed
        discard(self._folder)
        self._folder.mkdir()
        self.apply(*_beside_it(self._slot.loopback))
        for file in sorted((files / "crds").glob("*.yaml")):
            self.apply(_definition(yaml.safe_load(file.read_text())))
        for item in yaml.safe_load_all((files / "webhooks.yaml").read_text()):
            self.apply(_hooks(item))
        settings = self._folder / "configuration.json"
        settings.write_text(json.dumps(_configuration(self._slot.loopback, self._folder)))
        start(
            [str(files / "kueue"), f"--config={settings}", f"--kubeconfig={self._kubeconfig}"],
            log=self._folder / "kueue.log", record=self._record, environment=environment(),
        )  # fmt: skip
        self._await("certificates", self._mount_certificates)
        ready = f"http://{self._slot.loopback}:{_HEALTH_PORT}/readyz"
        self._await("ready", lambda: get(ready) == "ok")

    def stop(self) -> None:
        """Remove all of it, and the Jobs in its queues."""
        if Process.read(self._record):  # its own objects only go while it lives
            jobs = {"apiVersion": "batch/v1", "kind": "Job"}
            self._delete_all(self._list(jobs, label_selector=_QUEUE))
            for kind in ("Workload", "LocalQueue", "ClusterQueue", "ResourceFlavor"):
                self._delete_all(self.items(kind))
        self._end_process()
        self._delete_all([item for item in self._made if item["apiVersion"] != API])

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        if not appears(condition, timeout_s=_PATIENCE_S):
            log = (self._folder / "kueue.log").read_text(errors="replace")
            end = "\n".join(log.splitlines()[-15:])
            raise RuntimeError(f"kueue: {what} not in {_PATIENCE_S} s; the end of its log:\n{end}")

    def _mount_certificates(self) -> bool:
        """Do what the kubelet does in a pod: Kueue writes the Secret and waits for its files."""
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": _CERTIFICATES}
        data = self._get(secret).to_dict().get("data") or {}
        for name in ("tls.crt", "tls.key") if data else ():
            (self._folder / name).write_bytes(base64.b64decode(data[name]))
        return bool(data)

    def _end_process(self) -> None:
        process = Process.read(self._record)
        if process is not None:
            process.end(grace_s=10)
        self._record.unlink(missing_ok=True)

    def _delete_all(self, objects: list[Json]) -> None:
        for item in reversed(objects):
            self._delete(item)
        for item in objects:
            gone = appears(partial(self._is_gone, item), timeout_s=_PATIENCE_S)
            assert gone, f"{item['kind']} {item['metadata']['name']} is still there"

    def _delete(self, item: Json) -> None:
        metadata = item["metadata"]
        options = {"propagationPolicy": "Background"}
        try:
            self._resource(item).delete(metadata["name"], metadata.get("namespace"), body=options)
        except NotFoundError:
            return

    def _is_gone(self, item: Json) -> bool:
        try:
            self._get(item)
        except NotFoundError:
            return True
        return False

    def _get(self, item: Json) -> Any:
        metadata = item["metadata"]
        return self._resource(item).get(metadata["name"], metadata.get("namespace"))

    def _list(self, item: Json, **selected: Any) -> list[Json]:
        items: list[Json] = self._resource(item).get(**selected).to_dict()["items"]
        return items

    def _resource(self, item: Json) -> Any:
        return self._dynamic.resources.get(api_version=item["apiVersion"], kind=item["kind"])


def _beside_it(address: str) -> list[Json]:
    """Return what Kueue's own installation has beside its Deployment, as far as we need it."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": _CERTIFICATES}
    spec = {"type": "ExternalName", "externalName": address}  # no pod, and no kube-proxy either
    service = {"apiVersion": "v1", "kind": "Service", "metadata": _SERVICE, "spec": spec}
    return [namespace, secret, service]


def _definition(crd: Json) -> Json:
    """Return a CRD with the conversion of its versions that Kueue's own installation adds."""
    if crd["spec"]["names"]["plural"] not in _CONVERTED:
        return crd
    hook = {"clientConfig": _at("/convert"), "conversionReviewVersions": ["v1"]}
    crd["spec"]["conversion"] = {"strategy": "Webhook", "webhook": hook}
    return crd


def _hooks(item: Json) -> Json:
    """Return the webhooks of Kueue's own kinds and of Jobs that name a queue."""
    hooks = []
    for hook in item["webhooks"]:
        group, resource = (hook["rules"][0][key][0] for key in ("apiGroups", "resources"))
        if (group, resource) == ("batch", "jobs"):
            named = {"key": _QUEUE, "operator": "Exists"}
            hook["objectSelector"] = {"matchExpressions": [named]}
        elif group != API.split("/")[0]:
            continue
        hooks.append({**hook, "clientConfig": _at(hook["clientConfig"]["service"]["path"])})
    return {**item, "metadata": {"name": f"kueue-{item['metadata']['name']}"}, "webhooks": hooks}


def _at(path: str) -> Json:
    """Return how the API server reaches a webhook; Kueue adds its authority."""
    return {"service": {**_SERVICE, "port": _HOOK_PORT, "path": path}}


def _configuration(address: str, certificates: Path) -> Json:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": _NAMESPACE,
        "health": {"healthProbeBindAddress": f"{address}:{_HEALTH_PORT}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": address, "port": _HOOK_PORT, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "manageJobsWithoutQueueName": False,
        "integrations": {"frameworks": ["batch/job"]},
        "featureGates": {"VisibilityOnDemand": False},  # a server at a fixed place
    }
