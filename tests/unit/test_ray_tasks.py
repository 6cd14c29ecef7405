"""Connecting to a Ray; `tests/mlflow/test_ray_scan` has tasks done on a real one."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from mlflow_exec.clients.ray_tasks import connected
from mlflow_exec.errors import UnreachableError

HEAD = "ray://head:10001"


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_what_ray_starts_for_a_client_is_asked_for_thrice(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def init(address: str, **_: Any) -> None:
        asked.append(address)
        if len(asked) <= failures:
            raise ConnectionAbortedError("Initialization failure from server: it is a zombie")

    monkeypatch.setattr(ray, "init", init)
    if failures == 3:
        with pytest.raises(UnreachableError, match="it is a zombie"), connected(HEAD):
            pass
    else:
        with connected(HEAD):
            pass
    assert asked == [HEAD] * min(failures + 1, 3)
