"""Two views of one log are joined to the whole, or the gap is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from mlflow_exec.errors import UnreachableError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.logs import LOG, LogKeeper, join
from mlflow_exec.runtime.end import GAP_LINE, START_LINE_PREFIX
from tests.servers import mlflow_server

GAP = GAP_LINE.encode() + b"\n"
LOGS = st.integers(0, 400).map(lambda n: b"".join(b"line %06d xxxx\n" % i for i in range(n)))


def attempt(name: str, lines: int) -> bytes:
    """Return the log of one container."""
    return f"{START_LINE_PREFIX}{name}\n".encode() + b"".join(b"%d\n" % i for i in range(lines))


@given(LOGS, st.integers(0, 8000), st.integers(4096, 8000))
def test_pieces_that_overlap_make_the_whole(log: bytes, end: int, overlap: int) -> None:
    head, tail = log[:end], log[max(end - overlap, 0) :]
    assert join(head, tail) == log


@given(LOGS, st.integers(0, 8000), st.integers(0, 8000))
def test_a_piece_of_the_other_adds_nothing(log: bytes, start: int, end: int) -> None:
    assert join(log, log[start:end]) == log
    assert join(log[:end], log) == log


@given(LOGS.filter(lambda log: len(log) > 3000))
def test_a_gap_is_named_in_its_place(log: bytes) -> None:
    head, tail = log[: 17 * 58], log[17 * 116 :]
    assert join(head, tail) == head + GAP + tail


def test_one_side_alone_is_the_whole() -> None:
    assert join(b"", b"all") == b"all"
    assert join(b"all", b"") == b"all"


def test_a_repeated_line_does_not_cut_the_log() -> None:
    dots = b".\n" * 6000
    assert join(dots[:4000], dots) == dots
    assert join(dots[:9000], dots) == dots


def test_what_the_scheduler_no_longer_has_is_taken_from_the_run() -> None:
    log = attempt("one", 9000)
    assert join(log[:30_000], GAP + log[20_000:]) == log
    head = log[: log.index(b"6000\n")]
    assert join(head, GAP + log[40_000:]) == head + GAP + log[40_000:]
    assert join(b"", GAP + log[40_000:]) == GAP + log[40_000:]


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_attempts_are_joined_by_their_first_lines(one: int, two: int, uploaded: int) -> None:
    first, second = attempt("one", one), attempt("two", two)
    # The job uploads all that came so far; a new submission's cluster has only its own.
    head = first + second[: len(attempt("two", 0)) + uploaded]
    assert join(head, second) == first + second
    assert join(first, second) == first + second
    assert join(head, first + second) == first + second
    assert join(head, b"the clone says\n" + second) == first + b"the clone says\n" + second


def test_a_gap_in_a_later_attempt_is_filled_from_the_run() -> None:
    first, second = attempt("one", 10), attempt("two", 9000)
    head, tail = first + second[:30_000], first + GAP + second[20_000:]
    assert join(head, tail) == first + second


class LogsAreGone:
    """Stands for a scheduler that takes its time, and has no log."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    def logs(self, handle: JobHandle) -> Iterator[str]:
        self._meanwhile()
        raise UnreachableError("it does not answer")


def test_what_another_client_keeps_while_the_scheduler_is_asked_stays(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as server:
        client = MlflowClient(server.url)
        run = client.create_run("0")
        artifacts = RunArtifacts(client, run.info.artifact_uri)
        artifacts.write(LOG, attempt("a", 3))
        keeper = LogKeeper(client, run.info.run_id, artifacts, uploads=False)
        scheduler: Any = LogsAreGone(lambda: artifacts.write(LOG, attempt("a", 9)))
        handle = JobHandle.parse("k8s://c/team/mlflow-a-1", "a test")
        assert "does not answer" in str(keeper.keep(scheduler, handle))
        assert artifacts.read(LOG) == attempt("a", 9)
    assert keeper.whole is False
