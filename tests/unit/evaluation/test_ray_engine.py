"""The engine `ray`: the same result as in this process."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.clients import ray_tasks
from mlflow_exec.errors import ConfigError, MissingExtraError
from mlflow_exec.evaluation.report_json import as_data
from tests.unit.evaluation.planted import scanned, worse_slice

# Of Ray itself, whose processes outlive the objects that watch them.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
CHECKS: dict[str, Any] = {"batch_dependence": {}, "performance_bias": {"pairs": False}}


def without_times(result: Any) -> dict[str, Any]:
    """A result as JSON, but for how long it took."""
    data = as_data(result)
    del data["duration_s"]
    return {**data, "checks": [{**check, "duration_s": 0} for check in data["checks"]]}


def test_it_gives_the_result_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    planted = worse_slice(800, 5, worse=0.4)
    scaled = planted.features.assign(spread=np.arange(800) % 7)

    def predict(rows: pd.DataFrame) -> Any:
        """It knows the truth, but for single rows, whose spread is zero."""
        known = rows["income"] > 22_000
        return (known & (rows["spread"].std() > 0)).astype(int).to_numpy()

    here = scanned(scaled, planted.labels, predict, CHECKS)
    assert {finding.check for finding in here.findings} == set(CHECKS)
    with ray_tasks.connected(None):  # one for both
        there = scanned(scaled, planted.labels, predict, CHECKS, engine="ray")
        assert without_times(there) == without_times(here)

        lock = threading.Lock()
        with pytest.raises(ConfigError, match=r"ray: the work cannot be sent there: .*lock"):
            scanned(
                scaled, planted.labels, lambda rows: predict(rows) * (lock is not None), CHECKS,
                engine="ray",
            )  # fmt: skip

        def dies(rows: pd.DataFrame) -> Any:
            if len(rows) < 800:
                raise SystemExit(3)
            return predict(rows)

        died = scanned(scaled, planted.labels, dies, CHECKS, engine="ray")
        [skipped] = died.skipped
        assert skipped.check == "batch_dependence"
        assert skipped.reason.startswith("its task on Ray failed: ")
        assert {finding.check for finding in died.findings} == {"performance_bias"}


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    planted = worse_slice(100, 5)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlflow-exec\[ray\]'"):
        scanned(planted.features, planted.labels, lambda r: np.zeros(len(r), int), engine="ray")
