"""Runs a job order inside the cluster, from the project's files to the end of the run.

The end is written here only for an exit that was seen, with no stop signal and no retry to
follow: a cancel, an eviction and a preemption all look alike from inside, and belong to those who
can ask the scheduler.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from typing import Dict, List, Mapping, Optional

from .command import PathParameters, command_line
from .end import (
    END_LINE_PREFIX,
    EXIT_DISRUPTED,
    EXIT_OVER,
    EXIT_STOPPED,
    INFRA_RETRIES_VARIABLE,
    RESERVED_EXIT_CODES,
    RETRY_LINE_PREFIX,
    START_LINE_PREFIX,
    End,
    taken_too_often,
)
from .environment import Environment
from .environment_cache import Environments
from .job_log import JobLog
from .job_order import JobOrder, SetupError, invalid, order_text
from .log_upload import LogUpload
from .processes import DeadlineOver, Outcome, Runner, Stopped, StopSignal, oom_kills
from .rest import ArtifactRoot
from .run_record import AlreadyEnded, RunRecorder
from .secret_values import resolve, to_mask
from .source_fetch import Project, SourceFetcher
from .token_file import token_file, with_sign_in
from .tracking_server import RequestError, TrackingServer, is_http, redact

JOB_VARIABLE = "MLFLOW_EXEC_JOB"
"""Tells the entry point its job's name."""
_START_PATIENCE_S = 30.0
_MARK_PATIENCE_S = 10.0
_END_PATIENCE_S = 60.0
_STOP_PATIENCE_S = 2.0
_TERMINATION_LOG = "/dev/termination-log"
_TERMINATION_LOG_BYTES = 4096
_RETRIED_CATEGORIES = ("user_error", "out_of_memory")


def main(argv: List[str]) -> int:
    """Carry out the order named by the only argument.

    Returns:
        The exit code for the container: the entry point's own (128 + n for signal n, 1 in place
        of a reserved one), one of ``RESERVED_EXIT_CODES``, or ``EXIT_STOPPED``.
    """
    started = time.monotonic()
    stop = StopSignal()
    scratch_dir: Optional[str] = None
    job: Optional[Job] = None
    try:
        stop.install()
        with contextlib.suppress(OSError):
            scratch_dir = tempfile.mkdtemp(prefix="mlflow-exec-")
        log = JobLog(os.path.join(scratch_dir, "log.txt") if scratch_dir else None)
        sys.excepthook = lambda *error: log.say("".join(traceback.format_exception(*error)))
        # Who reads the log later knows by this line that it begins at its beginning.
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        log.line(f"{START_LINE_PREFIX}{moment} {socket.gethostname()} {os.urandom(4).hex()}")
        environ = dict(os.environ)
        try:
            order = JobOrder.from_json(order_text(argv, environ))
            if scratch_dir is None:
                raise invalid("there is no writable folder for temporary files; set TMPDIR")
            job = Job(order, environ, log, scratch_dir, stop, started)
        except SetupError as error:
            announce(log, error.end)
            return error.end.exit_code or 1
        return job.run()
    except Stopped:
        return EXIT_STOPPED
    finally:
        stop.shield_for_good()
        if job is not None:
            job.close()
        if scratch_dir is not None:
            shutil.rmtree(scratch_dir, ignore_errors=True)


