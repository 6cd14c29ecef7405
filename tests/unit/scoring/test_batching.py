"""Requests that wait are put together, and each gets the answer that it would get alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.options import ScoringOptions
from tests.unit.scoring.asgi import Reply, ask_async

COLUMNS = Schema([ColSpec("double", "a"), ColSpec("string", "b")])
TENSOR = Schema([TensorSpec(np.dtype(np.float64), (-1, -1))])
JSON = {"content-type": "application/json"}


class Gated:
    """Holds its first call until the others wait; notes how many rows each call had."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.rows: list[int] = []
        self.is_open = threading.Event()

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        assert self.is_open.wait(30)
        self.rows.append(len(data))
        return self.answer(data)


def row(*values: float) -> dict[str, Any]:
    rows = [[value, f"t{value}"] for value in values]
    return {"dataframe_split": {"columns": ["a", "b"], "data": rows}}


def ask_all(
    answer: Callable[[Any], Any],
    requests: list[dict[str, Any]],
    schema: Schema = COLUMNS,
    params: ParamSchema | None = None,
    **options: Any,
) -> tuple[list[Reply], list[int]]:
    """Ask one request, and the others while the model is busy with it."""
    model = Gated(answer)
    signature = ModelSignature(schema, params=params)
    given = ScoringOptions("m", **{"batch_max_rows": 64, **options})

    async def run() -> list[Reply]:
        app = ScoringApp(PyFuncModel(Model(signature=signature), model), given)
        asked = []
        for request in requests:
            body = json.dumps(request).encode()
            asked.append(
                asyncio.create_task(ask_async(app, "POST", "/invocations", body, JSON))
            )
            while app.metrics.in_flight < len(asked):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        model.is_open.set()
        return await asyncio.gather(*asked)

    return asyncio.run(run()), model.rows


def alone(answer: Callable[[Any], Any], request: dict[str, Any], **more: Any) -> Reply:
    [reply], _ = ask_all(answer, [request], batch_max_rows=0, **more)
    return reply


RESULTS: dict[str, Callable[[Any], Any]] = {
    "array": lambda data: data["a"].to_numpy() * 2,
    "table": lambda data: np.stack([data["a"], data["a"]], axis=1),
    "frame": lambda data: data,
    "series": lambda data: data["b"],
    "list": lambda data: list(data["b"]),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_each_request_gets_its_own_rows(kind: str) -> None:
    requests = [row(0.1), row(1, 2), row(3), row(4, 5, 6), row(7)]
    replies, rows = ask_all(RESULTS[kind], requests)
    assert replies == [alone(RESULTS[kind], request) for request in requests]
    assert rows == [1, 7]


def test_a_request_with_row_labels_of_its_own_goes_alone() -> None:
    named, counted = row(2, 3), row(4, 5)
    named["dataframe_split"]["index"] = ["x", "y"]
    counted["dataframe_split"]["index"] = [0, 1]
    requests = [row(0), named, row(1), counted]
    replies, rows = ask_all(lambda data: list(map(str, data.index)), requests)
    assert json.loads(replies[1].body)["predictions"] == ["x", "y"]
    assert sorted(rows) == [1, 2, 3]


def test_a_bad_request_fails_alone() -> None:
    def answer(data: pd.DataFrame) -> Any:
        if (data["a"] < 0).any():
            raise ValueError("negative")
        return data["a"].to_numpy()

    replies, rows = ask_all(answer, [row(1), row(2), row(-1), row(3)])
    assert [reply.status for reply in replies] == [200, 200, 400, 200]
    assert json.loads(replies[2].body)["stack_trace"].endswith("ValueError: negative\n")
    assert rows == [1, 3, 1, 1, 1]
    assert replies[3].body == b'{"predictions": [3.0]}'


def test_what_only_mlflow_understands_goes_alone_beside_a_batch() -> None:
    odd = {"dataframe_split": {"columns": ["a", "b"], "data": [["1.5", "x"]]}}
    replies, rows = ask_all(RESULTS["list"], [row(0), row(1), odd, {"x": 1}, row(2)])
    assert [reply.status for reply in replies] == [200, 200, 200, 400, 200]
    assert sorted(rows) == [1, 1, 2]


def test_a_batch_has_at_most_so_many_rows() -> None:
    requests = [row(0), *[row(1, 2)] * 5, row(*range(9))]
    replies, rows = ask_all(RESULTS["list"], requests, batch_max_rows=4)
    assert [reply.status for reply in replies] == [200] * 7
    assert sum(rows) == 20
    assert max(rows) == 9
    assert sorted(rows)[-2] == 4


def test_only_arrays_of_equal_shape_are_put_together() -> None:
    requests = [{"inputs": [[1.0] * size]} for size in (1, 2, 3, 2, 3)]

    def answer(data: Any) -> Any:
        return data.sum(axis=1)

    replies, rows = ask_all(answer, requests, TENSOR)
    assert [json.loads(reply.body)["predictions"] for reply in replies] == [[1], [2], [3], [2], [3]]
    assert sorted(rows) == [1, 2, 2]


def test_requests_with_parameters_go_alone() -> None:
    params = ParamSchema([ParamSpec("scale", "double", 1.0)])
    requests = [row(0), {**row(1), "params": {"scale": 2.0}}, row(2), row(3)]
    _, rows = ask_all(RESULTS["list"], requests, COLUMNS, params)
    assert sorted(rows) == [1, 1, 2]


def test_a_model_that_does_not_answer_by_rows_is_not_batched() -> None:
    replies, rows = ask_all(lambda data: {"mean": data["a"].mean()}, [row(1), row(2), row(3)])
    assert [json.loads(reply.body)["predictions"]["mean"] for reply in replies] == [1, 2, 3]
    assert rows == [1, 2, 1, 1]


def test_a_batch_is_waited_for_only_while_the_model_is_busy() -> None:
    replies, rows = ask_all(RESULTS["list"], [row(1)], batch_wait_ms=1e7)
    assert (replies[0].status, rows) == (200, [1])


def test_the_time_limit_holds_in_batches() -> None:
    def slow(data: Any) -> Any:
        assert never.wait(30)
        return [0] * len(data)

    never = threading.Event()
    replies, _ = ask_all(slow, [row(1), row(2)], timeout_s=0.1)
    never.set()
    assert [reply.status for reply in replies] == [504, 504]
