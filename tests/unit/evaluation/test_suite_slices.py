"""The slices of suites: each row counts somewhere, and conditions fit their feature's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import scan_settings
from mlflow_exec.evaluation.suite.reading import read_suite
from mlflow_exec.evaluation.suite.slicing import named_slice, slices_by
from mlflow_exec.evaluation.verdicts import Verdict
from tests.unit.evaluation.test_suite import written

N_ROWS = 120
POSITIONS = np.arange(N_ROWS)
FRAME = pd.DataFrame({
    "number": POSITIONS.astype(float),
    "city": np.where(POSITIONS % 2, "Ulm", "Bonn"),
    "member": POSITIONS % 3 == 0,
    "time": pd.date_range("2020-01-01", periods=N_ROWS),
    "one_time": pd.Timestamp("2020-01-01"),
    "list": [[n] for n in POSITIONS],
    "empty": [None] * N_ROWS,
    "text": [f"text {n}" for n in POSITIONS],
    "code": pd.Categorical(POSITIONS % 4),
})  # fmt: skip


def judged(folder: Path, validation: dict[str, Any], frame: pd.DataFrame, labels: Any,
           slices: Any = None) -> Verdict:  # fmt: skip
    """What becomes of one validation of a model that always says 0."""
    suite = written(folder, {"it": validation}, **({"slices": slices} if slices else {}))
    data = Data(frame, labels)
    model = Model(lambda rows: np.zeros(len(rows), dtype=int), data, classes=[0, 1])
    [found] = scan(data, model, scan_settings({"suite": suite, "checks": []})).verdicts
    return found


GROUPS = {
    "texts": pd.Series(np.where(POSITIONS % 3, "x", "y")).where(POSITIONS < 90, None),
    "few numbers": pd.Series(np.where(POSITIONS < 90, POSITIONS % 3, np.nan)),
    "many numbers": pd.Series(np.where(POSITIONS < 90, POSITIONS, np.nan)),
    "times": FRAME["time"].where(POSITIONS < 90),
}


@pytest.mark.parametrize("group", GROUPS)
def test_rows_without_a_value_are_a_slice_of_a_spread(tmp_path: Path, group: str) -> None:
    frame = FRAME[["number"]].assign(group=GROUPS[group].to_numpy())
    labels = (POSITIONS >= 90).astype(int)
    block = {"kind": "spread", "metric": "accuracy", "by": "group", "max_gap": 0.5}
    found = judged(tmp_path, block, frame, labels)
    assert not found.passed
    assert found.details["slices"]["group is missing"] == 0
    assert found.details["gap"] == 1


@pytest.mark.parametrize("n_infinite", [0, 50])
def test_each_row_is_in_one_slice(n_infinite: int) -> None:
    values = np.where(N_ROWS - n_infinite > POSITIONS, POSITIONS, np.inf)
    values[::10] = np.nan
    masks = slices_by(Data(pd.DataFrame({"a": values})), "a").values()
    assert np.sum(list(masks), axis=0).tolist() == [1] * N_ROWS


def test_few_rows_do_not_decide(tmp_path: Path) -> None:
    slices = {"few": {"column": "number", "low": 101}, "enough": {"column": "number", "low": 100}}
    block = {"kind": "threshold", "metric": "accuracy", "min": 0.9, "slice": "few"}
    labels = np.zeros(N_ROWS, dtype=int)
    found = judged(tmp_path, block, FRAME[["number"]], labels, slices)
    assert not found.passed
    assert found.message == (
        "accuracy cannot be told: 19 rows of few are too few; 20 are needed (min_rows)"
    )
    assert judged(tmp_path, {**block, "min_rows": 19}, FRAME[["number"]], labels, slices).passed
    enough = {**block, "slice": "enough"}
    assert judged(tmp_path, enough, FRAME[["number"]], labels, slices).passed


# What a condition as YAML holds for: so many rows, or why it does not fit.
CONDITIONS: dict[str, int | str] = {
    "{column: number, low: 5}": N_ROWS - 5,
    "{column: number, value: 5}": 1,
    "{column: number, value: '5'}": (
        "'number' is compared with a number; given value: '5', a text"
    ),
    "{column: number, low: 2020-02-01}": (
        "'number' is compared with a number; given low: 2020-02-01, a date"
    ),
    "{column: number, value: true}": "given value: True, true or false",
    "{column: time, low: 2020-02-01, high: 2020-03-01}": 29,
    "{column: time, low: '2020-02-01'}": N_ROWS - 31,
    "{column: time, low: 2020-02-01T12:00:00+02:00}": N_ROWS - 32,
    "{column: time, value: 2020-02-01}": 1,
    "{column: time, low: 5}": "'time' is compared with a date; given low: 5.0, a number",
    "{column: time, high: 5}": "'time' is compared with a date; given high: 5.0, a number",
    "{column: time, value: '2020-02-01'}": (
        "'time' is compared with a date; given value: '2020-02-01', a text"
    ),
    "{column: one_time, high: 5}": "'one_time' is compared with a date",
    "{column: one_time, value: 2020-01-01}": N_ROWS,
    "{column: city, value: Ulm}": N_ROWS // 2,
    "{column: city, value: 1}": "'city' is compared with a text; given value: 1.0, a number",
    "{column: city, low: 1}": "'city' is no number and no time, so it has no ranges",
    "{column: text, value: text 1}": 1,
    "{column: member, value: true}": N_ROWS // 3,
    "{column: member, value: 'True'}": "'member' is compared with true or false",
    "{column: code, value: 1}": N_ROWS // 4,
    "{column: code, value: '1'}": "'code' is compared with a number",
    "{column: empty, low: 1}": 0,
    "{column: empty, missing: true}": N_ROWS,
    "{column: list, missing: true}": "'list' has lists, arrays or bytes",
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_fits_the_values_of_its_feature(tmp_path: Path, condition: str) -> None:
    validation = "it: {kind: threshold, metric: accuracy, min: 0, slice: s}"
    path = tmp_path / "suite.yaml"
    path.write_text(f"slices: {{s: {condition}}}\nvalidations: {{{validation}}}", encoding="utf-8")
    wanted = CONDITIONS[condition]
    data = Data(FRAME, POSITIONS % 2)
    asked: list[int] = []

    def predict(rows: pd.DataFrame) -> Any:
        asked.append(len(rows))
        return np.zeros(len(rows), dtype=int)

    settings = scan_settings({"suite": str(path), "checks": ["stochasticity"]})
    model = Model(predict, data)
    if isinstance(wanted, str):
        with pytest.raises(ConfigError, match="slices: s: ") as refused:
            scan(data, model, settings)
        assert wanted in str(refused.value)
        assert asked == [N_ROWS]  # no check was run
        return
    scan(data, model, settings)
    assert named_slice(data, read_suite(path).settings.slices["s"]).sum() == wanted


