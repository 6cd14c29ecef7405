"""Keeps the job's log beside its run while it grows.

Parts are artifacts ``mlflow-exec/log/<offset>.txt``, the offset of their first byte in 12 digits:
put in order they are a prefix of the log, and a gap shows. At the end the whole log becomes
``mlflow-exec/log.txt`` and the parts go. The log of a run goes on over its attempts: a later
container first fetches what earlier ones left and appends to it.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from typing import IO, List, Optional

from .end import GAP_LINE
from .job_log import JobLog
from .rest import ArtifactRoot
from .tracking_server import RequestError

LOG_ARTIFACT = "mlflow-exec/log.txt"
PARTS_FOLDER = "mlflow-exec/log"

_PART_PATIENCE_S = 5.0
# The whole log is retried for this many intervals.
_WHOLE_PATIENCE_INTERVALS = 3
_DELETE_BUDGET_S = 60.0
_STOP_PATIENCE_S = 60.0
# A job that prints all day would leave thousands of parts: every 100 parts the pace slows down.
_PARTS_PER_PACE = 100
_LONGEST_INTERVAL_S = 60.0


def part_path(offset_bytes: int) -> str:
    """Return the artifact path of the part that starts at the offset."""
    return f"{PARTS_FOLDER}/{offset_bytes:012d}.txt"


class LogUpload:
    """Uploads a growing log in parts, in a thread of its own.

    Never blocks the writer and never fails the job: what could not be uploaded is tried again
    with the next part.

    Args:
        artifacts: The run's artifacts.
        log: The log.
        interval_s: Seconds between parts.
        part_bytes: The largest part; that many new bytes do not wait for the interval.
    """

    def __init__(
        self, artifacts: ArtifactRoot, log: JobLog, interval_s: float, part_bytes: int
    ) -> None:
        self.failures = 0
        self.last_error = ""
        self._artifacts = artifacts
        self._log = log
        self._interval_s = interval_s
        self._part_bytes = part_bytes
        self._earlier: Optional[IO[bytes]] = None
        self._earlier_bytes = 0
        self._parts: List[str] = []
        self._sent_bytes = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="log-upload", daemon=True)

    def continue_earlier(self, path: str, patience_s: float) -> bool:
        """Fetch what earlier attempts of the run left; this log is then appended to it.

        Args:
            path: A file for the earlier log.
            patience_s: How long each request is retried.

        Returns:
            Whether parts of the earlier log are missing in between.

        Raises:
            RequestError: It could not be fetched; uploading now would overwrite it.
        """
        out = open(path, "w+b")  # noqa: SIM115 - lives as long as the uploads
        self._earlier = out
        folder, _, name = LOG_ARTIFACT.rpartition("/")
        if name in self._artifacts.list(folder, patience_s):
            self._artifacts.get(LOG_ARTIFACT, out, patience_s)
        gap = False
        for name in self._artifacts.list(PARTS_FOLDER, patience_s):
            offset = int(name.split(".")[0]) if name.split(".")[0].isdigit() else -1
            if offset < 0:
                continue
            self._parts.append(f"{PARTS_FOLDER}/{name}")
            end = out.seek(0, os.SEEK_END)
            if offset < end:
                continue
            if offset > end:
                gap = True
                out.write(
                    f"\nmlflow-exec: {offset - end} bytes of the log are lost here\n".encode()
                )
            self._artifacts.get(f"{PARTS_FOLDER}/{name}", out, patience_s)
        self._earlier_bytes = out.seek(0, os.SEEK_END)
        out.seek(0)
        return gap or any(line.rstrip(b"\n") == GAP_LINE.encode() for line in out)

    def start(self) -> None:
        """Begin to upload."""
        self._log.on_growth.append(self._grown)
        self._thread.start()

    def finish(self, quickly: bool) -> bool:
        """Stop the thread, upload the whole log as one artifact and delete the parts.

        Args:
            quickly: The container may be killed at any moment: save the newest part first.

        Returns:
            Whether the whole log is there; otherwise the parts stay.
        """
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_PATIENCE_S)
        if self._thread.is_alive():
            return False
        if quickly:
            self._send_all()
        try:
            self._put_whole()
        except (RequestError, OSError) as error:
            self._failed(error)
            if not quickly:
                self._send_all()
            return False
        self._delete_parts()
        return True

    def _grown(self, size_bytes: int) -> None:
        if size_bytes - self._sent_bytes >= self._part_bytes:
            self._wake.set()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            pace = 1 + len(self._parts) // _PARTS_PER_PACE
            longest_s = max(_LONGEST_INTERVAL_S, self._interval_s)
            self._wake.wait(min(self._interval_s * pace, longest_s))
            self._wake.clear()
            if not self._stopping.is_set() and not self._send_all():
                self._stopping.wait(self._interval_s)

    def _send_all(self) -> bool:
        """Upload what is new, in parts; return whether all of it is there."""
        try:
            while self._sent_bytes < self._log.size_bytes:
                self._send_part()
        except (RequestError, OSError) as error:
            self._failed(error)
            return False
        return True

    def _send_part(self) -> None:
        if self._log.path is None:
            return
        start = self._sent_bytes
        with open(self._log.path, "rb") as file:
            file.seek(start)
            data = file.read(min(self._part_bytes, self._log.size_bytes - start))
        path = part_path(self._earlier_bytes + start)
        self._artifacts.put(path, io.BytesIO(data), len(data), _PART_PATIENCE_S)
        self._parts.append(path)
        self._sent_bytes = start + len(data)

    def _put_whole(self) -> None:
        if self._log.path is None:
            raise OSError("there is no log file")
        with contextlib.ExitStack() as stack:
            whole: IO[bytes] = stack.enter_context(open(self._log.path, "rb"))
            size_bytes = self._log.size_bytes
            if self._earlier is not None and self._earlier_bytes:
                self._append_to_earlier()
                whole, size_bytes = self._earlier, self._earlier.seek(0, os.SEEK_END)
            whole.seek(0)
            patience_s = max(_WHOLE_PATIENCE_INTERVALS * self._interval_s, _PART_PATIENCE_S)
            self._artifacts.put(LOG_ARTIFACT, whole, size_bytes, patience_s)

    def _append_to_earlier(self) -> None:
        if self._earlier is None or self._log.path is None:
            return
        self._earlier.seek(self._earlier_bytes)
        self._earlier.truncate()
        with open(self._log.path, "rb") as own:
            for chunk in iter(lambda: own.read(1024 * 1024), b""):
                self._earlier.write(chunk)
        self._earlier.flush()

    def _delete_parts(self) -> None:
        stop_at = time.monotonic() + _DELETE_BUDGET_S
        for path in self._parts:
            try:
                self._artifacts.delete(path, _PART_PATIENCE_S)
            except RequestError as error:
                # Not every store can delete, or allows it; the parts only repeat the log.
                self._failed(error)
                if error.status != 404:
                    return
            if time.monotonic() > stop_at:
                return

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self.last_error = str(error)
