"""The scoring runtime answers as MLflow's own scoring server does, and the model gets the same."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from mlflow_exec.scoring import json_text
from mlflow_exec.scoring.asgi import Answer
from mlflow_exec.scoring.fast_path import is_same
from mlflow_exec.scoring.scorer import Scorer
from tests.unit.scoring import models
from tests.unit.scoring.asgi import Reply, ask

pytestmark = pytest.mark.filterwarnings("ignore")  # of what is asked for, which is often nonsense
JSON = "application/json"
often = settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.fixture(autouse=True, params=["orjson", "json"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With orjson and without it."""
    monkeypatch.setattr(json_text, "_quick_json", importlib.import_module(request.param))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mlflow_answers(model: PyFuncModel, body: bytes, content_type: str | None = JSON) -> Reply:
    headers = {"content-type": content_type} if content_type is not None else {}
    return ask(scoring_server.init(model), "POST", "/invocations", body, headers)


def check_same(signature: ModelSignature | None, body: bytes) -> Answer:
    """Ask both, and compare everything that a client or a model can see."""
    model, echo = models.echoing(signature)
    expected = mlflow_answers(model, body)
    theirs, echo.got = echo.got, []
    answer = Scorer(model).answer(body, JSON)
    assert (answer.status, answer.body) == (expected.status, expected.body)
    assert answer.media_type == expected.headers["content-type"]
    assert len(theirs) == len(echo.got)
    for (our_data, our_params), (their_data, their_params) in zip(
        echo.got, theirs, strict=True
    ):
        assert repr(our_params) == repr(their_params)
        assert layout(our_data) == layout(their_data)
        if answer.path == "fast":
            assert is_same(our_data, their_data)
    return answer


def layout(data: Any) -> str:
    """Return what a model could see of the data, as text."""
    if not isinstance(data, pd.DataFrame):
        return repr((type(data), getattr(data, "dtype", None), data))
    blocks = [(b.dtype, list(b.mgr_locs), flags(b.values)) for b in data._mgr.blocks]
    names = (data.columns.dtype, list(data.columns), type(data.index), list(data.index))
    values = [list(map(repr, data.iloc[:, i])) for i in range(data.shape[1])]
    return repr((names, blocks, values))


def flags(array: Any) -> list[bool]:
    found = getattr(array, "flags", None)
    return [found[flag] for flag in "CFW"] if found else []


@st.composite
def questions(draw: st.DrawFn, schemas: Any, requests: Any) -> tuple[ModelSignature | None, bytes]:
    schema: Schema = draw(schemas)
    params = draw(st.sampled_from([None, models.PARAMS]))
    request = draw(requests(schema))
    if draw(st.integers(0, 3)) == 0:
        request["params"] = draw(models.GIVEN_PARAMS)
    signature = ModelSignature(schema, params=params)
    if draw(st.integers(0, 12)) == 0:
        signature = None
    return signature, draw(models.texts(request))


@often
@given(questions(models.column_schemas(), models.column_requests))
def test_any_request_to_a_model_of_columns(question: tuple[ModelSignature | None, bytes]) -> None:
    check_same(*question)


@often
@given(questions(models.tensor_schemas(), models.tensor_requests))
def test_any_request_to_a_model_of_tensors(question: tuple[ModelSignature | None, bytes]) -> None:
    check_same(*question)


@often
@given(st.data())
def test_a_plain_request_takes_the_fast_path(data: st.DataObject) -> None:
    schema = data.draw(models.column_schemas(models.PLAIN, always_named=True))
    request = data.draw(models.column_requests(schema, models.ORDINARY, odd=False))
    answer = check_same(ModelSignature(schema), json.dumps(request).encode())
    has_text = DataType.string in schema.input_types()
    assert (answer.path == "fast") != (has_text and type(request.get("instances")) is list)


def test_a_text_that_pandas_refuses_is_mlflows_to_refuse() -> None:
    schema = Schema([ColSpec(DataType.string, "a")])
    body = b'{"dataframe_split": {"columns": ["a"], "data": [["\\ud800"]]}}'
    assert check_same(ModelSignature(schema), body).path == "mlflow"


def test_an_integer_is_rounded_once_as_by_mlflow() -> None:
    number = 2**60 + 2**36 + 1  # as a double it would be halfway between two floats
    request = {"dataframe_split": {"columns": ["a"], "data": [[number]]}}
    schema = Schema([ColSpec(DataType.float, "a")])
    check_same(ModelSignature(schema), json.dumps(request).encode())


@pytest.mark.parametrize("form", ["inputs", "instances", "dataframe_split"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8", "bool"])
def test_a_plain_tensor_takes_the_fast_path(form: str, dtype: str) -> None:
    schema = Schema([TensorSpec(np.dtype(dtype), (-1, 3))])
    rows = np.ones((2, 3), dtype).tolist()
    value = {"data": rows, "index": ["x", "y"]} if form == "dataframe_split" else rows
    assert check_same(ModelSignature(schema), json.dumps({form: value}).encode()).path == "fast"
