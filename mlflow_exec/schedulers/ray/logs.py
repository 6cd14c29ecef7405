"""The output of a job's driver, from the log folder of the node that it runs on."""

from __future__ import annotations

import codecs
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mlflow_exec.clients.ray import NODE_GONE, RayClient, RayStream
from mlflow_exec.errors import ClusterError, NotFoundError, UnreachableError
from mlflow_exec.runtime.end import RETRY_LINE_PREFIX
from mlflow_exec.schedulers.ray.status import STATES

# How often a followed job is asked whether it has ended, because its log stream does not say so.
_ASK_S = 1.0
_RETRY_S = 0.5
_QUEUED_PIECES = 256
_RETRY_MARK = RETRY_LINE_PREFIX.encode()


def log_tail(client: RayClient, record: Mapping[str, Any], lines: int) -> str:
    """Return the last lines of a job's log; empty where they cannot be read."""
    node_id = record.get("driver_node_id")
    if not node_id:
        return ""
    try:
        stream = client.stream_log(node_id, _file(record), follow=False, lines=lines)
        with stream:
            return b"".join(stream).decode("utf-8", "replace")
    except ClusterError:
        return ""


def count_retries(client: RayClient, record: Mapping[str, Any]) -> int:
    """Return how often the first step started the entry point again, as its log tells."""
    node_id = record.get("driver_node_id")
    if not node_id:
        return 0
    count, line_start = 0, b"\n"
    try:
        with client.stream_log(node_id, _file(record), follow=False) as stream:
            for piece in stream:
                text = line_start + piece
                count += text.count(b"\n" + _RETRY_MARK)
                line_start = text[-len(_RETRY_MARK) :]
    except ClusterError:
        return 0  # the number of starts is told by the run's tags, too
    return count


def _file(record: Mapping[str, Any]) -> str:
    # JOB_LOGS_PATH_TEMPLATE in python/ray/dashboard/modules/job/common.py
    return f"job-driver-{record['submission_id']}.log"


class DriverLog:
    """Reads one job's log in order, once, whatever happens to the connection.

    Every connection begins at the start of the file; what was already read is skipped by its
    number of bytes. After the job's end the file is read once more for what came last.
    """

    def __init__(self, client: RayClient, submission_id: str) -> None:
        self._client = client
        self._id = submission_id
        self._read_bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pieces(self, *, follow: bool) -> Iterator[str]:
        """Yield the output; with ``follow`` until the job has ended or is unknown.

        Raises:
            NotFoundError: The job's node is gone, and nothing was read before; or the job is gone
                while it was followed, and the end of its log with it.
        """
        while True:
            try:
                record = self._client.job(self._id)
                if record is None and self._read_bytes:
                    raise NotFoundError(f"{self._id}: gone, and the end of its log with it")
                if record is None:
                    return
                if not follow or STATES[record["status"]].is_final:
                    yield from self._rest(record)
                    return
                if record.get("driver_node_id"):
                    with suppress(NotFoundError):  # its node is gone; soon the record says so, too
                        yield from self._live(record)
            except UnreachableError:
                if not follow:
                    raise
            time.sleep(_RETRY_S)  # between two connections, or until the job has a node

    def _rest(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Yield what the file holds now beyond what was read."""
        node_id = record.get("driver_node_id")
        if not node_id:
            # It never ran; all that Ray has to say is in the record.
            if STATES[record["status"]].is_final and record.get("message"):
                yield f"{record['message']}\n"
            return
        try:
            with self._client.stream_log(node_id, _file(record), follow=False) as stream:
                yield from self._fresh(stream)
        except ClusterError as error:
            if error.reason == NODE_GONE:
                self._refuse_if_unread(error)
            else:
                yield from self._by_jobs_api(error)
        if final := self._decoder.decode(b"", final=True):
            yield final

    def _refuse_if_unread(self, error: ClusterError) -> None:
        """Say that the log is lost, unless a live reader has had it till the node's end."""
        if self._read_bytes == 0:
            lost = f"{error}; the node that the job ran on is gone, and the log with it"
            raise NotFoundError(lost, status=error.status, reason=error.reason) from error

    def _by_jobs_api(self, error: ClusterError) -> Iterator[str]:
        """Yield the rest by the other way there is: whole, in one answer, for text alone."""
        try:
            content = self._client.job_log(self._id).encode("utf-8", "replace")
        except ClusterError:
            raise error from None
        yield from self._fresh([content])

    def _fresh(self, stream: RayStream | list[bytes]) -> Iterator[str]:
        skip = self._read_bytes
        for piece in stream:
            new = piece[skip:]
            skip = max(0, skip - len(piece))
            self._read_bytes += len(new)
            if text := self._decoder.decode(new):
                yield text

    def _live(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Yield what comes until the job has ended or the connection has broken."""
        pieces: queue.Queue[bytes | None] = queue.Queue(_QUEUED_PIECES)
        over = threading.Event()
        stream = self._client.stream_log(record["driver_node_id"], _file(record), follow=True)
        reader = threading.Thread(target=_pump, args=(stream, pieces, over), daemon=True)
        reader.start()
        try:
            yield from self._fresh_until_end(pieces)
        finally:
            over.set()
            stream.interrupt()
            reader.join(timeout=5)

    def _fresh_until_end(self, pieces: queue.Queue[bytes | None]) -> Iterator[str]:
        skip = self._read_bytes
        asked_s = time.monotonic()
        while True:
            try:
                piece = pieces.get(timeout=_ASK_S)
            except queue.Empty:
                piece = b""
            if piece is None:
                return
            new = piece[skip:]
            skip = max(0, skip - len(piece))
            self._read_bytes += len(new)
            if text := self._decoder.decode(new):
                yield text
            if time.monotonic() - asked_s >= _ASK_S:
                asked_s = time.monotonic()
                record = self._client.job(self._id)
                if record is None or STATES[record["status"]].is_final:
                    return


def _pump(
    stream: RayStream, pieces: queue.Queue[bytes | None], over: threading.Event
) -> None:
    """Move the stream's pieces to the queue; None at its end, be it broken or not."""
    try:
        with stream:
            for piece in stream:
                while not over.is_set():
                    try:
                        pieces.put(piece, timeout=_ASK_S)
                        break
                    except queue.Full:
                        continue
    except UnreachableError:
        pass  # the reader of the queue connects again
    while not over.is_set():
        try:
            pieces.put(None, timeout=_ASK_S)
            return
        except queue.Full:
            continue
