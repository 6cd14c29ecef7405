"""What `/metrics` tells Prometheus; without prometheus_client nothing is counted."""

from __future__ import annotations

from typing import Any

from mlflow_exec.scoring.options import ScoringOptions

try:
    import prometheus_client
except ImportError:
    prometheus_client = None  # type: ignore[assignment]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)
MISSING = (
    b"metrics: the package prometheus_client is missing in the model's environment; "
    b"install it: pip install prometheus-client\n"
)


class Metrics:
    """Counts the requests of one model; the labels name the model and its version."""

    def __init__(self, options: ScoringOptions) -> None:
        self.in_flight = 0
        self._children: dict[tuple[int, str], tuple[Any, Any]] = {}
        self._registry: Any = None
        if prometheus_client is None:
            return
        self._registry = registry = prometheus_client.CollectorRegistry()
        names = ("model", "version")
        self._labels = labels = (options.name or "model", options.model_version)
        self._requests = prometheus_client.Counter(
            "mlflow_exec_requests", "Requests to the model by status code and by who answered: "
            "the fast path, MLflow's own code, or neither.",
            (*names, "code", "path"), registry=registry,
        )  # fmt: skip
        self._seconds = prometheus_client.Histogram(
            "mlflow_exec_request_seconds", "From the request's head to the whole answer.",
            (*names, "path"), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._rows = prometheus_client.Histogram(
            "mlflow_exec_request_rows", "Rows of a request, where the fast path answered.",
            names, buckets=_ROWS, registry=registry,
        ).labels(*labels)  # fmt: skip
        self._batch_rows = prometheus_client.Histogram(
            "mlflow_exec_batch_rows", "Rows that the model got at once, of one or more requests.",
            names, buckets=_ROWS, registry=registry,
        ).labels(*labels)  # fmt: skip
        prometheus_client.Gauge(
            "mlflow_exec_requests_in_flight", "Requests that are being answered.",
            names, registry=registry,
        ).labels(*labels).set_function(lambda: self.in_flight)  # fmt: skip

    def count(self, code: int, path: str, seconds: float, rows: int = 0) -> None:
        """Count one answered request; `path` is ``fast``, ``mlflow`` or ``none``."""
        if self._registry is None:
            return
        found = self._children.get((code, path))
        if found is None:
            found = self._children[code, path] = (
                self._requests.labels(*self._labels, str(code), path),
                self._seconds.labels(*self._labels, path),
            )
        found[0].inc()
        found[1].observe(seconds)
        if rows:
            self._rows.observe(rows)

    def count_batch(self, rows: int) -> None:
        """Count one call of the model for several requests."""
        if self._registry is not None:
            self._batch_rows.observe(rows)

    def text(self) -> tuple[int, bytes, bytes]:
        """Return the status, the content type and the body of ``/metrics``."""
        if self._registry is None:
            return 501, b"text/plain; charset=utf-8", MISSING
        body = prometheus_client.generate_latest(self._registry)
        return 200, prometheus_client.CONTENT_TYPE_LATEST.encode(), body
