"""Requests per second of our scoring server and of `mlflow models serve`, side by side.

Both serve the same model on this machine, one worker each; wrk (a Debian package) asks them in
turn, so that whatever else the machine does meets both. The medians of the rounds are shown.

    python -m benchmarks.serving
    python -m benchmarks.serving --rounds 5 --seconds 10 --cases "30 x 1"
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, show_figures
from mlflow_exec.clients.ports import free_port

_LUA = Path(__file__).with_suffix(".lua")
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Case:
    """A model, a request, and how many times MLflow's requests per second ours shall be."""

    name: str
    estimator: str
    columns: int
    rows: int
    at_least: dict[int, float]


CASES = (
    Case("30 x 1", "LogisticRegression", 30, 1, {16: 20}),
    Case("600 x 1", "LogisticRegression", 600, 1, {16: 100}),
    Case("30 x 1000", "LogisticRegression", 30, 1000, {16: 5}),
    Case("forest, 30 x 1", "RandomForestClassifier", 30, 1, {}),
)
BATCHED = 3.0
"""Times the requests per second without batches, for a model whose calls cost 10 ms each."""

_COSTLY = """
import sys, time, mlflow.pyfunc, pandas as pd
from mlflow.models import infer_signature

class Costly(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        end_s = time.perf_counter() + 0.01
        while time.perf_counter() < end_s:
            pass
        return model_input["feature_0"].to_numpy()

table = pd.DataFrame({"feature_0": [0.5, 1.5]})
mlflow.pyfunc.save_model(sys.argv[1], python_model=Costly(), pip_requirements=[],
                         signature=infer_signature(table, [1.0]), input_example=table)
"""
CONNECTIONS = (1, 16)
P99_BY_P50 = 3


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    per_s: float
    p50_ms: float
    p99_ms: float


def save_model(case: Case, folder: Path) -> None:
    """Train on random data and save with a signature."""
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    kinds: dict[str, Any] = {
        "LogisticRegression": LogisticRegression(max_iter=200),
        "RandomForestClassifier": RandomForestClassifier(100, random_state=0),
    }
    random = np.random.default_rng(0)
    names = [f"feature_{i}" for i in range(case.columns)]
    table = pd.DataFrame(random.normal(size=(300, case.columns)), columns=names)
    model = kinds[case.estimator].fit(table, (table.sum(axis=1) > 0).astype(int))
    mlflow.sklearn.save_model(
        model, str(folder), signature=infer_signature(table, model.predict(table)),
        input_example=table[:2], pip_requirements=[],
        skops_trusted_types=["sklearn.tree._tree.Tree"],
    )  # fmt: skip


def body_of(case: Case) -> bytes:
    """Return a request: random numbers with all their digits."""
    values = np.random.default_rng(1).normal(size=(case.rows, case.columns)).tolist()
    names = [f"feature_{i}" for i in range(case.columns)]
    return json.dumps({"dataframe_split": {"columns": names, "data": values}}).encode()


@contextlib.contextmanager
def serving(command: list[str], port: int) -> Iterator[str]:
    """Start a server and yield its address when it answers; end it with all that it started."""
    environ = {**os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=environ, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    end_s = time.monotonic() + 120
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ping"):
                break
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"{' '.join(command)}: does not answer on port {port}")
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, 9)  # its own session: the server and its workers
        process.wait()


