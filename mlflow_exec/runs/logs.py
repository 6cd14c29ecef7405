"""Keeps the whole output of a job on its run, as ``mlflow-exec/log.txt``.

The job's first step uploads it itself where the tracking server passes artifacts on. Where it
could not (another artifact store, a killed container), what it managed to upload is joined here
with what the scheduler still has. A gap is named in the file and in the tag, never silent.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_exec.errors import MlflowExecError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.runtime.end import TAG_LOG_COMPLETE
from mlflow_exec.schedulers.base import Scheduler

FOLDER = "mlflow-exec"
PARTS = f"{FOLDER}/log"
LOG = f"{FOLDER}/log.txt"
_PART_NAME = re.compile(r"(\d{12})\.txt$")
# Long enough that two different places of a log do not look the same, short enough to be found.
_OVERLAP_BYTES = 4096


def join(head: bytes, tail: bytes) -> tuple[bytes, bool]:
    """Join two pieces of one output that overlap, or of which one is part of the other.

    Args:
        head: From the very start.
        tail: Up to the very end.

    Returns:
        The whole, and whether it has no gap; a gap is marked by a line.
    """
    if not head:
        return tail, True
    if not tail:
        return head, True
    # The scheduler often still has all; then a text that repeats itself joins rightly, too.
    if tail.startswith(head):
        return tail, True
    if tail in head:
        return head, True
    end = head[-_OVERLAP_BYTES:]
    place = tail.find(end) if len(end) == _OVERLAP_BYTES else -1
    if place >= 0:
        return head + tail[place + len(end) :], True
    note = b"\nmlflow-exec: here a part of the output is missing\n"
    return head + note + tail, False


class LogKeeper:
    """Puts one job's log on its run.

    Attributes:
        captured: Where a live follower writes the output it sees, from the very start; None where
            nobody does.
        kept: Whether the run holds the log, or all of it that could be had.
    """

    def __init__(self, client: MlflowClient, run_id: str, *, uploads: bool) -> None:
        """Take the run; ``uploads`` says whether the job puts its log there by itself."""
        self._client = client
        self._run_id = run_id
        self._uploads = uploads
        self.captured: Path | None = None
        self.kept = False
        self._spare = b""

    def is_complete(self) -> bool:
        """Whether the run already holds the whole log."""
        tags = self._client.get_run(self._run_id).data.tags
        return bool(tags.get(TAG_LOG_COMPLETE) == "true")

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
        """Make sure that the run holds the log; a log that cannot be had fails nothing.

        Returns:
            What went wrong, as a sentence; None if the log is whole.
        """
        try:
            if self.is_complete():
                self.kept = True
                return None
            head = self._uploaded()
            tail, unread = self._remaining(scheduler, handle)
            whole, complete = join(head, tail)
            self._upload(whole)
            complete = complete and not unread
            told = "true" if complete else "false"
            self._client.set_tag(self._run_id, TAG_LOG_COMPLETE, told)
            self.kept = True
        except Exception as error:  # each artifact store has errors of its own
            return f"the log could not be kept on the run: {error}"
        return unread or (None if complete else "a part of the log is missing")

    def read(self) -> Iterator[str]:
        """Yield the kept log: the whole file, or the parts uploaded so far."""
        try:
            path = self._client.download_artifacts(self._run_id, LOG)
        except (MlflowException, OSError):
            yield self._uploaded().decode("utf-8", "replace")
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            while piece := file.read(1 << 20):
                yield piece

    def _uploaded(self) -> bytes:
        """Return the output that the job uploaded, up to the first gap.

        ``log.txt`` is there after an attempt that ended by itself; the parts of a later one go on
        where it stops.
        """
        if not self._uploads:
            return b""
        parts = {}
        for item in self._client.list_artifacts(self._run_id, PARTS):
            match = _PART_NAME.search(item.path)
            if match:
                parts[int(match.group(1))] = item.path
        whole = b""
        with tempfile.TemporaryDirectory() as folder:
            if any(item.path == LOG for item in self._client.list_artifacts(self._run_id, FOLDER)):
                whole = self._download(LOG, folder)
            for offset, path in sorted(parts.items()):
                if offset > len(whole):
                    break
                content = self._download(path, folder)
                if offset + len(content) > len(whole):
                    whole = whole[:offset] + content
        return whole

    def _download(self, path: str, folder: str) -> bytes:
        return Path(self._client.download_artifacts(self._run_id, path, folder)).read_bytes()

    def _remaining(self, scheduler: Scheduler, handle: JobHandle) -> tuple[bytes, str | None]:
        if self.captured is not None:
            return self.captured.read_bytes(), None
        try:
            return "".join(scheduler.logs(handle)).encode() or self._spare, None
        except MlflowExecError as error:
            if self._spare:
                return self._spare, None
            return b"", f"the scheduler no longer has the job's log: {error}"

    def _upload(self, whole: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.txt"
            path.write_bytes(whole)
            self._client.log_artifact(self._run_id, str(path), FOLDER)
