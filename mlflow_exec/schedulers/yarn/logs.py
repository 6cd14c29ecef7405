"""The output of an application's container: from its node while it runs, aggregated afterwards.

``yarn logs`` reads what is aggregated, because the layout differs between Hadoop's versions and
only Hadoop's own classes know them all. A JVM is started for it, so the node is asked first.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.clients.yarn_cli import yarn_logs
from mlflow_exec.errors import ClusterError, NotFoundError, UnreachableError
from mlflow_exec.runtime.end import END_LINE_PREFIX, RETRY_LINE_PREFIX
from mlflow_exec.schedulers.yarn.nodes import GONE, node_state
from mlflow_exec.schedulers.yarn.recovery import record_of
from mlflow_exec.schedulers.yarn.status import ENDED, has_container

# com.anaconda.skein.ApplicationMaster: the output of the application's script.
LOG_FILE = "application.driver.log"
_TICK_S = 1.0
# Nodes upload a log soon after its application's end, one after the other.
_AGGREGATION_S = 120.0
# A node has a log until it is uploaded, and YARN is told of the upload at the next heartbeat. A
# node that has not had it for so long was started anew.
_FORGOTTEN_S = 10.0
_COMMAND_S = 60.0
# LogsCLI.java and LogCLIHelpers.java.
_NO_SUCH_FILE = "any log file matching the pattern"
# Records of old versions say nothing, and of old applications not what became of their logs.
_UPLOADED = ("SUCCEEDED", "N/A", "")
# What a record says of a log that no upload is to be expected of any more.
_NO_UPLOAD = {
    "DISABLED": "log aggregation is off (yarn.log-aggregation-enable)",
    "FAILED": "its aggregation failed",
    "TIME_OUT": "its node did not upload it",
}
_TAIL_BYTES = 64 * 1024
_CONTAINER_LOGS = re.compile(r"^https?://([^/]+)/node/containerlogs/(container_[^/]+)/")
_RETRY_MARK = RETRY_LINE_PREFIX.encode()
_END_MARK = END_LINE_PREFIX.encode()

Json = Mapping[str, Any]


def container_of(record: Json) -> tuple[str, str] | None:
    """Return the web address of the node, and the id, of an application's container."""
    match = _CONTAINER_LOGS.match(str(record.get("amContainerLogs") or ""))
    return (match.group(1), match.group(2)) if match else None


def has_output(manager: ResourceManager, record: Json) -> bool:
    """Whether the application's script has begun, as its node tells."""
    place = container_of(record)
    if place is None:
        return False
    try:
        files = manager.container_files(*place, str(record.get("user")))
    except ClusterError:
        return False
    return any(name == LOG_FILE and size_bytes > 0 for name, size_bytes in files)


