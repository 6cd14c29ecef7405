"""Models that are served in tests: each answers a number of its own, some in a way of their own."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

_CODE = """
import mlflow, time
class Answers(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        {loading}
    def predict(self, context, model_input, params=None):
        {predicting}
        return [{answer}] * len(model_input)
mlflow.models.set_model(Answers())
"""
# What catches warnings does so for all threads.
_SAVING = threading.Lock()
ROW = {"dataframe_split": {"columns": ["x"], "data": [[1.5]]}}
BODY = json.dumps(ROW).encode()
JSON = {"Content-Type": "application/json"}


def save_model(
    folder: Path,
    answer: int,
    *,
    loading: str = "pass",
    predicting: str = "pass",
    requirements: tuple[str, ...] = ("mlflow-skinny",),
) -> Path:
    """Save a model that answers this number for each row, and return its folder.

    Args:
        folder: Where it is made.
        answer: What it answers.
        loading: A statement that is run when it is loaded.
        predicting: A statement that is run at each prediction.
        requirements: Of its ``requirements.txt``.
    """
    path = folder / f"model-{answer}-{abs(hash((loading, predicting, requirements)))}"
    code = folder / f"{path.name}.py"
    code.write_text(_CODE.format(answer=answer, loading=loading, predicting=predicting))
    schema = Schema([ColSpec(DataType.double, "x")])
    with _SAVING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice on type hints and examples
        mlflow.pyfunc.save_model(
            str(path), python_model=str(code), signature=ModelSignature(inputs=schema),
            pip_requirements=list(requirements),
        )  # fmt: skip
    return path


@dataclass
class Load:
    """Requests one after the other in each of some threads, and how they were answered."""

    answers: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def reaches(self, count: int) -> None:
        """Wait until there were so many answers more than now."""
        wanted = len(self.answers) + count
        end_s = time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < end_s, f"no {count} answers: {self.failures[:3]}"
            time.sleep(0.02)


@contextmanager
def steady_load(ask: Callable[[], tuple[int, bytes]], threads: int = 4) -> Iterator[Load]:
    """Ask all the time; at the end every answer was a right one.

    Args:
        ask: Sends one request; returns the status code and the body.
        threads: How many ask at a time.
    """
    load, stop = Load(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                status, body = ask()
            except Exception as error:
                load.failures.append(repr(error))
                continue
            if status == 200:
                load.answers.append(json.loads(body)["predictions"][0])
            else:
                load.failures.append(f"{status}: {body[:300]!r}")

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in running:
            thread.join()
    assert load.failures == [], f"{len(load.failures)} of {len(load.answers)}: {load.failures[:3]}"
