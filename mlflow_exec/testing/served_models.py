"""Models that are served in tests: each answers a number of its own, some in a way of their own."""

from __future__ import annotations

import json
import threading
import warnings
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
