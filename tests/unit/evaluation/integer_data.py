"""Data, models and faults by whole numbers alone: the same with every version of every library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.arrays import Floats
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Result
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.registry import CHECKS
from mlflow_exec.evaluation.report_json import as_data
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import ScanSettings

EXPECTED = Path(__file__).with_name("expected_results.json")
_WORDS = ("order", "parcel", "late", "refund", "woman", "man", "today", "thanks", "broken", "box")


def draws(n_rows: int, stream: int) -> Floats:
    """Numbers from 0 to 1, by SplitMix64 (Steele, Lea and Flood, 2014)."""
    z = np.arange(n_rows, dtype=np.uint64) + np.uint64(stream << 32)
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.asarray((z >> np.uint64(11)).astype(np.float64) / 2.0**53)


def _chosen(n_rows: int, stream: int, values: tuple[str, ...]) -> list[str]:
    return [values[k] for k in (draws(n_rows, stream) * len(values)).astype(int)]


def people(n_rows: int, stream: int) -> pd.DataFrame:
    """Features of every kind, with missing values."""
    income = (draws(n_rows, stream) * 8_000_000).astype(np.int64) / 100.0
    height = 150 + (draws(n_rows, stream + 1) * 500).astype(np.int64) / 10.0
    height[draws(n_rows, stream + 2) < 0.1] = np.nan
    city = np.array(_chosen(n_rows, stream + 3, ("Ulm", "Bonn", "Kiel", "Jena")), dtype=object)
    city[draws(n_rows, stream + 4) < 0.05] = None
    days = (draws(n_rows, stream + 5) * 700 * 86_400).astype(np.int64)
    words = [_chosen(n_rows, stream + 20 + k, _WORDS) for k in range(5)]
    return pd.DataFrame({
        "age": 18 + (draws(n_rows, stream + 6) * 72).astype(np.int64),
        "income": income,
        "height": height,
        "city": city,
        "sex": pd.Categorical(_chosen(n_rows, stream + 7, ("f", "m"))),
        "member": draws(n_rows, stream + 8) < 0.3,
        "joined": pd.Timestamp("2024-01-01") + pd.to_timedelta(days, unit="s"),
        "comment": [" ".join(row) for row in zip(*words, strict=True)],
    })  # fmt: skip


def credit() -> Result:
    """A classification with probabilities, a second data set, and many faults."""
    n_rows = 2_000
    rows, other = people(n_rows, 100), people(n_rows, 200)
    other["income"] /= 2
    other.loc[:99] = rows.loc[:99]
    noise = np.where(rows["height"] > 190, 0.45, 0.08)
    paid = (rows["income"] > 40_000).to_numpy() ^ (draws(n_rows, 300) < noise)
    rows["copy"] = np.where(paid ^ (draws(n_rows, 301) < 0.1), "x", "y")
    other["copy"] = np.where(draws(n_rows, 302) < 0.5, "x", "y")

    def predict(given: pd.DataFrame) -> Floats:
        distance = given["income"].to_numpy() / 80_000 - 0.5
        distance = distance + np.where(given["sex"] == "f", 0.125, 0.0)
        distance = distance - np.where(given["comment"].str.contains("woman"), 0.25, 0.0)
        distance = distance * np.where(given["city"] == "Jena", 4.0, 1.0)
        known = np.clip(0.5 + distance, 0.015625, 0.984375)
        return np.column_stack([1 - known, known])

    reference = Data(other, np.where(other["income"] > 40_000, "paid", "lost"))
    data = Data(rows, np.where(paid, "paid", "lost"), reference=reference)
    checks: dict[str, dict[str, Any]] = {name: {} for name in CHECKS}
    checks["ethical_bias"]["sensitive"] = ["sex"]
    settings = ScanSettings(checks=checks)
    return scan(data, Model(predict, data, classes=["lost", "paid"]), settings)


def prices() -> Result:
    """A regression that looks at the other rows of its batch, and errs on Sundays."""
    rows = people(1_000, 400)
    hard = (rows["joined"].dt.day_of_week == 6) & rows["member"]
    prices = rows["income"] + np.where(hard, 20_000.0, 1_000.0) * (draws(1_000, 500) - 0.5)

    def predict(given: pd.DataFrame) -> Floats:
        return np.asarray(given["income"] + 0.25 * (given["income"].median() - 40_000))

    data = Data(rows, prices)
    return scan(data, Model(predict, data))


def comments() -> Result:
    """A classification of texts by labels alone, which answers otherwise every second time."""
    rows = people(1_000, 600)[["comment", "age"]]
    noise = np.where(rows["comment"].str.contains("refund"), 0.4, 0.05)
    late = rows["comment"].str.contains("late").to_numpy()
    labels = np.where(late ^ (draws(1_000, 700) < noise), "bad", "ok")
    n_calls = 0

    def predict(given: pd.DataFrame) -> Any:
        nonlocal n_calls
        n_calls += 1
        found = given["comment"].str.contains("late" if n_calls % 2 else "late|Late|box")
        return np.where(found, "bad", "ok")

    data = Data(rows, labels)
    return scan(data, Model(predict, data))


def unsure() -> Result:
    """A classification that guesses and is sure of it, but for the old: there it is undecided."""
    rows, labels = people(1_000, 800), (draws(1_000, 900) < 0.1).astype(int)

    def predict(given: pd.DataFrame) -> Floats:
        guess = given["age"].to_numpy() % 2
        positive = 0.5 + np.where(given["age"] >= 75, 0.005, 0.25) * (2 * guess - 1)
        return np.column_stack([1 - positive, positive])

    data = Data(rows, labels)
    return scan(data, Model(predict, data, classes=[0, 1]))


RESULTS: dict[str, Callable[[], Result]] = {
    "credit": credit, "prices": prices, "comments": comments, "unsure": unsure,
}  # fmt: skip


def plain(result: Result) -> dict[str, Any]:
    """A result as JSON, but for how long it took and what computed it."""
    data = as_data(result)
    del data["duration_s"], data["versions"]
    return data | {"checks": [check | {"duration_s": None} for check in data["checks"]]}


if __name__ == "__main__":  # where a check is another one: python -m with this module's name
    found = {name: plain(result()) for name, result in RESULTS.items()}
    EXPECTED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
