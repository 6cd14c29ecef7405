"""The Open Inference Protocol: its paths, tensors as JSON and bytes, and what is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.fast_path import is_same
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.v2_tensors import DTYPES, TensorError, parse, write
from tests.unit.scoring import models
from tests.unit.scoring.asgi import Reply, ask

COLUMNS = ModelSignature(
    Schema([ColSpec("double", "a"), ColSpec("string", "b")]),
    Schema([ColSpec("long", "label")]),
    ParamSchema([ParamSpec("scale", "double", 1.0)]),
)
NUMBERS = ModelSignature(Schema([ColSpec("double", name) for name in "abc"]))
TENSOR = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 2))]))


class Served:
    """A model below /v2, and what it got."""

    def __init__(self, signature: ModelSignature | None, impl: Any = None) -> None:
        self.impl = impl or models.Echo()
        model = PyFuncModel(Model(signature=signature), self.impl)
        self.app = ScoringApp(model, ScoringOptions("m", name="iris", model_version="3"))

    def get(self, path: str) -> tuple[int, Any]:
        reply = ask(self.app, "GET", path)
        return reply.status, json.loads(reply.body)

    def post(self, request: Any, tail: bytes = b"", **headers: str) -> Reply:
        text = json.dumps(request).encode()
        if tail:
            headers = {"Inference-Header-Content-Length": str(len(text)), **headers}
        return ask(self.app, "POST", "/v2/models/iris/infer", text + tail, headers)

    def infer(self, *inputs: dict[str, Any], **more: Any) -> tuple[int, Any]:
        reply = self.post({"inputs": list(inputs), **more})
        return reply.status, json.loads(reply.body)


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def test_the_server_and_the_model_describe_themselves() -> None:
    served = Served(COLUMNS)
    assert served.get("/v2")[1]["extensions"] == ["binary_tensor_data"]
    assert served.get("/v2/health/live") == (200, {"live": True})
    assert served.get("/v2/health/ready") == (200, {"ready": True})
    for path in ("/v2/models/iris", "/v2/models/iris/versions/3"):
        assert served.get(path + "/ready") == (200, {"name": "iris", "ready": True})
        assert served.get(path) == (
            200,
            {
                "name": "iris", "versions": ["3"], "platform": "mlflow",
                "inputs": [
                    {"name": "a", "datatype": "FP64", "shape": [-1]},
                    {"name": "b", "datatype": "BYTES", "shape": [-1]},
                ],
                "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
            },
        )  # fmt: skip
    [described] = Served(TENSOR).get("/v2/models/iris")[1]["inputs"]
    assert described == {"name": "0", "datatype": "FP32", "shape": [-1, 2]}
    served.app.stop()
    assert served.get("/v2/health/ready")[0] == served.get("/v2/models/iris/ready")[0] == 503


def test_another_model_version_path_or_method_is_not_here() -> None:
    served = Served(COLUMNS)
    assert served.get("/v2/models/other") == (
        404, {"error": "there is no model other here; there is iris, version 3"},
    )  # fmt: skip
    assert served.get("/v2/models/iris/versions/4")[0] == 404
    assert ask(served.app, "POST", "/v2/models/iris/versions/4/infer", b"{}").status == 404
    assert ask(served.app, "GET", "/v2/models/iris/infer").status == 405
    assert ask(served.app, "GET", "/v2/other").status == 404


def test_columns_come_as_tensors_by_name() -> None:
    served = Served(COLUMNS)
    status, answer = served.infer(
        tensor("b", "BYTES", [2, 1], ["x", "é"]), tensor("a", "FP64", [2], [1, 2.5]),
        id="7", parameters={"scale": 2.0, "other": 1},
    )  # fmt: skip
    assert (status, answer) == (
        200,
        {
            "model_name": "iris", "model_version": "3", "id": "7",
            "outputs": [
                {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]},
                {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", "é"]},
            ],
        },
    )  # fmt: skip
    [(_, params)] = served.impl.got
    assert params == {"scale": 2.0}


def test_one_table_stands_for_all_columns() -> None:
    served = Served(NUMBERS)
    status, _ = served.infer(tensor("input-0", "FP64", [2, 3], [1, 2, 3, 4, 5, 6]))
    [(data, _)] = served.impl.got
    assert status == 200
    pd.testing.assert_frame_equal(
        data, pd.DataFrame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], columns=["a", "b", "c"])
    )


def test_a_tensor_goes_to_the_model_as_it_is_and_bytes_come_back() -> None:
    served = Served(TENSOR)
    array = np.array([[1.5, -0.0], [np.nan, 3e38]], dtype=np.float32)
    head: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    head["parameters"] = {"binary_data_size": 16}
    reply = served.post(
        {"inputs": [head], "parameters": {"binary_data_output": True}}, array.tobytes()
    )
    assert reply.status == 200
    size = int(reply.headers["inference-header-content-length"])
    [output] = json.loads(reply.body[:size])["outputs"]
    assert output == {
        "name": "predictions", "shape": [2, 2], "datatype": "FP32",
        "parameters": {"binary_data_size": 16},
    }  # fmt: skip
    assert reply.body[size:] == array.tobytes()
    [(data, _)] = served.impl.got
    assert (data.tobytes(), data.dtype) == (array.tobytes(), array.dtype)


@pytest.mark.parametrize(
    ("signature", "shape", "dtype"),
    [(NUMBERS, (2, 3), "FP64"), (TENSOR, (2, 2), "FP32")],
)
def test_a_table_of_the_right_numbers_takes_the_fast_path(
    signature: ModelSignature, shape: tuple[int, ...], dtype: str
) -> None:
    """The model gets what it would get from MLflow."""
    quick, usual = Served(signature), Served(signature)
    usual.app.scorer.fast_path = None
    given = tensor("x", dtype, list(shape), np.arange(6.0)[: shape[0] * shape[1]].tolist())
    assert quick.infer(given) == usual.infer(given)
    assert is_same(quick.impl.got[0][0], usual.impl.got[0][0])
    requests = 'mlflow_exec_requests_total{code="200",model="iris",path="%s",version="3"} 1.0'
    for served, path in ((quick, "fast"), (usual, "mlflow")):
        assert requests % path in ask(served.app, "GET", "/metrics").body.decode()


def test_mlflows_own_checks_hold() -> None:
    served = Served(NUMBERS)
    status, answer = served.infer(tensor("a", "FP64", [1], [1]))
    assert (status, "Model is missing inputs ['b', 'c']" in answer["error"]) == (400, True)
    status, answer = served.infer(tensor("x", "BYTES", [1, 3], ["1", "2", "3"]))
    assert status == 400


def test_an_error_of_the_model_is_told() -> None:
    class Failing:
        def predict(self, data: Any) -> Any:
            raise KeyError("no such thing")

    status, answer = Served(NUMBERS, Failing()).infer(tensor("x", "FP64", [1, 3], [1, 2, 3]))
    assert (status, answer["error"]) == (500, "the model failed: KeyError: 'no such thing'")


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ([], "inputs: is empty"),
        ([{"name": "a"}], "each with name, datatype and shape"),
        ([tensor("a", "FP99", [1], [1])], "input a: the datatype FP99 is not known"),
        ([tensor("a", "FP64", [2], [1])], r"input a: 1 values do not fill the shape \[2\]"),
        ([tensor("a", "FP64", [-1], [1])], r"do not fill the shape \[-1\]"),
        ([tensor("a", "FP64", [1], ["1"])], "input a: the data is not of FP64"),
        ([tensor("a", "INT8", [1], [128])], "input a: a number is outside of INT8"),
        ([tensor("a", "INT64", [1], [1.5])], "input a: the data is not of INT64"),
        ([tensor("a", "BOOL", [1], [1])], "input a: the data is not of BOOL"),
        ([tensor("a", "BYTES", [1], [1])], "input a: BYTES in JSON must be texts"),
        ([tensor("a", "FP64", [2], [[1], [1, 2]])], "lists are not of equal length"),
        ([tensor("a", "FP64", [1], 1)], "input a: data must be a list; given: int"),
        ([tensor("a", "FP64", [1], [1])] * 2, "input a: is there twice"),
        ([tensor("a", "FP64", [1, 2], [1, 2])], r"the shape \[1, 2\] is none of a column"),
    ],
)
def test_wrong_tensors_are_refused_by_name(inputs: list[Any], what: str) -> None:
    status, answer = Served(NUMBERS).infer(*inputs)
    assert status == 400
    with pytest.raises(TensorError, match=what):
        raise TensorError(answer["error"])


@pytest.mark.parametrize(
    ("size", "tail", "header", "what"),
    [
        (8, b"1234", {}, "input a: binary_data_size 8: only 4 are left"),
        (-1, b"1234", {}, "binary_data_size -1"),
        (4, b"1234", {}, "4 bytes are no whole number of FP64"),
        (8, b"123456789", {}, "the body has 1 bytes more than its tensors"),
        (8, b"12345678", {"Inference-Header-Content-Length": "9999"}, "is not within the body"),
        (8, b"12345678", {"Inference-Header-Content-Length": "x"}, "is not within the body"),
    ],
)
def test_wrong_bytes_are_refused(size: int, tail: bytes, header: Any, what: str) -> None:
    head = {"name": "a", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": size}}
    reply = Served(NUMBERS).post({"inputs": [head]}, tail, **header)
    assert (reply.status, what in json.loads(reply.body)["error"]) == (400, True)


def test_texts_travel_as_bytes() -> None:
    raw = b"".join(struct.pack("<I", len(t)) + t for t in ("é".encode(), b"", b"a\0"))
    head: dict[str, Any] = {"name": "b", "datatype": "BYTES", "shape": [3]}
    head["parameters"] = {"binary_data_size": len(raw)}
    text = json.dumps({"inputs": [head]}).encode()
    _, tensors = parse(text + raw, len(text))
    assert tensors["b"].tolist() == ["é", "", "a\0"]
    body, size = write({}, {"b": tensors["b"]}, frozenset({"b"}))
    assert body[size:] == raw
    head["parameters"] = {"binary_data_size": len(raw) - 1}
    text = json.dumps({"inputs": [head]}).encode()
    with pytest.raises(TensorError, match="goes beyond its bytes"):
        parse(text + raw[:-1], len(text))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_every_tensor_comes_back_from_its_bytes_and_from_its_json(data: st.DataObject) -> None:
    code = data.draw(st.sampled_from(sorted(DTYPES.values())))
    array = data.draw(arrays.arrays(np.dtype(code), arrays.array_shapes(min_side=0, max_side=3)))
    for binary in (frozenset(), frozenset({"x"})):
        body, size = write({}, {"x": array}, binary)
        end = len(body) if size is None else size
        text = json.dumps({"inputs": json.loads(body[:end])["outputs"]}).encode()
        _, tensors = parse(text + body[end:], None if size is None else len(text))
        assert tensors["x"].dtype == array.dtype
        np.testing.assert_array_equal(tensors["x"], array)
