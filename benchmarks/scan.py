"""A scan of 100,000 rows and 50 columns: its time, and its memory above that of the data.

With Giskard's scan on the same rows and model beside it, where its environment is given (Python
3.9 to 3.11): it needs numpy 1 and an old pandas.

    python -m benchmarks.scan
    python3.11 -m venv .venv-giskard
    .venv-giskard/bin/pip install giskard==2.19.0 scikit-learn setuptools
    python -m benchmarks.scan --giskard .venv-giskard/bin/python --giskard-rows 10000
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.figures import Figure, show_figures

LIMIT_S = 60.0
LIMIT_GB = 1.0
_TREES = 60  # of depth 6, each of two classes

# In an environment of its own, so it learns the same model from the same rows there.
_GISKARD = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
os.environ["GISKARD_DISABLE_ANALYTICS"] = "1"
import giskard, pandas
from giskard.utils.analytics_collector import analytics
analytics.track = lambda *given, **named: None
from sklearn.ensemble import HistGradientBoostingClassifier
rows = pandas.read_csv(sys.argv[1])
half = len(rows) // 2
names = [c for c in rows.columns if c != "label"]
model = HistGradientBoostingClassifier(max_iter=int(sys.argv[2]), max_depth=6, random_state=0)
model.fit(rows[names][:half], rows["label"][:half])
given = giskard.Dataset(rows[half:].reset_index(drop=True), target="label", cat_columns=[])
wrapped = giskard.Model(lambda f: model.predict_proba(f[names]), model_type="classification",
                        classification_labels=[0, 1], feature_names=names)
begun = time.monotonic()
found = giskard.scan(wrapped, given, verbose=False)
print(json.dumps([time.monotonic() - begun, len(found.issues)]))
"""


def main() -> int:
    """Print the table; returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--giskard", metavar="PYTHON", help="Python of an environment with it")
    parser.add_argument("--giskard-rows", type=int, help="so many rows for it; all of them else")
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = _rows(2 * parsed.rows, parsed.columns)
    took_s, used_gb, result = _ours(rows, parsed.rounds)
    figures = {
        "ours: scan, s": Figure(statistics.median(took_s), at_most=LIMIT_S),
        "ours: memory above the data, GB": Figure(used_gb, at_most=LIMIT_GB),
        "ours: checks that were skipped": Figure(len(result.skipped), at_most=0),
        "ours: findings": Figure(len(result.findings)),
    }
    figures |= {f"ours: {c.name}, s": Figure(c.duration_s) for c in result.checks}
    if parsed.giskard:
        n_rows = parsed.giskard_rows or parsed.rows
        their_s, n_findings = _theirs(_rows(2 * n_rows, parsed.columns), parsed.giskard)
        figures |= {
            f"Giskard: scan of {n_rows} rows, s": Figure(their_s),
            "Giskard: findings": Figure(n_findings),
        }
    title = f"Scan of {parsed.rows} rows, {parsed.columns} columns, gradient-boosted classifier"
    return 0 if show_figures(title, figures) else 1


def _rows(n_rows: int, n_columns: int) -> pd.DataFrame:
    """Numbers, half of them rounded; labels that are noisier where the first two are high.

    The last column is a group that people belong to.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n_rows, n_columns))
    values[:, ::2] = values[:, ::2].round(2)
    values[:, -1] = rng.integers(0, 3, size=n_rows)
    rows = pd.DataFrame(values, columns=[f"feature_{n}" for n in range(n_columns)])
    signal = values[:, :5].sum(axis=1) > 0
    noisy = np.where((values[:, 0] > 0.5) & (values[:, 1] > 0.5), 0.25, 0.1)
    return rows.assign(label=(signal ^ (rng.random(n_rows) < noisy)).astype(int))


def _ours(rows: pd.DataFrame, rounds: int) -> tuple[list[float], float, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    from mlflow_exec.evaluation.data import Data
    from mlflow_exec.evaluation.model import Model
    from mlflow_exec.evaluation.registry import CHECKS
    from mlflow_exec.evaluation.scan import scan
    from mlflow_exec.evaluation.settings import ScanSettings

    features, half = rows.drop(columns="label"), len(rows) // 2
    fitted = HistGradientBoostingClassifier(max_iter=_TREES, max_depth=6, random_state=0)
    fitted.fit(features[:half], rows["label"][:half])
    learnt = Data(features[:half], rows["label"][:half].to_numpy())
    features, labels = features[half:].reset_index(drop=True), rows["label"][half:].to_numpy()
    people = {"ethical_bias": {"sensitive": [features.columns[-1]]}}
    settings = ScanSettings(checks={name: {} for name in CHECKS} | people)

    def once() -> Any:
        data = Data(features, labels)
        data.reference = learnt
        return scan(data, Model(fitted.predict_proba, data, classes=[0, 1]), settings)

    took_s, used_gb = [], 0.0
    for _ in range(rounds):
        begun_s = time.monotonic()
        result, gb = _measured(once)
        took_s.append(time.monotonic() - begun_s)
        used_gb = max(used_gb, gb)
    return took_s, used_gb, result


def _measured(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the most memory in GB that was in use above that before."""
    page = resource.getpagesize()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before, most, over = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = call()
    finally:
        over.set()
        watcher.join()
    return result, max(most - before, 0) / 1e9


def _theirs(rows: pd.DataFrame, python: str) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "rows.csv"
        rows.to_csv(file, index=False)
        command = [python, "-c", _GISKARD, str(file), str(_TREES)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    took_s, n_findings = json.loads(answer.stdout.split("\n")[-2])
    return took_s, n_findings


if __name__ == "__main__":
    sys.exit(main())
