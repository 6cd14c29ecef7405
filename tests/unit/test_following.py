"""What the one who waits for a job sees of its log, whenever and in however many pieces it comes.

The run is a real MLflow's; the scheduler stands in for one whose stream is late or breaks off.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from mlflow_exec.errors import UnreachableError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.runs import following
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.following import FollowedLog
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.logs import LOG
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runtime.end import START_LINE_PREFIX
from tests.servers import mlflow_server

EARLIER = f"{START_LINE_PREFIX}one\nearlier\n"
BEGINNING = f"{START_LINE_PREFIX}two\n  0%\r 50%\r"
END = "100% ü\nhello\n"


class Stream:
    """Stands for a scheduler that has the beginning of a log, and then what is to come."""

    def __init__(self, then: Callable[[], str]) -> None:
        self._then = then

    def logs(self, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        """Yield the beginning, and the rest when it comes."""
        yield BEGINNING
        yield self._then()


class Waits:
    """A reader in a terminal, and the run of the job that it waits for."""

    def __init__(self, client: MlflowClient, folder: Path) -> None:
        self.seen: list[str] = []
        self.told = io.StringIO()
        self.run_id = client.create_run("0").info.run_id
        self.artifacts = RunArtifacts(client, folder.as_uri())
        self._client = client

    def follow(
        self, scheduler: Any, kept: str, on_log: Any = None, *, submission: int = 1
    ) -> str:
        """Follow a job to its end, when the run keeps that; return what was told besides."""
        handle = JobHandle.parse(f"k8s://c/team/mlflow-{self.run_id}-{submission}", "a test")
        settings: Any = None
        job = Job(
            scheduler, handle, self.run_id, settings, self._client, True, True, self.artifacts
        )
        progress = Progress(Console(file=self.told, soft_wrap=True))
        with FollowedLog(job, job.log_keeper(), on_log or self.seen.append, progress) as log:
            log.flush()
            if kept:
                self.artifacts.write(LOG, kept.encode())
            log.show_rest()
        return self.told.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    with mlflow_server(tmp_path_factory.mktemp("following")) as server:
        yield MlflowClient(server.url)


@pytest.fixture
def waits(client: MlflowClient, tmp_path: Path) -> Waits:
    return Waits(client, tmp_path)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """The end of a log that comes later than anybody waits for it."""
    monkeypatch.setattr(following, "_FLUSH_S", 0.01)
    monkeypatch.setattr(following, "_SOON_S", 0.01)
    comes = threading.Event()

    def end() -> str:
        comes.wait()
        return END

    yield end
    comes.set()


def breaks_off() -> str:
    raise UnreachableError("the connection is gone")


class Nothing:
    """Stands for a scheduler that has no log yet, and then does not answer."""

    def logs(self, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        """Yield nothing."""
        yield from ()
        raise UnreachableError("the connection is gone")


def test_a_log_that_comes_in_time_is_shown_as_it_comes(waits: Waits) -> None:
    assert waits.follow(Stream(lambda: END), "") == ""
    assert waits.seen == [BEGINNING, END]


def test_an_end_that_comes_late_is_shown_from_the_run(
    waits: Waits, late: Callable[[], str]
) -> None:
    told = waits.follow(Stream(late), EARLIER + BEGINNING + END)
    assert waits.seen == [BEGINNING, END]
    assert told == "mlflow-exec: the job has ended; waiting for the end of its log\n"


def test_the_end_of_a_log_that_breaks_off_is_shown_from_the_run(waits: Waits) -> None:
    assert waits.follow(Stream(breaks_off), EARLIER + BEGINNING + END) == ""
    assert waits.seen == [BEGINNING, END]


@pytest.mark.parametrize("kept", ["", EARLIER])
def test_an_end_that_nobody_has_is_told_with_the_way_to_what_there_is(
    waits: Waits, kept: str
) -> None:
    told = waits.follow(Stream(breaks_off), kept)
    assert waits.seen == [BEGINNING]
    assert "may lack its end" in told
    assert f"mlflow-exec logs {waits.run_id}" in told


def test_a_log_that_ends_where_it_broke_off_is_shown_once(waits: Waits) -> None:
    assert waits.follow(Stream(breaks_off), EARLIER + BEGINNING) == ""
    assert waits.seen == [BEGINNING]


@pytest.mark.parametrize("then", [lambda: END, breaks_off])
def test_a_reader_that_has_gone_is_shown_no_more(waits: Waits, then: Callable[[], str]) -> None:
    def closed(piece: str) -> None:
        waits.seen.append(piece)
        raise BrokenPipeError

    assert waits.follow(Stream(then), BEGINNING + END, closed) == ""
    assert waits.seen == [BEGINNING]


def test_of_a_job_of_which_nothing_was_shown_all_is(waits: Waits) -> None:
    assert waits.follow(Nothing(), BEGINNING + END) == ""
    assert waits.seen == [BEGINNING + END]


def test_the_log_of_the_job_before_is_not_shown_again(waits: Waits) -> None:
    told = waits.follow(Nothing(), BEGINNING + END, submission=2)
    assert waits.seen == []
    assert f"mlflow-exec logs {waits.run_id}" in told
