"""A system that serves models, as the suites of deployments and of endpoints use it."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.deployments import BaseDeploymentClient

from mlflow_exec.testing.served_models import save_model

Ask = Callable[[], tuple[int, bytes]]
"""Sends one request and never again; returns the status code and the body."""


@dataclass(frozen=True)
class Served:
    """Deployments and endpoints on one system.

    Attributes:
        client: MLflow's.
        uri: The target's.
        of_deployments: The settings of a small deployment that runs in the environment there is.
        of_endpoints: The settings of endpoints.
        of_both: The settings of a deployment whose endpoint is made along with it.
        asks: Returns what asks one of them by its name, with some headers.
        replicas: Returns what tells those that run from each other and from later ones.
        kill: Ends one of these at once, in the middle of what it does.
        leftovers: Names all that the system has of a deployment or an endpoint.
        models: A folder for models.
    """

    client: BaseDeploymentClient
    uri: str
    of_deployments: Mapping[str, str]
    of_endpoints: Mapping[str, str]
    of_both: Mapping[str, str]
    asks: Callable[[str, Mapping[str, str]], Ask]
    replicas: Callable[[str], set[str]]
    kill: Callable[[str], None]
    leftovers: Callable[[str], list[str]]
    models: Path

    def model(self, answer: int, **making: Any) -> str:
        """Save a model that answers this, as `save_model` does, and return its URI."""
        folder = Path(tempfile.mkdtemp(dir=self.models))
        return str(save_model(folder, answer, **making))

    def make(self, name: str, answer: int, **config: str) -> dict[str, Any]:
        """Deploy a model that answers this."""
        settings = {**self.of_deployments, **config}
        made = self.client.create_deployment(name, self.model(answer), config=settings)
        return dict(made)

    def options(self, **config: str) -> list[str]:
        """Return the settings of deployments as a command line has them."""
        pairs = [f"{key}={value}" for key, value in {**self.of_deployments, **config}.items()]
        return [part for pair in pairs for part in ("-C", pair)]


@dataclass
class Load:
    """Requests one after the other in each of some threads, and how they were answered.

    Attributes:
        asked: When each request that was answered was sent (monotonic seconds), and its answer.
        failures: What the others got.
    """

    asked: list[tuple[float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def answers(self) -> list[int]:
        """The answers as they came."""
        return [answer for _, answer in self.asked]

    def since(self, start_s: float) -> list[int]:
        """Return the answers to requests that were sent later than that."""
        return [answer for asked_s, answer in self.asked if asked_s > start_s]

    def reaches(self, count: int) -> None:
        """Wait until there were so many answers more than now."""
        wanted = len(self.asked) + count
        end_s = time.monotonic() + 60
        while len(self.asked) < wanted:
            assert time.monotonic() < end_s, f"no {count} answers: {self.failures[:3]}"
            time.sleep(0.02)


@contextmanager
def steady_load(ask: Ask, threads: int = 4) -> Iterator[Load]:
    """Ask all the time; at the end every answer was a right one.

    Args:
        ask: Sends one request; returns the status code and the body.
        threads: How many ask at a time.
    """
    load, stop = Load(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            asked_s = time.monotonic()
            try:
                status, body = ask()
            except Exception as error:
                load.failures.append(repr(error))
                continue
            if status == 200:
                load.asked.append((asked_s, json.loads(body)["predictions"][0]))
            else:
                load.failures.append(f"{status}: {body[:300]!r}")

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in running:
            thread.join()
    assert load.failures == [], f"{len(load.failures)} of {len(load.asked)}: {load.failures[:3]}"
