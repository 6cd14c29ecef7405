"""What the job's first step writes on its run meanwhile, as far as it reaches the server."""

from __future__ import annotations

from typing import Optional

from .end import (
    FINAL_STATES,
    TAG_ATTEMPT,
    TAG_LOG_COMPLETE,
    TAG_STATE,
    End,
    write_end,
)
from .job_log import JobLog
from .rest import RestRunStore
from .tracking_server import RequestError, TrackingServer


class AlreadyEnded(Exception):
    """The run has an end; carries its state."""


class RunRecorder:
    """Keeps the run's state; a server that is away fails nothing, the log names it.

    Args:
        server: The tracking server; None where it is not reached by HTTP, then nothing is written.
        run_id: The run.
        log: The job's log.
    """

    def __init__(self, server: Optional[TrackingServer], run_id: str, log: JobLog) -> None:
        self._server = server
        self._run_id = run_id
        self._log = log

    def begin_attempt(self, patience_s: float) -> int:
        """Count this start on the run and return its number.

        1 where there is no server to ask, 0 where it does not answer: then nobody knows.

        Args:
            patience_s: How long each request is retried.

        Raises:
            AlreadyEnded: The run has an end.
        """
        if self._server is None:
            return 1
        store = RestRunStore(self._server)
        try:
            with self._server.patience(patience_s):
                tags = store.read(self._run_id).tags
                if tags.get(TAG_STATE) in FINAL_STATES:
                    raise AlreadyEnded(tags[TAG_STATE])
                earlier = tags.get(TAG_ATTEMPT, "")
                attempt = int(earlier) + 1 if earlier.isdigit() else 1
                store.set_tags(self._run_id, {TAG_ATTEMPT: str(attempt), TAG_STATE: "STARTING"})
                if TAG_LOG_COMPLETE in tags:
                    store.delete_tags(self._run_id, [TAG_LOG_COMPLETE])
        except RequestError as error:
            self._log.say(f"the run cannot be updated: {error}")
            return 0
        self._log.say(f"run {self._run_id}, attempt {attempt}")
        return attempt

    def running(self, patience_s: float) -> None:
        """Write that the entry point runs now.

        Args:
            patience_s: How long each request is retried.

        Raises:
            AlreadyEnded: The run has an end.
        """
        if self._server is None:
            return
        store = RestRunStore(self._server)
        try:
            with self._server.patience(patience_s):
                state = store.read(self._run_id).tags.get(TAG_STATE)
                if state in FINAL_STATES:
                    raise AlreadyEnded(state)
                store.set_tags(self._run_id, {TAG_STATE: "RUNNING"})
                store.set_status(self._run_id, "RUNNING", None)
        except RequestError as error:
            self._log.say(f"the run cannot be updated: {error}")

    def log_complete(self, patience_s: float) -> bool:
        """Write that the whole log is uploaded; return whether that is written."""
        if self._server is None:
            return True
        try:
            with self._server.patience(patience_s):
                RestRunStore(self._server).set_tags(self._run_id, {TAG_LOG_COMPLETE: "true"})
        except RequestError as error:
            self._log.say(f"the run cannot be updated: {error}")
            return False
        return True

    def end(self, end: End, patience_s: float) -> bool:
        """Write the end; return whether that is written."""
        if self._server is None:
            return True
        try:
            with self._server.patience(patience_s):
                write_end(RestRunStore(self._server), self._run_id, end, "entry")
        except RequestError as error:
            self._log.say(f"the end of the run could not be written, reconcile will: {error}")
            return False
        return True
