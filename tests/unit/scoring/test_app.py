"""The application's answers outside of predictions: paths, methods, limits, tokens, metrics."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ColSpec, Schema
from sklearn.linear_model import LinearRegression

from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.options import OptionsError, ScoringOptions
from tests.unit.scoring import models
from tests.unit.scoring.asgi import Reply, ask, ask_async

SIGNATURE = ModelSignature(Schema([ColSpec("double", "a")]))
BODY = b'{"inputs": {"a": [1.5]}}'
JSON = {"content-type": "application/json"}
PREDICTED = b'{"predictions": [{"a": 1.5}]}'


def app_of(**options: Any) -> ScoringApp:
    return ScoringApp(models.echoing(SIGNATURE)[0], ScoringOptions("m", **options))


def invoke(app: ScoringApp, token: str = "", body: bytes = BODY, **headers: str) -> Reply:
    asked = {**JSON, **headers}
    if token:
        asked["authorization"] = f"Bearer {token}"
    return ask(app, "POST", "/invocations", body, asked)


class Waiting:
    """A model that answers when the test says so."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()

    def predict(self, data: Any, params: Any = None) -> list[int]:
        self.is_asked.set()
        assert self.may_answer.wait(60)
        return [1]


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    model = Waiting()
    yield model
    model.may_answer.set()


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/ping", "/health", "/version", "/invocations", "/ping/", "/invocations/", "/", "/x", "//x",
        "/m|/ping", "/m|/invocations", "/m|/ping/", "/m|", "/m|x",
    ],
)  # fmt: skip
def test_every_path_and_method_is_answered_as_by_mlflow(method: str, path: str) -> None:
    model, _ = models.echoing(SIGNATURE)
    headers = {**JSON, "host": "h:1"}
    expected = ask(scoring_server.init(model), method, path, BODY, headers)
    reply = ask(app_of(), method, path, BODY, headers)
    assert reply == expected