def ask(address: str, body: Path, connections: int, seconds: float) -> Load:
    """Let wrk ask for so many seconds.

    Raises:
        RuntimeError: A request failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    done = subprocess.run(
        [*command, "-s", str(_LUA), f"{address}/invocations"],
        env={**os.environ, "BODY": str(body)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # What the server is still at when wrk goes would slow down the one that is asked next.
    last = urllib.request.Request(f"{address}/invocations", data=body.read_bytes())
    last.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(last, timeout=60) as answer:
        answer.read()
    [line] = [line for line in done.stdout.splitlines() if line.startswith("figures ")]
    requests, duration_us, errors, p50_us, p99_us = map(float, line.split()[1:])
    if errors or not requests:
        raise RuntimeError(f"{address}: {errors:g} of {requests:g} requests failed")
    return Load(requests / duration_us * 1e6, p50_us / 1000, p99_us / 1000)


def middle(loads: list[Load]) -> Load:
    """Return the median of each figure."""
    return Load(*(statistics.median(getattr(load, n) for load in loads) for n in _FIGURES))


_FIGURES = ("per_s", "p50_ms", "p99_ms")


def batched(rounds: int, seconds: float) -> tuple[Load, Load]:
    """Return our figures without and with batches, at 16 connections."""
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as running:
        model, body = str(Path(made, "model")), Path(made, "body.json")
        subprocess.run([sys.executable, "-W", "ignore", "-c", _COSTLY, model], check=True)
        body.write_text('{"dataframe_split": {"columns": ["feature_0"], "data": [[0.25]]}}')
        command = [str(_BIN / "mlflow-exec"), "serve", "-m", model, "--batch-max-rows"]
        both = [running.enter_context(serving([*command, n], free_port())) for n in ("0", "64")]
        turns = [[ask(a, body, max(CONNECTIONS), seconds) for a in both] for _ in range(rounds)]
        return middle([turn[0] for turn in turns]), middle([turn[1] for turn in turns])


def compare(case: Case, rounds: int, seconds: float) -> Iterator[tuple[int, Load, Load]]:
    """Yield the connections, MLflow's figures and ours."""
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as running:
        folder = Path(made)
        save_model(case, folder / "model")
        body = folder / "body.json"
        body.write_bytes(body_of(case))
        model = ["-m", str(folder / "model"), "--env-manager", "local"]
        commands = (
            [str(_BIN / "mlflow"), "models", "serve", *model, "--workers", "1"],
            [str(_BIN / "mlflow-exec"), "serve", *model],
        )
        both = [running.enter_context(serving(c, free_port())) for c in commands]
        for connections in CONNECTIONS:
            for address in both:
                ask(address, body, connections, min(2.0, seconds))
            turns = [[ask(a, body, connections, seconds) for a in both] for _ in range(rounds)]
            theirs, ours = ([turn[i] for turn in turns] for i in (0, 1))
            yield connections, middle(theirs), middle(ours)


def main() -> int:
    """Print the tables; returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cases", default="", help="only those whose name has this in it")
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    figures: dict[str, Figure] = {}
    print("| columns x rows | connections | MLflow req/s | p50 ms | p99 ms "
          "| ours req/s | p50 ms | p99 ms | times |\n" + "| --- " * 9 + "|")  # fmt: skip
    for case in CASES:
        if parsed.cases not in case.name:
            continue
        for connections, theirs, ours in compare(case, parsed.rounds, parsed.seconds):
            times = ours.per_s / theirs.per_s
            print(
                f"| {case.name} | {connections} | {theirs.per_s:.1f} | {theirs.p50_ms:.1f} "
                f"| {theirs.p99_ms:.1f} | {ours.per_s:.1f} | {ours.p50_ms:.2f} "
                f"| {ours.p99_ms:.2f} | {times:.1f} |",
                flush=True,
            )
            if connections in case.at_least:
                label = f"{case.name}, {connections} connections"
                figures[f"{label}: times MLflow's req/s"] = Figure(
                    times, at_least=case.at_least[connections]
                )
                figures[f"{label}: p99 / p50"] = Figure(
                    ours.p99_ms / ours.p50_ms, at_most=P99_BY_P50
                )
    if parsed.cases in "batches":
        without, with_ = batched(parsed.rounds, parsed.seconds)
        print(f"\nBatches: {without.per_s:.1f} req/s without, {with_.per_s:.1f} with")
        times = with_.per_s / without.per_s
        figures["batches: times the req/s without"] = Figure(times, at_least=BATCHED)
    return 0 if show_figures("Serving", figures) else 1


if __name__ == "__main__":
    sys.exit(main())
