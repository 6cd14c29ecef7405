"""Models and rows for the tests of suites and gates: one is right, one knows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

VALIDATIONS = {
    "accuracy": {"kind": "threshold", "metric": "accuracy", "min": 0.8, "why": "our contract"},
    "batches": {"kind": "threshold", "metric": "scan/batch_dependence/n_major", "max": 0},
    "by_b": {
        "kind": "spread", "metric": "accuracy", "by": "b", "max_gap": 0.001, "severity": "minor",
    },
}  # fmt: skip


class _Knows(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def __init__(self, column: str) -> None:
        self.column = column

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        return (model_input[self.column] > 0).astype(int).to_numpy()


def rows(folder: Path) -> Path:
    """A file of rows whose label is whether `a` is positive, in nine of ten of them."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"])
    frame["label"] = ((frame["a"] > 0) ^ (rng.random(300) < 0.1)).astype(int)
    path = folder / "rows.csv"
    frame.to_csv(path, index=False)
    return path


def model(folder: Path, column: str) -> str:
    """A model in a folder that answers whether a column is positive."""
    path = folder / f"model-{column}"
    mlflow.pyfunc.save_model(path, python_model=_Knows(column), pip_requirements=[])
    return str(path)


def suite(folder: Path, **more: Any) -> str:
    """A suite for these rows, beside them."""
    path = folder / "suite.yaml"
    given = {"data": "rows.csv", "target": "label", "validations": VALIDATIONS, **more}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return str(path)


@contextmanager
def own_runs(folder: Path) -> Iterator[None]:
    """Have runs in a database of their own, and nothing left of that afterwards."""
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        # Which MLflow sets, for processes that are started later, too.
        patch.setenv("MLFLOW_EXPERIMENT_ID", "0")
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        artifacts = (folder / "artifacts").as_uri()
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("scans", artifacts))
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
