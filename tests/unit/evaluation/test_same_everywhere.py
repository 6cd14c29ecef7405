"""The same result with pandas 2 and 3, numpy 1.26 and 2: CI runs this in an environment of each.

The newest versions are in `constraints.txt`, the oldest in `constraints-oldest.txt`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_exec.evaluation.registry import CHECKS
from tests.unit.evaluation.integer_data import EXPECTED, RESULTS, plain

_TOLERANCE = 1e-9


def differences(found: Any, expected: Any, place: str) -> list[str]:
    """Where two JSON values differ, numbers by more than the tolerance."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        keys = expected.keys()
        return [d for k in keys for d in differences(found[k], expected[k], f"{place}.{k}")]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [d for n, (f, e) in pairs for d in differences(f, e, f"{place}[{n}]")]
    if isinstance(expected, float) and isinstance(found, float):
        expected = pytest.approx(expected, rel=_TOLERANCE, abs=_TOLERANCE)
    return [] if found == expected else [f"{place}: {found!r}, not {expected!r}"]


@pytest.mark.parametrize("name", RESULTS)
def test_a_scan_has_the_result_that_is_stored(name: str) -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))[name]
    assert differences(plain(RESULTS[name]()), expected, name) == []


def test_every_check_has_a_stored_finding() -> None:
    stored = json.loads(EXPECTED.read_text(encoding="utf-8")).values()
    assert {finding["check"] for result in stored for finding in result["findings"]} == set(CHECKS)