class ApplicationLog:
    """Reads one application's log in order, once, from wherever it is at the moment."""

    def __init__(self, manager: ResourceManager, config: HadoopConfig, application_id: str) -> None:
        self._manager = manager
        self._config = config
        self._id = application_id
        self._read_bytes = 0
        self._tail = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pieces(self, *, follow: bool) -> Iterator[str]:
        """Yield the output; with ``follow`` until the application has ended.

        Raises:
            NotFoundError: The end of the log is not to be had, or the application is gone.
            UnreachableError: The cluster does not answer, and ``follow`` is false.
        """
        while True:
            try:
                record = record_of(self._manager, self._id)
                ended = str(record.get("state")) in ENDED
                if not ended:
                    with suppress(NotFoundError):  # not there yet, or it has just ended
                        yield from self._from_node(record)
                    if not follow:
                        return
            except UnreachableError:
                if not follow:
                    raise
                ended = False
            if ended:
                yield from self.of_ended(record)
                return
            time.sleep(_TICK_S)  # the pause between two questions; nodes have no stream

    def of_ended(self, record: Json) -> Iterator[str]:
        """Yield what was not read yet of the output of an application that has ended.

        Args:
            record: Its own, as the ResourceManager told it after its end.

        Raises:
            NotFoundError: The end of the log is not to be had.
        """
        yield from self._to_the_end(self._rest(record))

    def forgotten(self) -> Iterator[str]:
        """Yield the log of an application that YARN knows no more, from where it was gathered.

        Raises:
            NotFoundError: It is not there.
        """
        own = {"user": self._manager.login.effective_user}
        yield from self._to_the_end(self._aggregated(own))

    def _to_the_end(self, rest: Iterator[str]) -> Iterator[str]:
        """Yield the rest of the output, and what half a character there is at its end."""
        yield from rest
        if final := self._decoder.decode(b"", final=True):
            yield final

    def _from_node(self, record: Json) -> Iterator[str]:
        """Yield what the node has beyond what was read.

        Raises:
            NotFoundError: The node does not have the log (any more), or there is no node.
            UnreachableError: The node does not answer.
        """
        place = container_of(record)
        if place is None:
            raise NotFoundError(f"{self._id}: it has no container")
        pieces = self._manager.container_log(*place, LOG_FILE, start_byte=self._read_bytes)
        yield from self._taken(pieces)

    def _taken(self, pieces: Iterator[bytes]) -> Iterator[str]:
        for piece in pieces:
            self._read_bytes += len(piece)
            self._tail = (self._tail + piece)[-_TAIL_BYTES:]
            if text := self._decoder.decode(piece):
                yield text

    def _rest(self, record: Json) -> Iterator[str]:
        """Yield the end of an application's log, when its node or HDFS has all of it.

        Raises:
            NotFoundError: Neither has it in time.
        """
        if not has_container(record):
            # It never ran; all that YARN has to say is in the record.
            if record.get("diagnostics"):
                yield f"{str(record['diagnostics']).strip()}\n"
            return
        since_s = time.monotonic()
        while True:
            trouble: ClusterError | None = None
            uploaded = str(record.get("logAggregationStatus") or "")
            try:
                if uploaded in _UPLOADED:
                    yield from self._aggregated(record)
                    return
                runs = self._still_runs(record)  # asked before, as its last lines come after
                yield from self._from_node(record)
                if not runs:
                    return
            except NotFoundError as error:
                if uploaded == "SUCCEEDED" and self._wrote_nothing(error):
                    return  # its container never got as far
                trouble = error
            except UnreachableError as error:
                trouble = error
            if self._is_whole():
                return
            waited_s = time.monotonic() - since_s
            if trouble is not None and self._node_has_lost_it(record, trouble, waited_s):
                yield from self._aggregated(record)  # before it could say so
                return
            if uploaded in _NO_UPLOAD or waited_s > _AGGREGATION_S:
                why = _NO_UPLOAD.get(uploaded) or f"it was not aggregated in {_AGGREGATION_S:g} s"
                raise NotFoundError(
                    f"{self._id}: the end of its log cannot be had: {why}: "
                    f"{trouble or 'its container still runs'}"
                ) from trouble
            time.sleep(_TICK_S)  # the pause between two questions for an upload
            record = record_of(self._manager, self._id)

    def _wrote_nothing(self, error: NotFoundError) -> bool:
        """Whether the application's logs are there, and none of them is the script's."""
        return self._read_bytes == 0 and _NO_SUCH_FILE in str(error)

    def _is_whole(self) -> bool:
        """Whether the last line that was read is the one by which the first step ends its log."""
        lines = self._tail.rstrip(b"\n").rsplit(b"\n", 1)
        return self._tail.endswith(b"\n") and lines[-1].startswith(_END_MARK)

    def _node_has_lost_it(self, record: Json, trouble: ClusterError, waited_s: float) -> bool:
        """Whether no upload is to be expected of the node: it, or what it knew, is gone."""
        if isinstance(trouble, UnreachableError):
            return node_state(self._manager, record) in GONE
        return waited_s > _FORGOTTEN_S

    def _still_runs(self, record: Json) -> bool:
        """Whether an ended application's container may still write."""
        place = container_of(record)
        if record.get("state") == "FINISHED" or place is None:
            return False  # its master waited for the script
        return self._manager.container_runs(*place)

    def _aggregated(self, record: Json) -> Iterator[str]:
        """Yield what is aggregated beyond what was read."""
        output = yarn_logs(
            self._config, self._id, owner=str(record.get("user")), file=LOG_FILE,
            timeout_s=_COMMAND_S, login=self._manager.login,
        )  # fmt: skip
        skip = self._read_bytes
        for piece in contents(output):
            new = piece[skip:]
            skip = max(0, skip - len(piece))
            yield from self._taken(iter([new] if new else []))


def contents(output: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of `LOG_FILE` in the output of ``yarn logs``.

    https://github.com/apache/hadoop/blob/rel/release-3.4.1/hadoop-yarn-project/hadoop-yarn/
    hadoop-yarn-common/src/main/java/org/apache/hadoop/yarn/logaggregation/LogToolUtils.java
    """
    heading: dict[bytes, bytes] = {}
    left_bytes, wanted, buffer = 0, False, b""
    for piece in output:
        buffer += piece
        while buffer:
            if left_bytes:
                part, buffer = buffer[:left_bytes], buffer[left_bytes:]
                left_bytes -= len(part)
                if wanted:
                    yield part
                continue
            line, newline, rest = buffer.partition(b"\n")
            if not newline:
                break
            buffer = rest
            key, _, value = line.partition(b":")
            if key in (b"LogType", b"LogLength"):
                heading[key] = value.strip()
            elif key == b"LogContents" and heading.get(b"LogLength", b"").isdigit():
                left_bytes = int(heading.pop(b"LogLength"))
                wanted = heading.pop(b"LogType", b"") == LOG_FILE.encode()
    if left_bytes and wanted:
        raise UnreachableError("yarn logs: its output ends in the middle of a log")


def read_end(
    manager: ResourceManager, config: HadoopConfig, application_id: str
) -> tuple[str, int]:
    """Return the end of an ended application's log, and how often its entry point ran again.

    Empty and 0 where the log cannot be had.
    """
    count, line_start, tail = 0, b"\n", ""
    try:
        for piece in ApplicationLog(manager, config, application_id).pieces(follow=False):
            text = line_start + piece.encode()
            count += text.count(b"\n" + _RETRY_MARK)
            line_start = text[-len(_RETRY_MARK) :]
            tail = (tail + piece)[-_TAIL_BYTES:]
    except ClusterError:
        return "", count  # half of it tells nothing of the end
    return tail, count
