"""What makes a test a client of the tests' YARN."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clusters.yarn.cluster import YarnCluster


def use(cluster: YarnCluster, monkeypatch: pytest.MonkeyPatch, user: str | None = None) -> None:
    """Let this process, and those it starts, be a client of the cluster."""
    for name, value in cluster.environment(user).items():
        monkeypatch.setenv(name, value)
    cluster.make_home(user or cluster.superuser)


def small(cluster: YarnCluster, **further: Any) -> dict[str, Any]:
    """Return settings with which many jobs fit on a small machine, with further ones."""
    return {
        "hadoop_conf_dir": str(cluster.conf_dir),
        "resources": {"memory": "512Mi"},
        **further,
    }
