"""OpenTelemetry: one server span for each prediction, where a collector is named.

The variables are OpenTelemetry's own, which its SDK reads: the collector, headers, certificates,
the sampler, the resource, the propagators, the sizes of batches. The provider is none but ours:
what MLflow's tracing or the model has set for the whole process stays as it is.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_exec.scoring.asgi import Answer, Scope
from mlflow_exec.scoring.options import ScoringOptions

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PACKAGES = {"http/protobuf": "proto-http", "grpc": "proto-grpc"}
"""By the name of a protocol: what the package of its exporter is called."""

FLUSH_S = 5.0
"""How long the end waits for a collector to take the last spans."""


class Traces:
    """Makes the spans of one model's predictions."""

    def __init__(self, provider: Any, options: ScoringOptions) -> None:
        from opentelemetry import propagate, trace

        self._provider = provider
        self._tracer = provider.get_tracer("mlflow_exec.scoring")
        self._extract = propagate.extract
        self._server = trace.SpanKind.SERVER
        self._error = trace.Status(trace.StatusCode.ERROR)
        self._about_model = {"mlflow_exec.model.name": options.name or "model"}
        if options.model_version:
            self._about_model["mlflow_exec.model.version"] = options.model_version

    @classmethod
    def of(cls, options: ScoringOptions, environ: Mapping[str, str] = os.environ) -> Traces | None:
        """Return what traces, or None where no collector is named or no exporter is installed."""
        endpoint = next((name for name in _ENDPOINTS if environ.get(name)), None)
        if endpoint is None or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return None
        if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
            return None
        chosen = [environ[name] for name in _PROTOCOLS if environ.get(name)]
        protocol = chosen[0] if chosen else "http/protobuf"
        if protocol not in _PACKAGES:
            _logger.warning(
                "%s is set, and no traces are sent: the protocol %s is none of %s",
                endpoint, protocol, ", ".join(_PACKAGES),
            )  # fmt: skip
            return None
        try:
            return cls(_provider(protocol, options.name), options)
        except ImportError as error:
            _logger.warning(
                "%s is set, and no traces are sent: %s; install in the model's environment: "
                "opentelemetry-sdk opentelemetry-exporter-otlp-%s",
                endpoint, error, _PACKAGES[protocol],
            )  # fmt: skip
            return None
        except ValueError as error:  # a number that the SDK cannot use
            _logger.warning("%s is set, and no traces are sent: %s", endpoint, error)
            return None

    def begin(self, scope: Scope, path: str) -> Span:
        """Begin the span of a prediction, below that of the caller where its headers name one.

        Args:
            scope: The request's, as ASGI describes it.
            path: The request's path below the one that the application is mounted at.
        """
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        route = scope["path"][: -len(path)] + _route(path)
        attributes = {
            "http.request.method": scope["method"], "http.route": route,
            "url.path": scope["path"], "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"), **self._about_model,
        }  # fmt: skip
        if scope.get("client"):
            attributes["client.address"] = scope["client"][0]
        if "user-agent" in headers:
            attributes["user_agent.original"] = headers["user-agent"]
        span: Span = self._tracer.start_span(
            f"{scope['method']} {route}", self._extract(headers), self._server, attributes
        )
        return span

    def end(self, span: Span, answer: Answer | None) -> None:
        """End a span with what was answered; None: the client went away before that."""
        if answer is not None:
            span.set_attribute("http.response.status_code", answer.status)
            span.set_attribute("mlflow_exec.path", answer.path)
            if answer.rows:
                span.set_attribute("mlflow_exec.rows", answer.rows)
            if answer.status >= 500:
                span.set_attribute("error.type", str(answer.status))
                span.set_status(self._error)
        span.end()

    def stop(self) -> None:
        """Send what was not sent yet, for `FLUSH_S` at most; later spans are dropped."""
        # The SDK itself waits for half a minute.
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(FLUSH_S)
        if sending.is_alive():
            _logger.warning("the last traces are lost: no collector took them in %g s", FLUSH_S)


def _provider(protocol: str, name: str) -> Any:
    """Return a provider of our own, whose exporter and resource are as the environment says."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    package = _PACKAGES[protocol].replace("-", ".")
    exporter = import_module(f"opentelemetry.exporter.otlp.{package}.trace_exporter")
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": name or "mlflow-exec"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter.OTLPSpanExporter()))
    return provider


def _route(path: str) -> str:
    """Return the path without what clients choose, as many names are many routes."""
    if not path.startswith("/v2/"):
        return path
    version = "/versions/{version}" if "/versions/" in path else ""
    return f"/v2/models/{{model}}{version}/infer"
