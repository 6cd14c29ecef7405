"""What a router has counted, as JSON and for Prometheus; the latter needs prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mlflow_exec.scoring.metrics import MISSING

try:
    import prometheus_client
    from prometheus_client.metrics_core import CounterMetricFamily
except ImportError:
    prometheus_client = None  # type: ignore[assignment]

OUTCOMES = ("same", "different", "failed", "dropped")


@dataclass(eq=False)
class RouteCounts:
    """Counts by variant, since the process has started.

    Attributes:
        endpoint: The endpoint's name.
        answers: How many answers of each variant were passed on, by status code.
        shadows: How many copies for each shadow ended in each of `OUTCOMES`: answered as the
            variant did, otherwise, not at all, or not sent because too many were under way.
        seconds: How long the answers of each variant took, all together.
    """

    endpoint: str
    answers: dict[str, dict[int, int]] = field(default_factory=dict)
    shadows: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def answered(self, variant: str, status: int, seconds: float) -> None:
        """Count an answer."""
        by_status = self.answers.setdefault(variant, {})
        by_status[status] = by_status.get(status, 0) + 1
        self.seconds[variant] = self.seconds.get(variant, 0.0) + seconds

    def shadowed(self, variant: str, outcome: str) -> None:
        """Count a copy, by one of `OUTCOMES`."""
        self.shadows.setdefault(variant, dict.fromkeys(OUTCOMES, 0))[outcome] += 1

    def to_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        answers = {
            variant: {str(status): count for status, count in sorted(by_status.items())}
            for variant, by_status in self.answers.items()
        }
        return {"answers": answers, "shadows": self.shadows}

    def collect(self) -> Iterator[Any]:
        """Yield the metric families that Prometheus gets."""
        names = ["endpoint", "variant"]
        answers = CounterMetricFamily(
            "mlflow_exec_route_answers", "Answers passed on.", labels=[*names, "code"]
        )
        seconds = CounterMetricFamily(
            "mlflow_exec_route_seconds", "Seconds that they took in all.", labels=names
        )
        shadows = CounterMetricFamily(
            "mlflow_exec_route_shadows", "Copies of requests by what became of them: the answer "
            "was the same or different, it failed, or too many were under way.",
            labels=[*names, "outcome"],
        )  # fmt: skip
        for variant, by_status in self.answers.items():
            for status, count in by_status.items():
                answers.add_metric([self.endpoint, variant, str(status)], count)
            seconds.add_metric([self.endpoint, variant], self.seconds[variant])
        for variant, by_outcome in self.shadows.items():
            for outcome, count in by_outcome.items():
                shadows.add_metric([self.endpoint, variant, outcome], count)
        yield from (answers, seconds, shadows)

    def text(self) -> tuple[int, bytes, bytes]:
        """Return the status, the content type and the body of ``/metrics``."""
        if prometheus_client is None:
            return 501, b"text/plain; charset=utf-8", MISSING
        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        body = prometheus_client.generate_latest(registry)
        return 200, prometheus_client.CONTENT_TYPE_LATEST.encode(), body
