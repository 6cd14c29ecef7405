"""`predict_stream` as server-sent events, and tables as Arrow."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, Schema

from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.scorer import ARROW
from tests.unit.scoring import models
from tests.unit.scoring.asgi import Reply, ask

SIGNATURE = ModelSignature(Schema([ColSpec("string", "text"), ColSpec("long", "count")]))
BODY = json.dumps({"inputs": {"text": ["ab"], "count": [3]}}).encode()
EVENTS = {"content-type": "application/json", "accept": "text/event-stream"}


class Speaking:
    """Says a word so many times; notes how many it was asked for."""

    def __init__(self) -> None:
        self.said = 0
        self.is_closed = threading.Event()

    def predict(self, data: Any) -> Any:
        return [0]

    def predict_stream(self, data: Any) -> Iterator[Any]:
        try:
            for i in range(data["count"]):
                self.said += 1
                yield {"word": data["text"], "i": i}
            if data["text"] == "fail":
                raise ValueError("no more words")
            if data["text"] == "refuse":
                raise MlflowException("no more words", error_code=1000)
        finally:
            self.is_closed.set()


def app_of(model: Any, **options: Any) -> ScoringApp:
    served = PyFuncModel(Model(signature=SIGNATURE), model, predict_stream_fn="predict_stream")
    return ScoringApp(served, ScoringOptions("m", **options))


def say(text: str, count: int) -> Reply:
    body = json.dumps({"inputs": {"text": [text], "count": [count]}}).encode()
    return ask(app_of(Speaking()), "POST", "/invocations", body, EVENTS)


def test_pieces_come_as_events() -> None:
    reply = say("ab", 2)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    assert reply.body.decode() == (
        'data: {"word": "ab", "i": 0}\n\ndata: {"word": "ab", "i": 1}\n\ndata: [DONE]\n\n'
    )


def test_many_pieces_come_all() -> None:
    assert say("ab", 500).body.count(b"\n\n") == 501


@pytest.mark.parametrize("word", ["fail", "refuse"])
def test_an_error_after_the_first_piece_is_an_event(word: str) -> None:
    first, error, rest = say(word, 1).body.decode().split("\n\n")
    assert first.startswith("data: ")
    assert error.startswith("event: error\ndata: ")
    assert "no more words" in json.loads(error.partition("data: ")[2])["message"]
    assert rest == ""


def test_what_cannot_be_asked_is_refused_as_without_a_stream() -> None:
    for body in (b"{", b'{"x": 1}'):
        plain = ask(app_of(Speaking()), "POST", "/invocations", body, {**EVENTS, "accept": "*/*"})
        reply = ask(app_of(Speaking()), "POST", "/invocations", body, EVENTS)
        assert reply == plain
        assert reply.status == 400


def test_a_model_without_predict_stream_says_so() -> None:
    model, _ = models.echoing(SIGNATURE)
    reply = ask(ScoringApp(model, ScoringOptions("m")), "POST", "/invocations", BODY, EVENTS)
    assert (reply.status, "no predict_stream" in json.loads(reply.body)["message"]) == (406, True)


def test_a_piece_that_does_not_come_in_time_ends_the_stream() -> None:
    may_end = threading.Event()

    class Stuck(Speaking):
        def predict_stream(self, data: Any) -> Iterator[Any]:
            yield "one"
            assert may_end.wait(60)
            yield "two"

    reply = ask(app_of(Stuck(), timeout_s=1), "POST", "/invocations", BODY, EVENTS)
    may_end.set()
    first, error, _ = reply.body.decode().split("\n\n")
    assert (first, "exceeded limit" in error) == ('data: "one"', True)


def test_the_model_is_asked_for_no_more_when_the_client_goes_away() -> None:
    model = Speaking()
    body = json.dumps({"inputs": {"text": ["ab"], "count": [10**9]}}).encode()

    async def run() -> None:
        got_some, messages = asyncio.Event(), [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await got_some.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message.get("body"):
                got_some.set()

        headers = [(name.encode(), value.encode()) for name, value in EVENTS.items()]
        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
        app = app_of(model)
        await app(scope, receive, send)
        assert app.metrics.in_flight == 0
        assert await asyncio.to_thread(model.is_closed.wait, 60)

    asyncio.run(run())
    assert model.said < 10**6


def arrow_of(frame: pd.DataFrame) -> bytes:
    table, sink = pa.Table.from_pandas(frame), BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_a_table_comes_as_arrow() -> None:
    model, echo = models.echoing(SIGNATURE)
    app = ScoringApp(model, ScoringOptions("m"))
    frame = pd.DataFrame({"count": [1, 2], "text": ["é", "b"]})
    reply = ask(app, "POST", "/invocations", arrow_of(frame), {"content-type": ARROW})
    assert json.loads(reply.body) == {
        "predictions": [{"text": "é", "count": 1}, {"text": "b", "count": 2}]
    }
    [(data, _)] = echo.got
    assert list(data.columns) == ["text", "count"]
    for body, what in ((arrow_of(frame[["text"]]), "missing inputs"), (b"x", "no Arrow stream")):
        reply = ask(app, "POST", "/invocations", body, {"content-type": ARROW})
        assert (reply.status, what in json.loads(reply.body)["message"]) == (400, True)


def test_arrow_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    app = ScoringApp(models.echoing(SIGNATURE)[0], ScoringOptions("m"))
    reply = ask(app, "POST", "/invocations", b"", {"content-type": ARROW})
    assert (reply.status, b"pyarrow" in reply.body) == (415, True)
