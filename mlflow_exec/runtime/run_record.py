"""What the job's first step writes on its run meanwhile, as far as it reaches the server."""

from __future__ import annotations

import contextlib
import time
from typing import Mapping, Optional

from .end import (
    FINAL_STATES,
    TAG_ATTEMPT,
    TAG_FIRST_START,
    TAG_INFRA_RETRIES,
    TAG_LOG_COMPLETE,
    TAG_RETRIES,
    TAG_STATE,
    End,
    write_end,
)
from .job_log import JobLog
from .rest import RestRunStore
from .tracking_server import RequestError, TrackingServer


class AlreadyEnded(Exception):
    """The run has an end, or goes on in a later job; carries a sentence that says so."""


class RunRecorder:
    """Keeps the run's state; a server that is away fails nothing, the log names it.

    Args:
        server: The tracking server; None where it is not reached by HTTP, then nothing is written.
        run_id: The run.
        log: The job's log.
        infra_retries: How often the job was submitted again before this one.

    Attributes:
        retries: The retries that earlier jobs of this submission used up, as far as is known.
        first_start_s: When the first of them started, in seconds since 1970; 0.0 if not known.
    """

    def __init__(
        self, server: Optional[TrackingServer], run_id: str, log: JobLog, infra_retries: int = 0
    ) -> None:
        self.retries = 0
        self.first_start_s = 0.0
        self._server = server
        self._run_id = run_id
        self._log = log
        self._infra_retries = infra_retries

    def begin_attempt(self, patience_s: float, retries: int = 0) -> int:
        """Count this start on the run and return its number.

        1 where there is no server to ask, 0 where it does not answer: then nobody knows.

        Args:
            patience_s: How long each request is retried.
            retries: What is used up by now, where a later job must know it.

        Raises:
            AlreadyEnded: The run has an end, or goes on in a later job.
        """
        if self._server is None:
            return 1
        store = RestRunStore(self._server)
        try:
            with self._server.patience(patience_s):
                tags = self._open_tags(store)
                self.retries = _number(tags.get(TAG_RETRIES))
                self.first_start_s = float(_number(tags.get(TAG_FIRST_START)))
                attempt = _number(tags.get(TAG_ATTEMPT)) + 1
                told = {TAG_ATTEMPT: str(attempt), TAG_STATE: "STARTING"}
                if retries:
                    told[TAG_RETRIES] = str(retries)
                if not self.first_start_s:
                    told[TAG_FIRST_START] = str(int(time.time()))
                if TAG_LOG_COMPLETE in tags:
                    told[TAG_LOG_COMPLETE] = "false"
                store.set_tags(self._run_id, told)
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
            AlreadyEnded: The run has an end, or goes on in a later job.
        """
        if self._server is None:
            return
        store = RestRunStore(self._server)
        try:
            with self._server.patience(patience_s):
                self._open_tags(store)
                store.set_tags(self._run_id, {TAG_STATE: "RUNNING"})
                store.set_status(self._run_id, "RUNNING", None)
        except RequestError as error:
            self._log.say(f"the run cannot be updated: {error}")

    def _open_tags(self, store: RestRunStore) -> Mapping[str, str]:
        tags = store.read(self._run_id).tags
        self._refuse_if_later(tags)
        if tags.get(TAG_STATE) in FINAL_STATES:
            raise AlreadyEnded(f"the run has ended already ({tags[TAG_STATE]})")
        return tags

    def _refuse_if_later(self, tags: Mapping[str, str]) -> None:
        """A node that was given up may live on, cut off; its job must not write beside the next."""
        if _number(tags.get(TAG_INFRA_RETRIES)) > self._infra_retries:
            raise AlreadyEnded("the run goes on in a job that was submitted for this one")

    def check_ours(self, patience_s: float) -> None:
        """Look whether this job may still write on the run.

        Args:
            patience_s: How long each request is retried.

        Raises:
            AlreadyEnded: The run goes on in a later job.
        """
        if self._server is None:
            return
        with contextlib.suppress(RequestError), self._server.patience(patience_s):
            self._refuse_if_later(RestRunStore(self._server).read(self._run_id).tags)

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


def _number(text: Optional[str]) -> int:
    return int(text) if text and text.isdigit() else 0
