"""Each prediction is a span of the caller's trace, at a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, Schema
from opentelemetry import trace

from mlflow_exec.scoring import traces
from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.options import ScoringOptions
from tests.unit.scoring import models
from tests.unit.scoring.asgi import ask
from tests.unit.scoring.collector import Collector, Span, collecting, collecting_by_grpc

SIGNATURE = ModelSignature(Schema([ColSpec("double", "a")]))
BODY = b'{"inputs": {"a": [1.5, 2.5]}}'
SLOW_WAY = b'{"inputs": {"a": ["1.5"]}}'
JSON = {"content-type": "application/json"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EXPORTERS = "opentelemetry.exporter.otlp.proto"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def app_of(model: Any = None, **options: Any) -> ScoringApp:
    echoing, _ = models.echoing(SIGNATURE)
    model = PyFuncModel(Model(signature=SIGNATURE), model) if model else echoing
    return ScoringApp(model, ScoringOptions("m", **options))


def end(app: ScoringApp) -> None:
    """Stop an application as a server does."""

    async def run() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "lifespan.shutdown"}

        async def send(_: dict[str, Any]) -> None:
            pass

        await app({"type": "lifespan"}, receive, send)

    asyncio.run(run())


def spans_of(
    app: ScoringApp, collector: Collector, body: bytes = BODY, path: str = "/invocations",
    headers: dict[str, str] = JSON,
) -> list[Span]:  # fmt: skip
    ask(app, "POST", path, body, headers)
    end(app)
    return collector.spans


def test_a_prediction_is_a_span_of_the_callers_trace(collector: Collector) -> None:
    app = app_of(name="iris", model_version="3")
    headers = {
        **JSON, "traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "rojo=1", "user-agent": "me"
    }  # fmt: skip
    [span] = spans_of(app, collector, headers=headers)
    assert span.sent.trace_id.hex() == TRACE
    assert span.sent.parent_span_id.hex() == PARENT
    assert span.sent.trace_state == "rojo=1"
    assert (span.sent.name, span.sent.kind) == ("POST /invocations", span.sent.SPAN_KIND_SERVER)
    assert span.sent.end_time_unix_nano > span.sent.start_time_unix_nano
    assert span.sent.status.code == span.sent.status.STATUS_CODE_UNSET
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/invocations",
        "http.response.status_code": 200,
        "url.path": "/invocations",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "me",
        "mlflow_exec.model.name": "iris",
        "mlflow_exec.model.version": "3",
        "mlflow_exec.path": "fast",
        "mlflow_exec.rows": 2,
    }
    assert span.resource["service.name"] == "iris"


def test_a_collector_may_speak_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting_by_grpc() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        [span] = spans_of(app_of(), collector)
    assert span.attributes["http.response.status_code"] == 200


def test_without_a_caller_it_begins_a_trace(collector: Collector) -> None:
    [span] = spans_of(app_of(), collector)
    assert (len(span.sent.trace_id), span.sent.parent_span_id) == (16, b"")
    assert span.attributes["mlflow_exec.model.name"] == "model"
    assert span.resource["service.name"] == "mlflow-exec"


def test_what_the_caller_does_not_sample_is_not_sent(collector: Collector) -> None:
    headers = {**JSON, "traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert spans_of(app_of(), collector, headers=headers) == []


def test_each_request_has_a_span_in_a_batch_too(collector: Collector) -> None:
    app = app_of(batch_max_rows=8)
    for _ in range(3):
        ask(app, "POST", "/invocations", BODY, JSON)
    end(app)
    assert [span.attributes["mlflow_exec.rows"] for span in collector.spans] == [2, 2, 2]


@pytest.mark.parametrize(
    ("body", "headers", "status", "path", "error"),
    [
        (SLOW_WAY, JSON, 200, "mlflow", None),
        (b"{", JSON, 400, "mlflow", None),
        (b" " * 60, JSON, 413, "none", None),
        (BODY, {}, 500, "mlflow", "500"),
    ],
)
def test_the_span_tells_who_answered_and_how(
    collector: Collector, body: bytes, headers: dict[str, str], status: int, path: str, error: Any
) -> None:
    [span] = spans_of(app_of(max_request_bytes=50), collector, body, headers=headers)
    assert span.attributes["http.response.status_code"] == status
    assert span.attributes["mlflow_exec.path"] == path
    assert span.attributes.get("error.type") == error
    is_error = span.sent.status.code == span.sent.status.STATUS_CODE_ERROR
    assert is_error == (error is not None)


def test_routes_name_where_the_application_is_and_no_name_of_a_client(
    collector: Collector,
) -> None:
    app = app_of(name="iris")
    for path in ("/v2/models/iris/infer", "/v2/models/x/versions/7/infer", "/at|/invocations"):
        ask(app, "POST", path, b"{}", JSON)
    end(app)
    assert [span.attributes["http.route"] for span in collector.spans] == [
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
        "/at/invocations",
    ]
    assert collector.spans[1].attributes["url.path"] == "/v2/models/x/versions/7/infer"


def test_only_predictions_are_traced(collector: Collector) -> None:
    app = app_of()
    for path in ("/ping", "/metrics", "/x"):
        ask(app, "GET", path)
    ask(app, "GET", "/invocations")
    end(app)
    assert collector.spans == []


def test_opentelemetrys_variables_are_honoured(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=ours")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "prices")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    [span] = spans_of(app_of(name="iris"), collector)
    assert span.resource["service.name"] == "prices"
    assert span.resource["deployment.environment.name"] == "test"
    assert collector.headers["x-team"] == "ours"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ],
)
def test_it_is_off_where_a_variable_says_so(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    name: str, value: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    assert spans_of(app_of(), collector) == []
    assert caplog.records == []


def test_without_a_collector_nothing_of_it_is_made() -> None:
    assert traces.Traces.of(ScoringOptions("m"), {}) is None


@pytest.mark.parametrize(
    ("module", "protocol", "what"),
    [
        (f"{EXPORTERS}.http.trace_exporter", "", "sdk opentelemetry-exporter-otlp-proto-http"),
        ("opentelemetry.sdk.trace", "http/protobuf", "install in the model's environment: "),
        (f"{EXPORTERS}.grpc.trace_exporter", "grpc", "opentelemetry-exporter-otlp-proto-grpc"),
        ("none", "http/json", "the protocol http/json is none of http/protobuf, grpc"),
    ],
)
def test_a_collector_that_nothing_can_be_sent_to_is_one_line_in_the_log(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    module: str, protocol: str, what: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)  # so its import fails
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    app = app_of()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("OTEL_EXPORTER_OTLP_ENDPOINT is set, and no traces are")
    assert what in record.getMessage()
    assert ask(app, "POST", "/invocations", BODY, JSON).status == 200


def test_a_number_that_opentelemetry_cannot_use_is_one_line_in_the_log(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    app = app_of()
    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "no traces are sent: " in record.getMessage()
    assert ask(app, "POST", "/invocations", BODY, JSON).status == 200


def test_the_processs_own_tracer_provider_stays_as_it_is(collector: Collector) -> None:
    before = trace._TRACER_PROVIDER
    seen = []

    class Looking:
        def predict(self, data: Any, params: Any = None) -> list[int]:
            seen.append(trace.get_current_span().get_span_context().is_valid)
            return [1]

    assert len(spans_of(app_of(Looking()), collector)) == 1
    assert trace._TRACER_PROVIDER is before
    assert seen == [False] * len(seen) != []


def test_a_collector_that_does_not_answer_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traces, "FLUSH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
        app = app_of()
        ask(app, "POST", "/invocations", BODY, JSON)
        start_s = time.monotonic()
        end(app)
        assert time.monotonic() - start_s < 30
    assert "the last traces are lost" in caplog.text


def test_a_client_that_leaves_ends_its_span_without_a_status(collector: Collector) -> None:
    async def run(app: ScoringApp) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(_: dict[str, Any]) -> None:
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
        await app(scope, receive, send)

    app = app_of()
    asyncio.run(run(app))
    end(app)
    [span] = collector.spans
    assert "http.response.status_code" not in span.attributes


def test_it_makes_threads_only_where_it_sends(collector: Collector) -> None:
    def senders() -> int:
        return sum("OtelBatchSpan" in thread.name for thread in threading.enumerate())

    before = senders()
    app = app_of()
    assert senders() == before + 1
    end(app)
    assert senders() == before
