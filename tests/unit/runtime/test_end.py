"""The end of a run: written once, in the right order, by whoever comes first."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_exec.runtime.end import (
    FAILURE_TAGS,
    STATUS_OF_STATE,
    TAG_FAILURE_CATEGORY,
    TAG_FAILURE_MESSAGE,
    TAG_LOG_COMPLETE,
    TAG_STATE,
    TAG_STATE_BY,
    End,
    cut,
    end_from_log,
    write_end,
)
from mlflow_exec.runtime.rest import RestRunStore
from mlflow_exec.runtime.tracking_server import TrackingServer
from tests.servers import MlflowServer

SUCCEEDED = End("SUCCEEDED", exit_code=0)
FAILED = End("FAILED", "user_error", "The entry point exited with code 7.", "See the log.", 7)
MEMORY = End("FAILED", "out_of_memory", "OOMKilled.", "Raise the memory.", 137)
CANCELLED = End("CANCELLED", None, "Cancelled.")


@pytest.fixture
def store(tracking_server: MlflowServer) -> RestRunStore:
    return RestRunStore(TrackingServer(tracking_server.url, {}))


@pytest.fixture
def run_id(tracking_server: MlflowServer) -> str:
    return str(tracking_server.create_run()["run_id"])


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, CANCELLED], ids=lambda end: end.state)
@pytest.mark.parametrize("status", ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"])
def test_without_an_end_every_status_is_open(
    store: RestRunStore, run_id: str, end: End, status: str
) -> None:
    store.set_status(run_id, status, None)
    assert write_end(store, run_id, end, "entry")
    record = store.read(run_id)
    assert record.status == STATUS_OF_STATE[end.state]
    assert record.tags[TAG_STATE] == end.state
    assert record.tags.get(TAG_FAILURE_CATEGORY) == end.category


def test_a_run_never_ends_before_it_began_whatever_clocks_say(
    store: RestRunStore, tracking_server: MlflowServer
) -> None:
    in_ten_minutes_ms = int((time.time() + 600) * 1000)
    body = {"experiment_id": "0", "start_time": in_ten_minutes_ms}
    run_id = tracking_server.api("POST", "runs/create", body)["run"]["info"]["run_id"]
    write_end(store, run_id, SUCCEEDED, "entry")
    info = tracking_server.api("GET", f"runs/get?run_id={run_id}")["run"]["info"]
    assert info["end_time"] == in_ten_minutes_ms


def test_a_status_that_is_right_keeps_its_end_time(
    store: RestRunStore, run_id: str, tracking_server: MlflowServer
) -> None:
    store.set_status(run_id, "FINISHED", 12345)
    write_end(store, run_id, SUCCEEDED, "entry")
    info = tracking_server.api("GET", f"runs/get?run_id={run_id}")["run"]["info"]
    assert info["end_time"] == 12345


def test_an_end_is_never_rewritten(store: RestRunStore, run_id: str) -> None:
    write_end(store, run_id, SUCCEEDED, "entry")
    before = store.read(run_id)
    assert not write_end(store, run_id, SUCCEEDED, "entry")
    assert not write_end(store, run_id, FAILED, "client")
    assert not write_end(store, run_id, CANCELLED, "client")
    assert store.read(run_id) == before


def test_after_the_end_a_status_set_by_others_stays(store: RestRunStore, run_id: str) -> None:
    write_end(store, run_id, FAILED, "entry")
    store.set_status(run_id, "RUNNING", None)
    write_end(store, run_id, MEMORY, "client")
    assert store.read(run_id).status == "RUNNING"


def test_a_higher_authority_refines_the_category_once(store: RestRunStore, run_id: str) -> None:
    write_end(store, run_id, FAILED, "entry")
    assert write_end(store, run_id, MEMORY, "client")
    tags = store.read(run_id).tags
    assert (tags[TAG_FAILURE_CATEGORY], tags[TAG_STATE_BY]) == ("out_of_memory", "client")
    assert tags[TAG_FAILURE_MESSAGE] == "OOMKilled."
    assert not write_end(store, run_id, FAILED, "client")
    assert not write_end(store, run_id, FAILED, "entry")
    assert store.read(run_id).tags == tags


def test_a_refined_end_without_a_hint_keeps_no_stale_one(store: RestRunStore, run_id: str) -> None:
    write_end(store, run_id, FAILED, "entry")
    write_end(store, run_id, End("FAILED", "evicted", "Evicted."), "client")
    assert FAILURE_TAGS[2] not in store.read(run_id).tags


def test_success_after_retries_keeps_no_earlier_failure(store: RestRunStore, run_id: str) -> None:
    store.set_tags(run_id, dict.fromkeys(FAILURE_TAGS, "of an earlier attempt"))
    write_end(store, run_id, SUCCEEDED, "entry")
    assert not set(FAILURE_TAGS) & set(store.read(run_id).tags)


def test_long_texts_are_cut_to_the_limit_of_a_tag(store: RestRunStore, run_id: str) -> None:
    write_end(store, run_id, End("FAILED", "user_error", "ä" * 9000), "entry")
    message = store.read(run_id).tags[TAG_FAILURE_MESSAGE]
    assert len(message) == 500
    assert message.endswith("ä…")


@pytest.mark.parametrize("ends", list(itertools.permutations([SUCCEEDED, FAILED, CANCELLED], 2)))
def test_writers_side_by_side_leave_one_consistent_end(
    tracking_server: MlflowServer, ends: tuple[End, End]
) -> None:
    writers = list(zip(ends, ("entry", "client"), strict=True)) * 2
    for _ in range(3):
        run_id = tracking_server.create_run()["run_id"]

        def write(writer: tuple[End, str], run_id: str = run_id) -> bool:
            own = RestRunStore(TrackingServer(tracking_server.url, {}))
            return write_end(own, run_id, *writer)

        with ThreadPoolExecutor(4) as pool:
            assert any(pool.map(write, writers))
        tags = tracking_server.tags(run_id)
        assert tracking_server.status(run_id) == STATUS_OF_STATE[tags[TAG_STATE]]
        end = next(end for end in ends if end.state == tags[TAG_STATE])
        assert tags.get(TAG_FAILURE_CATEGORY) == end.category


@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize("first", [False, True])
def test_a_log_that_one_writer_found_whole_is_whole(
    store: RestRunStore, tracking_server: MlflowServer, run_id: str, writes: int, first: bool
) -> None:
    def other() -> None:
        write_end(store, run_id, FAILED, "client", log_complete=not first)

    store.set_tags(run_id, {TAG_LOG_COMPLETE: "false"})
    slow = InterruptedStore(TrackingServer(tracking_server.url, {}), writes, other)
    write_end(slow, run_id, FAILED, "client", log_complete=first)
    assert slow.left < 0
    assert store.read(run_id).tags[TAG_LOG_COMPLETE] == "true"


def test_that_the_log_is_whole_may_be_told_later(store: RestRunStore, run_id: str) -> None:
    store.set_tags(run_id, {TAG_LOG_COMPLETE: "false"})
    for told, tag in [(False, "false"), (True, "true"), (False, "true")]:
        write_end(store, run_id, FAILED, "client", log_complete=told)
        assert store.read(run_id).tags[TAG_LOG_COMPLETE] == tag


class InterruptedStore(RestRunStore):
    """Lets another writer write all it has to just before one of its own writes."""

    def __init__(self, server: TrackingServer, writes: int, other: Callable[[], None]) -> None:
        super().__init__(server)
        self.left, self._other = writes, other

    def _count(self) -> None:
        if self.left == 0:
            self._other()
        self.left -= 1

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._count()
        super().set_tags(run_id, tags)

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        self._count()
        super().delete_tags(run_id, keys)

    def set_status(self, run_id: str, status: str, end_time_ms: int | None) -> None:
        self._count()
        super().set_status(run_id, status, end_time_ms)


class Dies(Exception):
    """Stands for a writer that is killed."""


def die() -> None:
    raise Dies


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED], ids=lambda end: end.state)
def test_a_writer_that_dies_leaves_the_whole_end_or_an_open_run(
    store: RestRunStore, tracking_server: MlflowServer, end: End
) -> None:
    for writes in itertools.count():
        run_id = str(tracking_server.create_run()["run_id"])
        store.set_tags(run_id, {TAG_FAILURE_CATEGORY: "evicted"})  # of an earlier attempt
        try:
            mortal = InterruptedStore(TrackingServer(tracking_server.url, {}), writes, die)
            write_end(mortal, run_id, end, "entry")
            break
        except Dies:
            assert TAG_STATE not in store.read(run_id).tags, f"after {writes} writes"
    assert writes >= 3
    record = store.read(run_id)
    assert (record.status, record.tags[TAG_STATE]) == (STATUS_OF_STATE[end.state], end.state)
    assert record.tags.get(TAG_FAILURE_CATEGORY) == end.category


def test_an_unknown_writer_is_refused(store: RestRunStore, run_id: str) -> None:
    with pytest.raises(ValueError, match="entry, client; 'user'"):
        write_end(store, run_id, SUCCEEDED, "user")


texts = st.text(max_size=300)
ends = st.builds(
    End,
    st.sampled_from(["SUCCEEDED", "FAILED", "CANCELLED"]),
    st.none() | texts,
    texts,
    texts,
    st.none() | st.integers(0, 255),
)


@given(ends)
def test_an_end_is_read_back_from_the_last_line_of_a_log(end: End) -> None:
    line = end.to_json()
    assert "\n" not in line
    assert end_from_log(f"mlflow-exec-end: {line}\n") == end


@given(ends, st.integers(200, 5000))
def test_a_shortened_end_is_still_valid(end: End, limit_bytes: int) -> None:
    end = End(end.state, "user_error", end.message, end.hint, end.exit_code)
    short = end.to_json(limit_bytes)
    assert len(short.encode()) <= limit_bytes
    assert json.loads(short)["state"] == end.state
    assert end.message.startswith(End.from_json(short).message.rstrip("…"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "trained",
        "mlflow-exec-end: ",
        "mlflow-exec-end: {}",
        "mlflow-exec-retry: {}",
        'mlflow-exec-end: {"state": "RUNNING"}',
        "mlflow-exec-end: [1]",
    ],
)
def test_other_last_lines_tell_no_end(line: str) -> None:
    assert end_from_log(line) is None


@given(texts, st.integers(0, 400))
def test_cutting_respects_the_limit(text: str, limit_chars: int) -> None:
    short = cut(text, limit_chars)
    assert len(short) <= limit_chars or short == text
    assert text.startswith(short[:-1])
