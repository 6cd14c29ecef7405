"""Counts of the scan in a suite: told only where all was looked at that could add to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import scan_settings
from mlflow_exec.evaluation.verdicts import Verdict
from tests.unit.evaluation.test_suite import judged, written

NONE_MAJOR = {"it": {"kind": "threshold", "metric": "scan/n_major", "equals": 0}}


FEW = ["batch_dependence", "stochasticity"]


def total(folder: Path, asked: Any = NONE_MAJOR, **settings: Any) -> Verdict:
    """What becomes of a validation; suite and call name the same few checks."""
    suite = written(folder, asked, scan=settings.pop("of_suite", {"checks": FEW}))
    [found] = judged(suite, **{"checks": FEW, **settings}).verdicts
    return found


def test_what_the_suite_itself_leaves_out_is_not_missed(tmp_path: Path) -> None:
    assert total(tmp_path).passed
    assert total(tmp_path, of_suite={"checks": FEW, "skip": FEW[:1]}).passed


def fails_alone(rows: pd.DataFrame) -> Any:
    """A model that cannot be asked about one row."""
    if len(rows) == 1:
        raise RuntimeError("one row")
    return np.zeros(len(rows), dtype=int)


MISSED: dict[str, tuple[dict[str, Any], str]] = {
    "the time was over": (
        {"time_budget_s": 1e-9},
        "the checks batch_dependence, stochasticity were skipped: the time of 1e-09 s was over",
    ),
    "a check failed": (
        {"predict": fails_alone},
        "the check batch_dependence was skipped: model: it failed on 1 rows: RuntimeError: one row",
    ),
    "skipped by the call": (
        {"skip": ["stochasticity"]}, "the check stochasticity was skipped: by the settings"
    ),
    "left out by the call": (
        {"checks": ["batch_dependence"]}, "the check stochasticity was skipped: by the settings"
    ),
    "all are meant": (
        {"of_suite": {}, "skip": ["drift"]}, "the checks baseline, calibration, data_leakage, drift"
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", MISSED)
def test_a_total_cannot_be_told_where_a_check_was_not_run(tmp_path: Path, why: str) -> None:
    settings, said = MISSED[why]
    found = total(tmp_path, **settings)
    assert not found.passed
    assert found.message.startswith(f"scan/n_major cannot be told: {said}")
    limit = {"kind": "threshold", "metric": "scan/n_skipped", "max": 2}
    assert total(tmp_path, {"it": limit}, **settings).passed  # it counts what was not run


def test_a_check_that_ended_half_way_cannot_be_told(tmp_path: Path) -> None:
    texts = [f"Some text here, row {n}" for n in range(200)]
    data = Data(pd.DataFrame({"text": texts}), np.arange(200) % 2)

    def predict(rows: pd.DataFrame) -> Any:
        if rows["text"].str.isupper().any():
            raise RuntimeError("no capitals")
        return np.zeros(len(rows), dtype=int)

    asked = {"it": {"kind": "threshold", "metric": "scan/robustness/n_major", "equals": 0}}
    suite = written(tmp_path, asked)
    checks = {"robustness": {"perturbations": ["lower", "upper"]}}
    result = scan(data, Model(predict, data), scan_settings({"suite": suite, "checks": checks}))
    assert [check.n_tested for check in result.checks] == [1]
    [found] = result.verdicts
    assert not found.passed
    assert "the check robustness was skipped: model: it failed on 200 rows" in found.message
