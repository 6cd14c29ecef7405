"""What MLflow says about a failed prediction is said for the fast path too."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ColSpec, DataType, Schema

from mlflow_exec.scoring.scorer import Scorer
from tests.unit.scoring import models
from tests.unit.scoring.asgi import ask

SIGNATURE = ModelSignature(Schema([ColSpec("double", "a"), ColSpec("double", "b")]))
# In another order than the signature's, as MLflow shows it in its message.
BODY = json.dumps({"dataframe_split": {"columns": ["b", "a"], "data": [[1, 2.5]]}}).encode()


class Returning:
    """A model whose predictions are what a function returns."""

    def __init__(self, result: Callable[[], Any]) -> None:
        self.result = result
        self.calls = 0

    def predict(self, data: Any, params: Any = None) -> Any:
        self.calls += 1
        return self.result()


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise copy.copy(error)  # MLflow changes the message of what it catches

    return fail


def answers(result: Callable[[], Any]) -> tuple[Any, Any, Returning]:
    """Return our answer, MLflow's reply, and the model that we asked."""
    theirs = PyFuncModel(Model(signature=SIGNATURE), Returning(result))
    reply = ask(
        scoring_server.init(theirs), "POST", "/invocations", BODY,
        {"content-type": "application/json"},
    )  # fmt: skip
    ours = Returning(result)
    scorer = Scorer(PyFuncModel(Model(signature=SIGNATURE), ours))
    return scorer.answer(BODY, "application/json"), reply, ours


@pytest.mark.parametrize(
    "error", [ValueError("no"), MlflowException("no", error_code=3), KeyError("x")], ids=repr
)
def test_an_error_of_the_model_is_mlflows_and_the_model_is_asked_once(error: Exception) -> None:
    answer, reply, model = answers(failing(error))
    ours, theirs = json.loads(answer.body), json.loads(reply.body)
    trace = ours.pop("stack_trace", "")
    assert (str(error) in trace) == (str(error) in theirs.pop("stack_trace", ""))
    assert (answer.status, ours, answer.path) == (reply.status, theirs, "fast")
    assert model.calls == 1


@pytest.mark.parametrize(
    "result",
    [
        [float("nan"), 1e16, -0.0, 2**70], (1, "é"), {"a": [np.float32(0.1)]}, None, "text", b"x",
        np.array([[1.5, np.inf]]), np.array(["a", b"b"], dtype=object), np.float64(0.1),
        pd.Series([1, 2]), pd.DataFrame({"a": [1, None], "b": ["x", pd.Timestamp(0)]}),
        [pd.Timestamp("2026-01-02")], [np.int64(3), np.bool_(True)], {1: 2}, {(1, 2): 3},
        [object()], {1, 2}, "\ud800",
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_every_kind_of_prediction_is_written_as_mlflow_writes_it(result: Any) -> None:
    answer, reply, model = answers(lambda: result)
    assert (answer.status, answer.body) == (reply.status, reply.body)
    assert answer.media_type == reply.headers["content-type"]
    assert model.calls == 1


@pytest.mark.parametrize(
    "content_type",
    [
        None, "", "application/json", "application/json; charset=utf-8", "text/csv", "text/plain",
        "application/json;charset=UTF-8", "application/json; charset=latin-1", "Application/JSON",
        "application/json; x=1", "application/vnd.apache.parquet", "text/csv; charset=utf-8",
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [BODY, b"a,b\n1,2\n", b"", b"\xff"], ids=["json", "csv", "", "ff"])
def test_every_content_type_is_answered_as_by_mlflow(content_type: str | None, body: bytes) -> None:
    model, _ = models.echoing(SIGNATURE)
    headers = {} if content_type is None else {"content-type": content_type}
    reply = ask(scoring_server.init(model), "POST", "/invocations", body, headers)
    answer = Scorer(model).answer(body, content_type)
    assert (answer.status, answer.media_type) == (reply.status, reply.headers["content-type"])
    ours, theirs = answer.body, reply.body
    if b"stack_trace" in theirs:  # it names our caller's files
        ours, theirs = (json.loads(b)["message"] for b in (ours, theirs))
    assert ours == theirs


def test_a_signature_from_type_hints_is_left_to_mlflow() -> None:
    signature = ModelSignature(Schema([ColSpec(DataType.double, "a")]))
    assert Scorer(models.echoing(signature)[0]).fast_path is not None
    signature._is_signature_from_type_hint = True
    assert Scorer(models.echoing(signature)[0]).fast_path is None


def test_a_format_that_this_mlflow_reads_in_another_way_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = models.echoing(SIGNATURE)
    monkeypatch.setattr(
        scoring_server, "dataframe_from_parsed_json", lambda *_, **__: pd.DataFrame({"a": [1]})
    )
    fast_path = Scorer(model).fast_path
    assert fast_path is not None
    assert fast_path.formats == {"inputs", "instances"}
