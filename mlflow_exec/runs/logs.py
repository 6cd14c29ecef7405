"""Keeps the whole output of a job on its run, as ``mlflow-exec/log.txt``.

The job's first step uploads it itself where the tracking server passes artifacts on. Where it
could not (another artifact store, a killed container), what it managed to upload is joined here
with what the scheduler still has. A gap is named in the file and in the tag, never silent.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient

from mlflow_exec.errors import MlflowExecError
from mlflow_exec.jobs import JobHandle, JobStatus
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runtime.end import (
    GAP_LINE,
    START_LINE_PREFIX,
    TAG_ATTEMPT,
    TAG_LOG_COMPLETE,
    TAG_STATE,
)
from mlflow_exec.schedulers.base import Scheduler

FOLDER = "mlflow-exec"
PARTS = f"{FOLDER}/log"
LOG = f"{FOLDER}/log.txt"
_PART_NAME = re.compile(r"(\d{12})\.txt$")
# Long enough that two different places of a log do not look the same, short enough to be found.
_OVERLAP_BYTES = 4096
_START_LINE = re.compile(rb"^" + re.escape(START_LINE_PREFIX.encode()) + rb".*\n", re.M)
_GAP = GAP_LINE.encode()


def join(head: bytes, tail: bytes) -> bytes:
    """Join two pieces of one output that overlap, or of which one is part of the other.

    Args:
        head: From the very start, perhaps of earlier attempts too.
        tail: Up to the very end.

    Returns:
        The whole; `GAP_LINE` stands where something is missing.
    """
    if not head or not tail:
        return head or tail
    before, gap, after = tail.partition(_GAP + b"\n")
    if before and gap:
        return join(join(head, before), gap + after)
    start = _START_LINE.search(tail)
    if start is not None and not gap:
        return _join_attempts(head, tail, start)
    # The scheduler often still has all; then a text that repeats itself joins rightly, too.
    if tail.startswith(head):
        return tail
    if tail in head:
        return head
    tail = after if gap else tail
    end = head[-_OVERLAP_BYTES:]
    place = tail.find(end) if len(end) == _OVERLAP_BYTES else -1
    if place >= 0:
        return head + tail[place + len(end) :]
    return _on_a_line(head) + _GAP + b"\n" + tail


def _join_attempts(head: bytes, tail: bytes, start: re.Match[bytes]) -> bytes:
    """Join where the tail holds an attempt from its first line on."""
    at = head.find(start.group())
    if at < 0:  # the head is of earlier attempts only
        return _on_a_line(head) + tail
    lead, tail = tail[: start.start()], tail[start.start() :]
    earlier, head = head[:at], head[at:]
    return earlier + lead + (head if head.startswith(tail) else tail)


def _on_a_line(text: bytes) -> bytes:
    return text if text.endswith(b"\n") else text + b"\n"


class LogKeeper:
    """Puts one job's log on its run.

    Attributes:
        captured: Where a live follower writes the output it sees, from the very start; None where
            nobody does.
        cut: The same where the output broke off, so that its end may be missing.
        kept: Whether the run holds the log, or all of it that could be had.
        whole: Whether that was found to be the whole log, which is to be told on the run.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        artifacts: RunArtifacts,
        *,
        uploads: bool,
        listed: JobStatus | None = None,
    ) -> None:
        """Take the run.

        Args:
            client: For the run's tracking server.
            run_id: The run.
            artifacts: The run's.
            uploads: Whether the job puts its log there by itself.
            listed: How the job ended, by a snapshot: then what that told is not asked for again.
                No other status will do, because a watch may have the Job's end before its pods'.
        """
        self._client = client
        self._run_id = run_id
        self._artifacts = artifacts
        self._uploads = uploads
        self._listed = listed
        self.captured: Path | None = None
        self.cut: Path | None = None
        self.kept = False
        self.whole = False
        self._spare = b""

    def is_complete(self) -> bool:
        """Whether the run already holds the whole log."""
        return _holds_all(self._tags())

    def _tags(self) -> Mapping[str, str]:
        tags: Mapping[str, str] = self._client.get_run(self._run_id).data.tags
        return tags

    def capture(self, scheduler: Scheduler, handle: JobHandle) -> None:
        """Read what there is now, before a cancellation takes it away."""
        if self.captured is not None:
            return
        try:
            text = "".join(scheduler.logs(handle))
        except MlflowExecError:
            return
        self._spare = text.encode()

    def keep(self, scheduler: Scheduler, handle: JobHandle) -> str | None:
        """Make sure that the run holds the log, `whole` or not; one out of reach fails nothing.

        Returns:
            What went wrong, as a sentence; None if the log is whole.
        """
        try:
            unread, complete = self._keep(scheduler, handle)
            return unread or (None if complete else "a part of the log is missing")
        except Exception as error:  # each artifact store has errors of its own
            return f"the log could not be kept on the run: {error}"

    def go_on(self, scheduler: Scheduler, handle: JobHandle, line: str) -> str | None:
        """Keep the log of a job that is submitted again, for that of the next job to follow.

        Args:
            scheduler: See `keep`.
            handle: The job that has ended.
            line: What to say between the two; it is there once, however often this is repeated.

        Returns:
            See `keep`.
        """
        try:
            unread, _ = self._keep(scheduler, handle)
            whole = self._artifacts.read(LOG) if LOG in self._artifacts.paths(FOLDER) else b""
            if line.encode() not in whole.splitlines():
                gap = _GAP + b"\n" if unread else b""
                before = _on_a_line(whole) if whole else b""
                whole = before + gap + line.encode() + b"\n"
                self._artifacts.write(LOG, whole)
            return unread
        except Exception as error:  # each artifact store has errors of its own
            return f"the log could not be kept on the run: {error}"

    def _keep(self, scheduler: Scheduler, handle: JobHandle) -> tuple[str | None, bool]:
        """Put the log on the run; return why its end may be missing, and whether it is whole."""
        tags = self._tags()
        if _holds_all(tags):
            self.kept = True
            return None, True
        tail, unread = self._remaining(scheduler, handle)
        head = self._uploaded()  # asking may have taken long, and another client kept it meanwhile
        started = _has_started(tags)
        if not tail and not unread and started:
            unread = "the scheduler no longer has the job's log"
        if started or not head:
            whole = join(head, tail)
        else:  # what the scheduler says of a job that never ran, after the log of earlier ones
            whole = head if tail in head else _on_a_line(head) + tail
        if whole or not unread:  # another client may have kept more
            self._artifacts.write(LOG, whole)
        self.whole = not unread and _GAP not in whole
        self.kept = True
        return unread, self.whole

    def read(self) -> Iterator[str]:
        """Yield the kept log: the whole file, or the parts uploaded so far."""
        with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
            try:
                path = self._artifacts.download(LOG, folder)
            except Exception:  # there is none yet, in words of the store's own kind
                yield self._uploaded().decode("utf-8", "replace")
                return
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                while piece := file.read(1 << 20):
                    yield piece

    def _uploaded(self) -> bytes:
        """Return the output that the job uploaded, up to the first gap.

        ``log.txt`` is there after an attempt that ended by itself; the parts of a later one go on
        where it stops. Where the job uploads none, it is there of earlier submissions.
        """
        ours = self._artifacts.paths(FOLDER)
        parts = {}
        for path in self._artifacts.paths(PARTS) if self._uploads and PARTS in ours else ():
            match = _PART_NAME.search(path)
            if match:
                parts[int(match.group(1))] = path
        whole = self._artifacts.read(LOG) if LOG in ours else b""
        for offset, path in sorted(parts.items()):
            if offset > len(whole):
                break
            content = self._artifacts.read(path)
            if offset + len(content) > len(whole):
                whole = whole[:offset] + content
        # As the scheduler's own text is read: what is no UTF-8 replaced, half a character not yet.
        return codecs.getincrementaldecoder("utf-8")("replace").decode(whole).encode()

    def _remaining(self, scheduler: Scheduler, handle: JobHandle) -> tuple[bytes, str | None]:
        if self.captured is not None:
            return self.captured.read_bytes(), None
        listed, reason = self._listed, "the scheduler no longer has the job's log"
        try:
            pieces = scheduler.last_logs(handle, listed) if listed else scheduler.logs(handle)
            text = "".join(pieces).encode() or self._spare
            if text or self.cut is None:
                return text, None
        except MlflowExecError as error:
            if self._spare:
                return self._spare, None
            reason = f"{reason}: {error}"
        return b"" if self.cut is None else self.cut.read_bytes(), reason


def _holds_all(tags: Mapping[str, str]) -> bool:
    return tags.get(TAG_LOG_COMPLETE) == "true"


def _has_started(tags: Mapping[str, str]) -> bool:
    """Whether there was an output: its first line is our own."""
    return TAG_ATTEMPT in tags and tags.get(TAG_STATE) != "QUEUED"