class Job:
    """One container's part of a job.

    Args:
        order: What to do.
        environ: The container's environment.
        log: The job's log.
        scratch_dir: An existing private folder; the caller removes it.
        stop: The signals that end the job.
        started: The ``time.monotonic()`` from which the deadline counts.

    Raises:
        SetupError: invalid_config, where the tracking server cannot be addressed as told.
    """

    def __init__(
        self,
        order: JobOrder,
        environ: Mapping[str, str],
        log: JobLog,
        scratch_dir: str,
        stop: StopSignal,
        started: float,
    ) -> None:
        self._order = order
        self._log = log
        self._scratch_dir = scratch_dir
        self._stop = stop
        deadline = None if order.deadline_s is None else started + order.deadline_s
        self._runner = Runner(log, stop, deadline, order.term_grace_s)
        secrets, self._unresolved = resolve(order.secrets, environ)
        self._env = child_environment(order, environ, secrets)
        self._environ = {**environ, **order.env, **secrets}
        names = [*order.secrets, *order.secret_names, order.source.url_env or ""]
        log.hide(to_mask(names, self._environ))
        self._token = token_file(order.secrets, self._environ, log.hide)
        self._artifacts: Optional[ArtifactRoot] = None
        server: Optional[TrackingServer] = None
        if is_http(order.tracking_uri):
            try:
                token = self._token.read if self._token else None
                server = TrackingServer(str(order.tracking_uri), self._environ, token)
            except ValueError as error:
                raise invalid(f"tracking_uri {redact(str(order.tracking_uri))}: {error}") from error
            self._artifacts = ArtifactRoot.of(server, order.artifact_uri)
        told = environ.get(INFRA_RETRIES_VARIABLE, "")
        self._infra_retries = int(told) if told.isdigit() else 0
        self._record = RunRecorder(server, order.run_id, log, self._infra_retries)
        self._upload: Optional[LogUpload] = None
        self._log_gap = False
        self._environment: Optional[Environment] = None
        self._environments = Environments(
            order.environment, order.environment_cache, scratch_dir, self._runner, self._env
        )
        self._fetcher = SourceFetcher(
            order.source, scratch_dir, self._environ, self._artifacts, self._runner, self._env
        )

    def run(self) -> int:
        """Run the job to its end in this container and return the container's exit code."""
        try:
            self._begin_log(self._record.begin_attempt(_START_PATIENCE_S))
            self._shorten_deadline()
            end, retry_follows = self._attempts()
        except AlreadyEnded as error:
            self._log.say(f"{error}: nothing is run")
            return EXIT_OVER
        except Stopped:
            self._stop.shield_for_good()
            self._log.say("stopped by a signal; the end of the run is left to the scheduler's side")
            if not self._is_replaced(_STOP_PATIENCE_S):
                self._keep_log()
            return EXIT_STOPPED
        self._stop.shield_for_good()
        return self._finish(end, retry_follows)

    def _shorten_deadline(self) -> None:
        """Count the time since the first start where this is not the first job."""
        first_start_s = self._record.first_start_s
        if self._runner.deadline is not None and self._infra_retries and first_start_s:
            self._runner.deadline -= max(time.time() - first_start_s, 0)

    def _is_replaced(self, patience_s: float) -> bool:
        """Whether the run goes on in a later job, so that this one writes nothing on it."""
        if self._order.retry.owner != "entry":
            return False
        try:
            self._record.check_ours(patience_s)
        except AlreadyEnded as error:
            self._log.say(f"{error}: nothing is written on it")
            return True
        return False

    def close(self) -> None:
        """Give back what other jobs may wait for; the job's processes have ended."""
        self._environments.close()

    def _attempts(self) -> "tuple[End, bool]":
        """Return the end of the last attempt in this container, and whether another follows."""
        retry = self._order.retry
        failures = self._count(retry.failure_count_env)
        ignored = self._count(retry.ignored_count_env)
        if retry.owner == "kubernetes" and ignored > retry.infra_retries:
            message = taken_too_often(ignored, retry.infra_retries)
            hint = "Raise infra_retries, or submit it again."
            return End("FAILED", "infrastructure", message, hint, EXIT_DISRUPTED), False
        failures += self._record.retries if self._infra_retries else 0
        while True:
            end = self._log.masked(self._attempt())
            failures += 1
            retried = end.category in _RETRIED_CATEGORIES and failures <= retry.retries
            if retry.owner == "none" or not retried:
                return end, False
            if retry.owner == "kubernetes":
                return end, True
            self._log.line(RETRY_LINE_PREFIX + end.to_json())
            self._record.begin_attempt(_MARK_PATIENCE_S, failures)

    def _count(self, name: Optional[str]) -> int:
        """Return a counter of the scheduler; it is empty as long as there was no failure."""
        text = self._environ.get(name or "", "").strip()
        return int(text) if text.isdigit() else 0

    def _attempt(self) -> End:
        try:
            if self._unresolved is not None:
                raise self._unresolved
            project = self._fetcher.prepare(self._log.say)
            command = self._prepare_command(project)
            self._record.running(_MARK_PATIENCE_S)
            self._log.say(f"running: {command}")
            return self._run_command(command, project.directory)
        except SetupError as error:
            return error.end
        except DeadlineOver:
            message = f"The job was ended after its deadline of {self._order.deadline_s:g} s."
            return SetupError("deadline", message, "Raise deadline_s if it needs longer.").end
        except AlreadyEnded:
            raise
        except Exception as error:
            # Whatever it is, the run must not stay without an end.
            self._log.say(traceback.format_exc())
            message = f"The job's first step failed itself: {type(error).__name__}: {error}"
            return SetupError("infrastructure", message, "The log has the traceback.").end

    def _prepare_command(self, project: Project) -> str:
        if self._environment is None:
            self._environment = self._environments.prepare(project.directory)
        paths = PathParameters(
            project, self._scratch_dir, self._runner, self._environment, self._env
        )
        return command_line(self._order.entry_point, paths.resolve)

    def _run_command(self, command: str, directory: str) -> End:
        env = self._environment.apply(self._env) if self._environment else self._env
        env = with_sign_in(env, self._token, self._scratch_dir, directory)
        shell = "bash" if shutil.which("bash", path=env.get("PATH", os.defpath)) else "sh"
        kills_before = oom_kills()
        try:
            outcome = self._runner.run([shell, "-c", command], directory, env)
        except OSError as error:
            raise invalid(f"the command cannot be started: {error}") from error
        kills = (oom_kills() or 0) - (kills_before or 0)
        return end_of(outcome, kills)

    def _begin_log(self, attempt: int) -> None:
        """Start to upload the log, behind that of earlier attempts."""
        if self._artifacts is None:
            return
        order = self._order
        upload = LogUpload(
            self._artifacts, self._log, order.log_part_interval_s, order.log_part_bytes
        )
        # 0: not known, and an earlier log must not be overwritten.
        if attempt != 1 or self._infra_retries:
            earlier = os.path.join(self._scratch_dir, "earlier-log.txt")
            try:
                self._log_gap = upload.continue_earlier(earlier, _START_PATIENCE_S)
            except (RequestError, OSError) as error:
                self._log.say(f"the earlier log cannot be read, this one is not uploaded: {error}")
                return
        upload.start()
        self._upload = upload

    def _finish(self, end: End, retry_follows: bool) -> int:
        """Keep log and end, each as well as it can be; return the container's exit code.

        The last line goes out first: whatever is killed or away later, the container's own log
        tells the end. It is said again if something else had to be said after it.
        """
        prefix = RETRY_LINE_PREFIX if retry_follows else END_LINE_PREFIX
        if retry_follows:
            self._log.say("a retry follows: this failure is not the end of the run")
            self._log.line(prefix + end.to_json())
        else:
            announce(self._log, end)
        if self._is_replaced(_MARK_PATIENCE_S):
            return EXIT_OVER
        troubles = [self._keep_log()]
        if not retry_follows:
            troubles.append(not self._record.end(end, _END_PATIENCE_S))
        if any(troubles):
            self._log.line(prefix + end.to_json())
        code = 1 if end.exit_code is None else end.exit_code
        if end.category == "user_error" and code in (*RESERVED_EXIT_CODES, EXIT_STOPPED):
            return 1
        return code

    def _keep_log(self) -> bool:
        """Upload the whole log and say so on the run; return whether that went wrong."""
        if self._upload is None:
            return False
        trouble = self._log.trouble
        if not self._upload.finish(quickly=self._stop.received):
            trouble = self._upload.last_error
        elif self._log_gap:
            trouble = "a part of an earlier attempt is lost"
        if trouble:
            self._log.say(f"the uploaded log is not complete: {trouble}")
            return True
        return not self._record.log_complete(_MARK_PATIENCE_S)


