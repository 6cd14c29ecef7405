"""Jobs on Ray, as submissions to its Jobs API.

| capability | how |
| --- | --- |
| status | the job's record, asked for again and again: the API has no watch |
| logs | the driver's log file through the dashboard, live and afterwards |
| cancel | Ray's stop; a job that waits for resources is taken out of the queue |
| retries | the user's by the job's first step; Ray itself starts a job once |

Without ``resources`` a job asks for one CPU, so that Ray places it on any node and queues what does
not fit; tasks that the job starts in Ray take further ones. ``resources: {cpu: 0}`` is Ray's own
default: the entry point on the head node, beside all others.

Ray shows a job's environment variables to everybody who can list jobs, so secrets are not sent:
``secrets`` name variables and files of the nodes, which the job's first step reads there. The Ray
of this machine passes on the environment that it was started with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.ray import (
    PACKAGE_LIMIT_BYTES,
    RayClient,
    find_token,
    resolve_address,
)
from mlflow_exec.clients.ray_packages import put_package
from mlflow_exec.errors import (
    CancelError,
    ConfigError,
    NotFoundError,
    UnreachableError,
)
from mlflow_exec.jobs import JobHandle, JobSpec, JobStatus
from mlflow_exec.reports import Finding, Report
from mlflow_exec.schedulers.base import Delivery, Plan, Scheduler
from mlflow_exec.schedulers.ray.cancel import take_out_of_queue
from mlflow_exec.schedulers.ray.doctor import findings
from mlflow_exec.schedulers.ray.logs import DriverLog
from mlflow_exec.schedulers.ray.place import (
    address_of,
    elsewhere,
    handle_of,
    is_of_elsewhere,
    is_over,
    machine,
    mark_of,
    was_stopped_here,
)
from mlflow_exec.schedulers.ray.plan import (
    JOB_TEMPLATE,
    MANAGED_BY,
    META_MANAGED,
    META_RUN,
    make_plan,
)
from mlflow_exec.schedulers.ray.preflight import check_here, unfit, unsent_secrets
from mlflow_exec.schedulers.ray.status import job_status
from mlflow_exec.schedulers.ray.submission import (
    submit_again,
    submit_once,
)
from mlflow_exec.schedulers.ray.watch import JobsWatch, known_status
from mlflow_exec.settings import BackendSettings, RaySettings

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLL_S = 0.25
# A job that has its resources starts within this time, and then reads that it is to stop.
_STARTING_S = 3.0
# Room in the package for our own files and the zip's directory.
_OWN_FILES_BYTES = 1024 * 1024
BUNDLE_LIMIT_BYTES = PACKAGE_LIMIT_BYTES - _OWN_FILES_BYTES


class RayScheduler(Scheduler):
    """Runs jobs on one Ray cluster."""

    template = JOB_TEMPLATE
    submits_again = True

    def __init__(self, settings: BackendSettings) -> None:
        """Keep the settings; nothing is read, asked or started yet."""
        if not isinstance(settings, RaySettings):
            raise TypeError(f"RaySettings are needed, not {type(settings).__name__}")
        self._settings = settings
        self._clients: dict[str, RayClient] = {}
        self._marks: dict[str, str] = {}
        self._over: set[str] = set()

    # -- planning ---------------------------------------------------------------------------

    def delivery(self, size_bytes: int) -> Delivery:
        """See :meth:`~.Scheduler.delivery`."""
        asked = self._settings.source
        fits = size_bytes <= BUNDLE_LIMIT_BYTES
        if asked == "package" and not fits:
            raise ConfigError(
                f"source: package: the packed project has {size_bytes} bytes, "
                f"{BUNDLE_LIMIT_BYTES} fit into Ray's package store; use source 'artifact'"
            )
        if asked == "package" or (asked == "auto" and fits):
            return Delivery("scheduler")
        return Delivery(
            "artifact", otherwise="make the project fit Ray's package store with .mlflowignore"
        )

    def assumed(self) -> dict[str, tuple[str, str]]:
        """See :meth:`~.Scheduler.assumed`: the address."""
        address, where_from = resolve_address(self._settings)
        return {"address": (address or "started when needed", where_from)}

    def shares_this_machine(self) -> bool:
        """See :meth:`~.Scheduler.shares_this_machine`."""
        address, _ = resolve_address(self._settings)
        return address is None or urlsplit(address).hostname in _LOOPBACK

    def carries_secrets(self) -> bool:
        """See :meth:`~.Scheduler.carries_secrets`: Ray shows a job's variables to everybody."""
        return False

    def plan(self, spec: JobSpec) -> Plan:
        """See :meth:`~.Scheduler.plan`."""
        return make_plan(spec, self._settings)

    def check(self, plan: Plan) -> Report:
        """Ask the cluster whether it answers and could ever hold the job.

        Where no address is configured, this starts the Ray of this machine.
        """
        client = self._connect()
        client.version()
        embedded = ray_embedded.recorded()
        own = embedded if embedded and embedded.address == client.address else None
        declared = self._settings.secrets
        if own:
            check_here(declared, own)
        warnings = unsent_secrets(
            {name: s for name, s in plan.spec.secrets.items() if name not in declared}, own
        )
        lacking = unfit(plan.objects[0], client)
        if lacking and own:
            raise ConfigError(f"resources: {lacking}; ask for less")
        if lacking:
            warnings.append(f"resources: {lacking}; the job waits unless a larger node is added")
        return Report(tuple(warnings))

    def diagnose(self) -> Iterator[Finding]:
        """See :meth:`~.Scheduler.diagnose`; starts no Ray on this machine."""
        address, where_from = resolve_address(self._settings)
        if address is None:
            embedded = ray_embedded.status()
            if embedded is None:
                text = "no address is configured; the first job starts a Ray on this machine"
                yield Finding(True, "cluster", text)
                return
            address = embedded.address
        yield from findings(self._client(address), where_from)

    def _connect(self) -> RayClient:
        """Return the client of the configured cluster; starts one here if none is configured."""
        client = self._clients.get("")
        if client is None:
            address, _ = resolve_address(self._settings)
            if address is None:
                client = ray_embedded.start_or_reuse().client()
            else:
                client = self._client(address)
            self._clients[""] = client
        return client

    def _client(self, address: str) -> RayClient:
        settings = self._settings
        embedded = ray_embedded.recorded()
        if embedded and embedded.address == address and not settings.token_file:
            return embedded.client()
        return RayClient(
            address,
            token=find_token(settings.token_file),
            ca_cert=settings.ca_cert,
            verify_tls=settings.verify_tls,
        )

    def _client_of(self, *handles: JobHandle) -> RayClient:
        """Return the client for jobs of one address, or for where that is reached now."""
        place = _place(handles[0])
        client = self._clients.get(place)
        if client is None:
            client = self._clients[place] = self._find(handles)
        return client

    def _find(self, handles: Sequence[JobHandle]) -> RayClient:
        foreign = is_of_elsewhere(handles[0])
        address = address_of(handles[0])
        sessions = {handle.uid for handle in handles} - {""}
        configured, _ = resolve_address(self._settings)
        if sessions and configured is not None and (foreign or configured != address):
            other = self._connect()
            try:
                if other.version().get("session_name") in sessions:
                    return other
            except UnreachableError:
                if foreign:
                    raise
        if foreign:
            raise elsewhere(handles[0])
        return self._client(address)

    def _handle(self, client: RayClient, name: str) -> JobHandle:
        session = str(repeated(client.version).get("session_name") or "")
        mark = self._marks.get(session)
        if mark is None:
            try:
                mark = self._marks[session] = repeated(lambda: mark_of(client, session))
            except UnreachableError:  # a Ray that has only just started; the cautious answer
                mark = f"{machine()}-forwarded"
        return handle_of(client.address, name, session, mark)

    # -- acting -----------------------------------------------------------------------------

    def handle(self, plan: Plan) -> JobHandle:
        """See :meth:`~.Scheduler.handle`."""
        client = self._connect()
        handle = self._handle(client, str(plan.objects[0]["submission_id"]))
        self._clients[_place(handle)] = client
        return handle

    def submit(self, plan: Plan) -> JobHandle:
        """See :meth:`~.Scheduler.submit`."""
        handle = self.handle(plan)
        client = self._connect()
        for name, content in plan.data.items():
            put_package(client, name, content)
        submit_once(client, plan.objects[0])
        return handle

    def submit_again(
        self,
        earlier: JobHandle,
        objects: Sequence[Mapping[str, Any]],
        data: Mapping[str, bytes],
        count: int,
    ) -> JobHandle:
        """See :meth:`~.Scheduler.submit_again`."""
        client = self._client_of(earlier)
        self.was_restarted(earlier)  # refuses a Ray that may be another one
        session = str(repeated(client.version).get("session_name") or "")
        name = submit_again(client, earlier.name, objects, data, count)
        return replace(earlier, path=(*earlier.path[:-1], name), uid=session)

    def was_restarted(self, handle: JobHandle) -> bool:
        """See :meth:`~.Scheduler.was_restarted`."""
        if handle.uid in self._over:
            return True
        client = self._client_of(handle)
        try:
            session = str(client.version().get("session_name") or "")
            over = is_over(handle, client, session)
        except UnreachableError:
            if was_stopped_here(handle):
                return False
            raise
        if over:
            self._over.add(handle.uid)
        return over

    def cancel(self, handle: JobHandle, *, timeout_s: float = 120) -> None:
        """See :meth:`~.Scheduler.cancel`."""
        client = self._client_of(handle)
        end_s = time.monotonic() + timeout_s
        asked_s: float | None = None
        while True:
            try:
                session = str(client.version().get("session_name") or "")
                if handle.uid and is_over(handle, client, session):
                    return  # what it ran on is over, and everything of it with it
                record = client.job(handle.name)
                if record is None or job_status(record).state.is_final:
                    return
                if asked_s is None:
                    client.stop(handle.name)
                    asked_s = time.monotonic()
                elif record["status"] == "PENDING" and time.monotonic() - asked_s > _STARTING_S:
                    take_out_of_queue(client, handle.name, end_s)
            except NotFoundError:
                return
            except UnreachableError as error:
                if time.monotonic() > end_s:
                    raise CancelError(f"cancel: {handle}: {error}") from error
            if time.monotonic() > end_s:
                raise CancelError(
                    f"cancel: {handle}: still {record['status'] if record else 'unknown'} after "
                    f"{timeout_s:g} s; 'ray job stop {handle.name}' was sent, see the dashboard"
                )
            time.sleep(_POLL_S)

    def retire(
        self,
        handle: JobHandle,
        after_s: int | None,
        objects: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """Do nothing: Ray keeps the records of finished jobs, small as they are, by itself.

        Deleting one would let its id be taken again, and ids are never to be used twice.
        """

    # -- reading ----------------------------------------------------------------------------

    def snapshot(
        self, *, run_id: str | None = None, near: Sequence[JobHandle] = ()
    ) -> Iterator[tuple[JobHandle, JobStatus]]:
        """See :meth:`~.Scheduler.snapshot`; starts no Ray on this machine."""
        address = address_of(near[0]) if near else resolve_address(self._settings)[0]
        if address is None:
            embedded = ray_embedded.status()
            if embedded is None:
                return
            address = embedded.address
        client = self._client_of(*near) if near else self._client(address)
        if near:
            session = str(client.version().get("session_name") or "")
            place = replace(near[0], uid=session)
        else:
            place = self._handle(client, "any")
        for record in client.jobs():
            metadata = record.get("metadata") or {}
            ours = metadata.get(META_MANAGED) == MANAGED_BY
            if ours and run_id in (None, metadata.get(META_RUN)):
                status = known_status(client, record)
                assert status is not None
                yield replace(place, path=(*place.path[:-1], record["submission_id"])), status

    def watch(
        self, handles: Iterable[JobHandle], stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """See :meth:`~.Scheduler.watch`."""
        clients: dict[int, RayClient] = {}
        groups: dict[int, list[JobHandle]] = {}
        for handle in handles:
            client = self._client_of(handle)
            clients[id(client)] = client
            groups.setdefault(id(client), []).append(handle)
        watch = JobsWatch([(clients[key], group) for key, group in groups.items()])
        yield from watch.statuses(stop)

    def logs(self, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        """See :meth:`~.Scheduler.logs`."""
        return DriverLog(self._client_of(handle), handle.name).pieces(follow=follow)


def _place(handle: JobHandle) -> str:
    """Return all of a handle but the job."""
    return str(replace(handle, path=(*handle.path[:-1], "any")))
