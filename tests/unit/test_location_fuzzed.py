"""The laws of `Location` on all that was found so far, and on what is made up now.

`make fuzz` looks for longer. Where atheris has no wheel for this Python, hypothesis alone does it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.location import check

ROOT = Path(__file__).resolve().parents[2]
CORPUS = sorted((ROOT / "tests" / "fuzz" / "corpus").iterdir())
SEEDS = [path.read_bytes() for path in CORPUS]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_laws_hold_for_what_was_found(path: Path) -> None:
    check(path.read_bytes())


@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.binary(max_size=12), st.data())
@settings(max_examples=500, deadline=None)
def test_the_laws_hold_for_what_is_near_to_it(
    one: bytes, other: bytes, put_in: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(one)))
    after = data.draw(st.integers(0, len(other)))
    check(one[:at] + put_in + other[after:])


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_the_laws_hold_for_any_bytes(text: bytes) -> None:
    check(text)


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python")
def test_atheris_finds_nothing_in_some_seconds(tmp_path: Path) -> None:
    words = [
        sys.executable, "-W", "ignore", "-m", "tests.fuzz.run", "-seed=1", "-runs=30000",
        "-max_total_time=15", "-max_len=512", f"-dict={ROOT}/tests/fuzz/tokens.dict",
        f"-artifact_prefix={tmp_path}/", str(tmp_path), str(CORPUS[0].parent),
    ]  # fmt: skip
    done = subprocess.run(
        words, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