def child_environment(
    order: JobOrder, environ: Mapping[str, str], secrets: Mapping[str, str]
) -> Dict[str, str]:
    """Return the entry point's variables: the container's, the order's, secrets, then MLflow's."""
    env = {"PYTHONUNBUFFERED": "1", **environ, **order.env, **secrets}
    env.pop(INFRA_RETRIES_VARIABLE, None)
    if order.source.url_env is not None:
        env.pop(order.source.url_env, None)
    env["MLFLOW_RUN_ID"] = order.run_id
    env["MLFLOW_EXPERIMENT_ID"] = order.experiment_id
    env[JOB_VARIABLE] = f"mlflow-{order.run_id}-{order.submission}"
    if order.tracking_uri is not None:
        env["MLFLOW_TRACKING_URI"] = order.tracking_uri
    return env


def end_of(outcome: Outcome, memory_kills: int) -> End:
    """Return the end that an exit of the entry point means.

    Args:
        outcome: How it ended.
        memory_kills: How many processes the kernel killed for memory meanwhile.
    """
    if outcome.returncode == 0:
        return End("SUCCEEDED", exit_code=0)
    code = outcome.returncode if outcome.returncode > 0 else 128 - outcome.returncode
    # A shell between us and the program turns signal 9 into exit code 137.
    if memory_kills > 0 and code == 128 + signal.SIGKILL:
        return End(
            "FAILED",
            "out_of_memory",
            "The entry point used more memory than the job has, and the kernel killed it.",
            "Raise the memory of the job, or use less of it.",
            code,
        )
    end = End("FAILED", "user_error", f"The entry point exited with code {code}.", "", code)
    if outcome.returncode < 0:
        end = replace(end, message=f"The entry point was ended by {_signal_name(code - 128)}.")
    hint = "The end of the log says why."
    if memory_kills > 0:
        hint = f"{hint} The kernel killed {memory_kills} of its processes for lack of memory."
    return replace(end, hint=hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def announce(log: JobLog, end: End) -> None:
    """Say the end where it can be read without MLflow: in the log and in the pod's status."""
    if end.message:
        log.say(f"{end.category}: {end.message} {end.hint}".rstrip())
    log.line(END_LINE_PREFIX + end.to_json())
    path = os.environ.get("MLFLOW_EXEC_TERMINATION_LOG") or _TERMINATION_LOG
    if path == _TERMINATION_LOG and not os.path.exists(path):
        return
    try:
        with open(path, "wb") as file:
            file.write(end.to_json(_TERMINATION_LOG_BYTES).encode("utf-8"))
    except OSError as error:
        log.say(f"{path} cannot be written: {error}")
        log.line(END_LINE_PREFIX + end.to_json())
