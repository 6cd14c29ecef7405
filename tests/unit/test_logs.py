"""Two views of one log are joined to the whole, or the gap is named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlflow_exec.runs.logs import join

GAP = b"a part of the output is missing"
LOGS = st.integers(0, 400).map(lambda n: b"".join(b"line %06d xxxx\n" % i for i in range(n)))


@given(LOGS, st.integers(0, 8000), st.integers(4096, 8000))
def test_pieces_that_overlap_make_the_whole(log: bytes, end: int, overlap: int) -> None:
    head, tail = log[:end], log[max(end - overlap, 0) :]
    assert join(head, tail) == (log, True)


@given(LOGS, st.integers(0, 8000), st.integers(0, 8000))
def test_a_piece_of_the_other_adds_nothing(log: bytes, start: int, end: int) -> None:
    assert join(log, log[start:end]) == (log, True)
    assert join(log[:end], log) == (log, True)


@given(LOGS.filter(lambda log: len(log) > 3000))
def test_a_gap_is_named_in_its_place(log: bytes) -> None:
    head, tail = log[:1000], log[2000:]
    whole, complete = join(head, tail)
    assert not complete
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert GAP in whole[len(head) : -len(tail)]


def test_one_side_alone_is_the_whole() -> None:
    assert join(b"", b"all") == (b"all", True)
    assert join(b"all", b"") == (b"all", True)


def test_a_repeated_line_does_not_cut_the_log() -> None:
    dots = b".\n" * 6000
    assert join(dots[:4000], dots) == (dots, True)
    assert join(dots[:9000], dots) == (dots, True)
