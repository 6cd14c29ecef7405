"""Odd data: a scan has a result, or says in one sentence what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

from mlflow_exec.errors import ScanError
from tests.unit.evaluation.planted import scanned

N_ROWS = 200
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=N_ROWS)
LABELS = (NUMBERS > 0).astype(int)


def says(answer: Any) -> Callable[[Any], Any]:
    """A model that has one answer to all rows, and leaves a fifth of them wrong."""
    answers = np.asarray(answer)
    return lambda rows: answers[np.arange(len(rows)) % len(answers)]


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": NUMBERS, **columns})


def two_of_a_name() -> pd.DataFrame:
    return pd.DataFrame(np.column_stack([NUMBERS, NUMBERS]), columns=["a", "a"])


ODD: dict[str, pd.DataFrame] = {
    "missing numbers": frame(b=np.where(NUMBERS > 1, np.nan, NUMBERS)),
    "missing categories": frame(b=[None if number > 1 else "x" for number in NUMBERS]),
    "all missing": frame(b=np.nan),
    "infinite": frame(b=np.where(NUMBERS > 1, np.inf, NUMBERS)),
    "constant": pd.DataFrame({"a": [1.0] * N_ROWS}),
    "one column of texts": pd.DataFrame({"a": [f"row {n} is so" for n in range(N_ROWS)]}),
    "empty texts": frame(b=[""] * (N_ROWS - 50) + [f"word{n}" for n in range(50)]),
    "times": frame(b=pd.date_range("2026-01-01", periods=N_ROWS, freq="h")),
    "times with a zone and gaps": frame(
        b=pd.date_range("2026-01-01", periods=N_ROWS, tz="Asia/Tokyo").where(NUMBERS < 1)
    ),
    "spans of time": frame(b=pd.to_timedelta(np.arange(N_ROWS), unit="min")),
    "ordered categories": frame(b=pd.Categorical.from_codes(
        np.arange(N_ROWS) % 3, ["low", "mid", "high"], ordered=True)),
    "numbers and texts": frame(b=np.array(["1", 1.0] * (N_ROWS // 2), dtype=object)),
    "nullable numbers": frame(b=pd.array([None, *range(N_ROWS - 1)], dtype="Int64")),
    "lists": frame(b=[[n] for n in range(N_ROWS)]),
    "numbers that no float is": frame(b=pd.Series(
        [10**400, -(10**400), *range(N_ROWS - 2)], dtype=object)),
    "days of Arrow": frame(b=pd.array(
        [None, *(date(2026, 1, 1 + n % 28) for n in range(1, N_ROWS))],
        dtype=pd.ArrowDtype(pyarrow.date32()))),
    "decimals of Arrow": frame(b=pd.array(
        [None, *(Decimal(n) / 4 for n in range(1, N_ROWS))],
        dtype=pd.ArrowDtype(pyarrow.decimal128(10, 2)))),
    "half a pair of surrogates": frame(b=pd.Series(
        ["\ud800 x", "y"] * (N_ROWS // 2), dtype=object)),
    "names that are numbers": pd.DataFrame({0: NUMBERS, 1: NUMBERS}),
    "names of other scripts": pd.DataFrame({"größe": NUMBERS, "年齢": NUMBERS, "a\nb": NUMBERS}),
    "two columns of one name": two_of_a_name(),
    "an index of texts": frame().set_axis([f"r{n}" for n in range(N_ROWS)]),
    "an index of one value": frame().set_axis([7] * N_ROWS),
    "more columns than rows": pd.DataFrame(RNG.normal(size=(N_ROWS, 300)).round(1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_odd_features_give_a_result(kind: str, task: str) -> None:
    labels = LABELS if task == "classification" else NUMBERS
    seen: list[Any] = []

    def predict(rows: pd.DataFrame) -> Any:
        seen.append(list(rows.columns))
        return np.zeros(len(rows), dtype=labels.dtype)

    result = scanned(ODD[kind], labels, predict, task=task)
    assert [one for one in result.skipped if not one.expected] == []
    assert result.n_rows == N_ROWS
    assert seen[0] == list(ODD[kind].columns)  # as they were given


@pytest.mark.large
def test_3000_columns_are_scanned() -> None:
    result = scanned(pd.DataFrame(RNG.normal(size=(1_000, 3_000))), np.arange(1_000) % 2,
                     lambda rows: np.zeros(len(rows), dtype=int))  # fmt: skip
    assert [one for one in result.skipped if not one.expected] == []


LABELLED: dict[str, tuple[Any, Any]] = {
    "one class": (np.zeros(N_ROWS, dtype=int), np.zeros(N_ROWS, dtype=int)),
    "texts": (np.where(LABELS, "yes", "no"), np.array(["yes"] * N_ROWS)),
    "booleans": (LABELS.astype(bool), np.ones(N_ROWS, dtype=bool)),
    "a class that the model never says": (np.arange(N_ROWS) % 3, np.zeros(N_ROWS, dtype=int)),
    "a class that no row has": (LABELS, np.where(NUMBERS > 1, 5, 0)),
    "none": (None, LABELS),
    "all the same number": (np.full(N_ROWS, 1.5), np.full(N_ROWS, 1.5)),
}


@pytest.mark.parametrize("kind", LABELLED)
def test_odd_labels_give_a_result(kind: str) -> None:
    labels, answer = LABELLED[kind]
    result = scanned(frame(), labels, says(answer))
    assert [one for one in result.skipped if not one.expected] == []


REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "5 rows": (frame()[:5], LABELS[:5], LABELS, "5 rows are too few; give at least 20"),
    "no rows": (frame()[:0], LABELS[:0], LABELS, "there is nothing to scan"),
    "missing labels": (frame(), np.where(NUMBERS > 1, np.nan, LABELS), LABELS,
                       "of 200 labels are missing; leave these rows out"),
    "too few labels": (frame(), LABELS[:9], LABELS, "given 9 labels for 200 rows"),
    "one dimension": (NUMBERS, LABELS, LABELS, "a table is needed"),
    "predictions that are missing": (frame(), NUMBERS, np.full(N_ROWS, np.nan),
                                     "model: predictions: 200 of 200 are no finite numbers"),
    "infinite labels": (frame(), np.where(NUMBERS > 1, np.inf, NUMBERS), NUMBERS,
                        "data: labels: [0-9]+ of 200 are no finite numbers"),
    "labels of two columns": (frame(), np.column_stack([LABELS, LABELS]), LABELS,
                              r"data: one label per row .* an array of shape \(200, 2\)"),
    "labels that are lists": (frame(), pd.Series([[1]] * N_ROWS), LABELS,
                              r"data: labels are needed that are classes .* given list: '\[1\]'"),
    "labels of different lengths": (frame(), [[1], [1, 2]] * (N_ROWS // 2), LABELS,
                                    "data: one label per row is needed: "),
    "labels that are times": (frame(), pd.date_range("2026-01-01", periods=N_ROWS), NUMBERS,
                              "data: labels are needed that are classes or numbers; given date"),
    "labels that are days": (frame(), [date(2026, 1, 1)] * N_ROWS, NUMBERS,
                             "data: labels .* given date: '2026-01-01'"),
    "predictions that are times": (frame(), NUMBERS, np.full(N_ROWS, np.datetime64("2026-01-01")),
                                   "model: predictions .* given datetime64"),
    "predictions that are texts": (frame(), NUMBERS, np.array(["x"] * N_ROWS),
                                   "model: none of its answers is a label: it says 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_scanned_is_refused_in_one_sentence(kind: str) -> None:
    features, labels, answer, sentence = REFUSED[kind]
    with pytest.raises(ScanError, match=sentence) as refused:
        scanned(features, labels, says(answer))
    assert "\n" not in str(refused.value)
    assert ": " in str(refused.value)  # where: what


def test_a_model_that_fails_is_told_with_its_error() -> None:
    def predict(rows: pd.DataFrame) -> Any:
        raise KeyError("income")

    with pytest.raises(ScanError, match=r"model: it failed on 200 rows: KeyError: 'income'"):
        scanned(frame(), LABELS, predict)