@pytest.mark.parametrize("body", [BODY, b"{", b'{"inputs": {"b": [1]}}', b""])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_body_is_answered_as_by_mlflow_however_it_arrives(body: bytes, chunks: int) -> None:
    model, _ = models.echoing(SIGNATURE)
    size = max(1, len(body) // chunks)
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    expected = ask(scoring_server.init(model), "POST", "/invocations", body, JSON)
    assert ask(app_of(), "POST", "/invocations", parts, JSON) == expected


def test_a_request_without_content_type_is_answered_as_by_mlflow() -> None:
    model, _ = models.echoing(SIGNATURE)
    expected = ask(scoring_server.init(model), "POST", "/invocations", BODY)
    assert ask(app_of(), "POST", "/invocations", BODY) == expected
    assert expected.status == 500


def read_counter(read: list[int]) -> Iterator[bytes]:
    for _ in range(100):
        read.append(1)
        yield b"x" * 10


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole() -> None:
    app = app_of(max_request_bytes=24)
    assert invoke(app, body=BODY).status == 200
    assert len(BODY) == 24
    reply = invoke(app, body=BODY + b" ")
    assert reply.status == 413
    assert "max_request_bytes, 24" in json.loads(reply.body)["message"]
    read: list[int] = []
    reply = ask(app, "POST", "/invocations", read_counter(read), {**JSON, "content-length": "1000"})
    assert (reply.status, read) == (413, [])
    reply = ask(app, "POST", "/invocations", read_counter(read), JSON)
    assert reply.status == 413
    assert len(read) == 3


@pytest.mark.parametrize(("rows", "by_thread"), [(1, False), (101, True), (20_000, True)])
def test_a_few_rows_for_a_linear_model_take_no_thread(rows: int, by_thread: bool) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
    model = LinearRegression().fit(frame, [2.0, 4.0, 6.0])
    served = PyFuncModel(Model(signature=SIGNATURE), model, predict_fn="predict")
    app = ScoringApp(served, ScoringOptions("m"))
    threads: list[str] = []
    usual = app.scorer.answer_to

    def noting(*asked: Any) -> Any:
        threads.append(threading.current_thread().name)
        return usual(*asked)

    app.scorer.answer_to = noting  # type: ignore[method-assign,assignment]
    body = json.dumps({"inputs": {"a": [1.5] * rows}}).encode()
    reply = invoke(app, body=body)
    assert json.loads(reply.body)["predictions"] == pytest.approx([3.0] * rows)
    assert (threads == ["prediction"]) is by_thread


def test_a_prediction_over_the_time_limit_is_answered_as_by_mlflow(waiting: Waiting) -> None:
    model = PyFuncModel(Model(signature=SIGNATURE), waiting)
    reply = invoke(ScoringApp(model, ScoringOptions("m", timeout_s=0.05)))
    assert waiting.is_asked.is_set()
    assert reply == Reply(
        504,
        b"Request processing time exceeded limit",
        {"content-length": "38", "content-type": "application/json"},
    )


@pytest.mark.parametrize("first", [[], [{"type": "http.request", "body": b"{", "more_body": True}]])
def test_a_body_that_does_not_come_in_time_takes_no_thread(first: list[dict[str, Any]]) -> None:
    async def run() -> Reply:
        app = app_of(timeout_s=3, max_concurrent=1)
        sent: list[dict[str, Any]] = []
        parts = list(first)

        async def receive() -> dict[str, Any]:
            return parts.pop() if parts else await asyncio.Future()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
        slow = asyncio.create_task(app(scope, receive, send))
        await asyncio.sleep(0)
        quick = await ask_async(app, "POST", "/invocations", BODY, JSON)
        assert not slow.done()
        await asyncio.wait_for(slow, 60)
        assert (sent[0]["status"], app.metrics.in_flight) == (504, 0)
        return quick

    assert asyncio.run(run()).body == PREDICTED


def test_ping_answers_while_models_predict_and_predictions_go_side_by_side(
    waiting: Waiting,
) -> None:
    async def run() -> list[Reply]:
        app = ScoringApp(PyFuncModel(Model(signature=SIGNATURE), waiting), ScoringOptions("m"))
        asked = [
            asyncio.create_task(ask_async(app, "POST", "/invocations", BODY, JSON))
            for _ in range(5)
        ]
        while app.metrics.in_flight < 5:
            await asyncio.sleep(0)
        assert (await ask_async(app, "GET", "/ping")).status == 200
        waiting.may_answer.set()
        return await asyncio.gather(*asked)

    assert [reply.body for reply in asyncio.run(run())] == [b'{"predictions": [1]}'] * 5


def test_what_is_stopped_answers_ping_with_503_and_ends_when_all_is_answered(
    waiting: Waiting,
) -> None:
    async def run() -> None:
        app = ScoringApp(PyFuncModel(Model(signature=SIGNATURE), waiting), ScoringOptions("m"))
        asked = asyncio.create_task(ask_async(app, "POST", "/invocations", BODY, JSON))
        while not waiting.is_asked.is_set():
            await asyncio.sleep(0)
        app.stop()
        assert (await ask_async(app, "GET", "/ping")).status == 503
        drained = asyncio.create_task(app.drained())
        await asyncio.sleep(0.05)
        assert not drained.done()
        waiting.may_answer.set()
        assert await drained
        assert (await asked).status == 200

    asyncio.run(run())


def test_draining_has_an_end_even_where_a_stream_has_none() -> None:
    async def run() -> bool:
        app = app_of(timeout_s=0.01, drain_s=0.01)
        app.metrics.in_flight += 1
        return await app.drained()

    assert not asyncio.run(run())


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text("first\n\n second \n")
    return file


def test_tokens_are_asked_for_before_the_body_is_read(token_file: Path) -> None:
    app = app_of(token_file=str(token_file))
    read: list[int] = []
    reply = ask(app, "POST", "/invocations", read_counter(read), JSON)
    assert (reply.status, read) == (401, [])
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in json.loads(reply.body)["message"]
    for wrong in ("third", "firs", "first second", "", "é"):
        assert invoke(app, wrong).status == 401
    assert invoke(app, authorization="Basic first").status == 401
    for right in ("first", "second"):
        assert invoke(app, right).body == PREDICTED
    assert invoke(app, authorization="bearer first").status == 200
    assert [ask(app, "GET", path).status for path in ("/ping", "/health")] == [200, 200]
    assert [ask(app, "GET", path).status for path in ("/version", "/metrics", "/x")] == [401] * 3


def test_a_changed_token_file_holds_at_once(token_file: Path) -> None:
    app = app_of(token_file=str(token_file))
    replaced = token_file.with_name("new")
    replaced.write_text("third\nsecond")
    os.replace(replaced, token_file)
    assert [invoke(app, token).status for token in ("first", "second", "third")] == [401, 200, 200]
    token_file.unlink()
    assert invoke(app, "third").status == 200
    token_file.write_text("")
    assert invoke(app, "third").status == 401


def test_a_token_file_may_be_below_the_home(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(token_file.parent))
    app = app_of(token_file="~/tokens")
    assert [invoke(app, token).status for token in ("first", "third")] == [200, 401]


def test_tokens_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORING_TOKEN", "secret-7")
    app = app_of(token_env="SCORING_TOKEN")
    assert [invoke(app, token).status for token in ("secret-7", "secret")] == [200, 401]
    assert "secret-7" not in repr(vars(app.options)) + app.options.to_json()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"token_env": "NOT_SET"}, "NOT_SET holds no token"),
        ({"token_file": "/nowhere"}, "/nowhere cannot be read"),
    ],
)
def test_a_server_that_asks_for_tokens_without_any_does_not_start(
    options: dict[str, str], what: str
) -> None:
    with pytest.raises(OptionsError, match=what):
        app_of(**options)


def metrics_of(app: ScoringApp, **headers: str) -> Callable[[str], float]:
    lines = ask(app, "GET", "/metrics", headers=headers).body.decode().splitlines()

    def value(start: str) -> float:
        return sum(float(line.split()[-1]) for line in lines if line.startswith(start))

    return value


def test_metrics_count_by_code_and_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORING_TOKEN", "t")
    app = app_of(name="iris", model_version="3", token_env="SCORING_TOKEN")
    for body in (BODY, BODY, b'{"inputs": {"a": ["1"]}}', b"{"):
        invoke(app, "t", body=body)
    invoke(app, "x")
    value = metrics_of(app, authorization="Bearer t")
    labels = 'mlflow_exec_requests_total{code="%s",model="iris",path="%s",version="3"}'
    assert value(labels % (200, "fast")) == 2
    assert value(labels % (200, "mlflow")) == 1
    assert value(labels % (400, "mlflow")) == 1
    assert value(labels % (401, "none")) == 1
    assert value("mlflow_exec_request_seconds_count") == 5
    assert value("mlflow_exec_request_rows_sum") == 2
    assert value("mlflow_exec_requests_in_flight") == 0


def test_without_prometheus_client_metrics_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlflow_exec.scoring.metrics.prometheus_client", None)
    app = app_of()
    assert invoke(app).status == 200
    reply = ask(app, "GET", "/metrics")
    assert (reply.status, b"pip install prometheus-client" in reply.body) == (501, True)
