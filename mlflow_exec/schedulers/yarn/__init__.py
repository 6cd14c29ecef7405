"""Jobs on YARN, as applications of one container each.

| capability | how |
| --- | --- |
| submission | skein's driver, a JVM that is started on first use |
| status | the ResourceManager's REST interface, asked again and again: it has no watch |
| logs | the node's REST interface while it runs, the aggregated log afterwards |
| cancel | YARN's kill; then the node is asked whether its container is gone |
| retries | the user's by the job's first step; YARN itself starts a job once |

YARN gives the ids of applications. A job is found by the tags that it was submitted with, and its
handle's uid is the application's id.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import Login, find_login
from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.skein import driver
from mlflow_exec.clients.skein_process import require_programs
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import (
    CancelError,
    ClusterError,
    ConfigError,
    HandleError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.jobs import JobHandle, JobSpec, JobStatus
from mlflow_exec.reports import Finding, Report
from mlflow_exec.schedulers.base import Delivery, Plan, Scheduler
from mlflow_exec.schedulers.yarn import environments, packing, staging, submission
from mlflow_exec.schedulers.yarn.cancel import end
from mlflow_exec.schedulers.yarn.doctor import findings, local_findings
from mlflow_exec.schedulers.yarn.logs import ApplicationLog
from mlflow_exec.schedulers.yarn.plan import (
    APPLICATION_TEMPLATE,
    MANAGED_BY,
    make_plan,
    staging_folder,
    staging_root,
)
from mlflow_exec.schedulers.yarn.preflight import check_application, check_logs
from mlflow_exec.schedulers.yarn.recovery import record_of, refuse_recovery, valid_id
from mlflow_exec.schedulers.yarn.status import ENDED, job_status, name_of
from mlflow_exec.schedulers.yarn.watch import (
    ApplicationsWatch,
    find,
    is_job,
    needs_end,
    place_in_time,
)
from mlflow_exec.settings import BackendSettings, YarnSettings

_SCHEME = "yarn"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class YarnScheduler(Scheduler):
    """Runs jobs on one YARN cluster."""

    template = APPLICATION_TEMPLATE
    submits_again = True
    submitting = "submitting (by a JVM, which takes some seconds to start)"

    def __init__(self, settings: BackendSettings) -> None:
        """Keep the settings; nothing is read, asked or started yet."""
        if not isinstance(settings, YarnSettings):
            raise TypeError(f"YarnSettings are needed, not {type(settings).__name__}")
        self._settings = settings

    # -- planning ---------------------------------------------------------------------------

    @cached_property
    def _config(self) -> HadoopConfig:
        return read_config(self._settings.hadoop_conf_dir)

    @cached_property
    def _login(self) -> Login:
        settings = self._settings
        return find_login(
            self._config, user=settings.user, principal=settings.principal, keytab=settings.keytab
        )

    @cached_property
    def _manager(self) -> ResourceManager:
        return ResourceManager(self._config, self._login, verify=self._settings.ca_cert or True)

    @cached_property
    def _root(self) -> str:
        return staging_root(self._settings, self._config, self._login.effective_user)

    def _hdfs(self, uri: str) -> WebHdfs:
        filesystem = staging.filesystem_of(uri)
        return WebHdfs(
            self._config, self._login, filesystem, verify=self._settings.ca_cert or True
        )

    @property
    def _cluster(self) -> str:
        first = urlsplit(self._config.resource_managers()[0]).netloc
        return self._settings.cluster_name or first

    def assumed(self) -> dict[str, tuple[str, str]]:
        """See :meth:`~.Scheduler.assumed`: the configuration and the user."""
        config = self._config
        found = {"hadoop_conf_dir": (str(config.folder), config.where_from)}
        found["staging_dir"] = (self._root, "the user's home in HDFS")
        return found

    def delivery(self, size_bytes: int) -> Delivery:
        """See :meth:`~.Scheduler.delivery`."""
        if self._settings.source == "artifact":
            return Delivery("artifact", otherwise="use source 'hdfs'")
        return Delivery("scheduler")

    def shares_this_machine(self) -> bool:
        """See :meth:`~.Scheduler.shares_this_machine`: a YARN of one machine."""
        return all(
            urlsplit(url).hostname in _LOOPBACK for url in self._config.resource_managers()
        )

    def _packing(self, spec: JobSpec) -> packing.Packing | None:
        kind = self._settings.environment
        return packing.describe(kind, spec) if kind in ("venv-pack", "conda-pack") else None

    def plan(self, spec: JobSpec) -> Plan:
        """See :meth:`~.Scheduler.plan`."""
        staged_in = staging.filesystem_of(self._root)
        own = self._config.default_filesystem.rstrip("/")
        # A token is acquired by itself for the default one only.
        file_systems = [] if staged_in == own else [staged_in]
        return make_plan(spec, self._settings, self._root, self._packing(spec), file_systems)

    def check(self, plan: Plan) -> Report:
        """Look for what submits, and ask the cluster whether it could ever run the job."""
        user = self._login.effective_user
        require_programs()
        self._manager.info()
        staging.check_root(self._hdfs(self._root), self._root, user)
        packed = self._packing(plan.spec)
        if packed is not None:  # what cannot be built is told before there is a run
            environments.build(self._hdfs(self._root), self._root, plan, packed)
        warnings = check_application(self._manager, self._config, plan.objects[0], user)
        return Report((*warnings, *check_logs(self._config)))

    def diagnose(self) -> Iterator[Finding]:
        """See :meth:`~.Scheduler.diagnose`; starts no JVM but for Java's own version."""
        yield from local_findings(self._settings)
        with suppress(ConfigError):  # it was told above
            config = self._config

            def connect(login: Login) -> tuple[ResourceManager, WebHdfs, str]:
                return self._manager, self._hdfs(self._root), self._root

            yield from findings(config, lambda: self._login, connect, self._settings.queue)

    # -- acting -----------------------------------------------------------------------------

    def handle(self, plan: Plan) -> JobHandle:
        """See :meth:`~.Scheduler.handle`; YARN gives the id, which is its uid, later."""
        return JobHandle(_SCHEME, self._cluster, (plan.spec.name,))

    def submit(self, plan: Plan) -> JobHandle:
        """See :meth:`~.Scheduler.submit`."""
        handle, application = self.handle(plan), plan.objects[0]
        user = self._login.effective_user
        earlier = submission.submitted(self._manager, handle.name, user)
        if earlier:
            return replace(handle, uid=str(earlier[0]["id"]))
        hdfs = self._hdfs(self._root)
        try:
            staging.make_root(hdfs, self._root, user)
            packed = self._packing(plan.spec)
            if packed is not None:
                application = environments.upload(hdfs, self._root, plan, packed)
            repeated(lambda: staging.upload(hdfs, plan))
            uid = self._submit_once(application, handle.name)
        except UnreachableError:
            raise  # it may have been accepted, and needs its files then
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupted client does not know how far
                with suppress(ClusterError):
                    submission.withdraw(self._manager, handle.name, user)
            with suppress(ClusterError):
                if not submission.lives(self._manager, handle.name, user):
                    staging.remove(hdfs, application)
            raise
        return replace(handle, uid=uid)

    def _submit_once(self, application: Mapping[str, Any], name: str) -> str:
        return submission.submit_once(
            self._manager,
            lambda: driver(self._config, self._login),
            application,
            name,
            self._login.effective_user,
            self._forget,
        )

    def _forget(self, application_id: str) -> None:
        with suppress(ClusterError, ConfigError):  # files of skein's, of which most are gone
            hdfs = self._hdfs(self._config.default_filesystem)
            staging.remove_skeins(hdfs, application_id)

    def submit_again(
        self,
        earlier: JobHandle,
        objects: Sequence[Mapping[str, Any]],
        data: Mapping[str, bytes],
        count: int,
    ) -> JobHandle:
        """See :meth:`~.Scheduler.submit_again`; it takes the files of the first submission."""
        self._check_place([earlier])
        application: Mapping[str, Any]
        name, application = submission.again(earlier.name, objects, count)
        folder = staging_folder(application)
        if folder is None:
            raise RejectedError(f"{earlier}: what was kept of it names no files")
        user = self._login.effective_user
        if not submission.submitted(self._manager, name, user):
            hdfs = self._hdfs(folder)
            staging.restore(hdfs, application, data)
            application = environments.found_again(hdfs, application)
        uid = self._submit_once(application, name)
        return replace(earlier, path=(name,), uid=uid)

    def cancel(self, handle: JobHandle, *, timeout_s: float = 120) -> None:
        """See :meth:`~.Scheduler.cancel`."""
        try:
            self._check_place([handle])
            record = repeated(lambda: find(self._manager, handle), timeout_s)
        except UnreachableError as error:
            raise CancelError(f"cancel: {handle}: {error}") from error
        if record is None:
            return
        uid = str(record["id"])
        end(self._manager, uid, timeout_s)
        for later in self._later(replace(handle, uid=uid)):
            end(self._manager, str(later["id"]), timeout_s)

    def _later(self, handle: JobHandle) -> list[Mapping[str, Any]]:
        """Return the applications of a job that should not be: of two clients at one moment."""
        found = repeated(lambda: self._manager.apps(tag=handle.name))
        ours = {str(each["id"]): each for each in found if is_job(each, handle.name)}
        first = ours.pop(handle.uid, None)
        return [
            each
            for each in ours.values()
            if first is not None
            and each.get("user") == first.get("user")
            and each.get("state") not in ENDED
        ]

    def retire(
        self,
        handle: JobHandle,
        after_s: int | None,
        objects: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """Remove the files of a job that has ended; YARN forgets it by itself."""
        if valid_id(handle.uid):
            for later in self._later(handle):
                self._manager.kill(str(later["id"]))
        for application in objects():
            folder = staging_folder(application)
            if folder is not None and staging.is_of(folder, handle.name):
                staging.remove(self._hdfs(folder), application)
        if valid_id(handle.uid):
            self._forget(handle.uid)
            return
        with suppress(ClusterError, ConfigError):  # as above
            hdfs = self._hdfs(self._config.default_filesystem)
            staging.search_skeins(hdfs, handle.name, self._knows)

    def _knows(self, application_id: str) -> bool:
        try:
            record_of(self._manager, application_id)
        except NotFoundError:
            return False
        return True

    # -- reading ----------------------------------------------------------------------------

    def _check_place(self, handles: Sequence[JobHandle]) -> None:
        """Refuse jobs of another cluster than the configured one.

        Raises:
            HandleError: It is surely another.
            UnreachableError: It cannot be asked whether it is the same by another address.
        """
        cluster = handles[0].cluster
        if cluster == self._cluster:
            return
        for handle in handles:
            if valid_id(handle.uid):
                with suppress(NotFoundError, RejectedError):
                    if is_job(record_of(self._manager, handle.uid), handle.name):
                        return
        raise HandleError(
            f"{handles[0]}: its cluster is {cluster!r}, and the configuration in "
            f"{self._config.folder} leads to {self._cluster!r}; choose the other by "
            f"'hadoop_conf_dir', or name both alike by 'cluster_name'"
        )

    def snapshot(
        self, *, run_id: str | None = None, near: Sequence[JobHandle] = ()
    ) -> Iterator[tuple[JobHandle, JobStatus]]:
        """See :meth:`~.Scheduler.snapshot`."""
        if near:
            self._check_place(near)
        cluster = near[0].cluster if near else self._cluster
        self._manager.info()  # only the active one knows what there is
        tag = MANAGED_BY if run_id is None else f"mlflow-{run_id}"
        told: set[str] = set()
        records = sorted(self._manager.apps(tag=tag), key=place_in_time)
        known = {str(record["id"]) for record in records}
        refuse_recovery(self._manager, [job.uid for job in near if job.uid not in known])
        for record in records:
            name = name_of(record, run_id)
            if name is None or (name in told and not _is_near(record, near)):
                continue
            told.add(name)
            handle = JobHandle(_SCHEME, cluster, (name,), str(record["id"]))
            status = job_status(record, now=self._manager.clock.now())
            rough = status.state.is_final and needs_end(record)
            yield handle, replace(status, rough=rough)

    def watch(
        self, handles: Iterable[JobHandle], stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """See :meth:`~.Scheduler.watch`."""
        wanted = list(handles)
        if not wanted:
            return
        repeated(lambda: self._check_place(wanted))
        watch = ApplicationsWatch(self._manager, self._config, wanted)
        yield from watch.statuses(stop)

    def logs(self, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        """See :meth:`~.Scheduler.logs`."""
        self._check_place([handle])
        record = repeated(lambda: find(self._manager, handle))
        if record is not None:
            log = ApplicationLog(self._manager, self._config, str(record["id"]))
            yield from log.pieces(follow=follow)
        elif valid_id(handle.uid):
            with suppress(NotFoundError):
                yield from ApplicationLog(self._manager, self._config, handle.uid).forgotten()

    def last_logs(self, handle: JobHandle, status: JobStatus) -> Iterator[str]:
        """See :meth:`~.Scheduler.last_logs`."""
        record = status.native.get("application")
        if not record:
            return self.logs(handle)
        return ApplicationLog(self._manager, self._config, str(record["id"])).of_ended(record)


def _is_near(record: Mapping[str, Any], near: Sequence[JobHandle]) -> bool:
    return any(handle.uid == record.get("id") for handle in near)
