"""A fixture that gives tests a real Kueue, beside a cluster that the tests started.

It is there while the tests of one module use it, because it changes what other tests see.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.clusters.kueue import build, manager
from tests.clusters.pytest_kubernetes import KubernetesCluster, unavailable


@pytest.fixture(scope="module")
def kueue(kubernetes_cluster: KubernetesCluster) -> Iterator[manager.Kueue]:
    """A real Kueue; it takes care of the Jobs that name a queue, and of no others."""
    if kubernetes_cluster.ours is None:
        unavailable("Kueue runs as a process beside a cluster that the tests started")
    if shutil.which("go") is None and not build.cached():
        unavailable("Go is missing, to build Kueue: https://go.dev/doc/install")
    with manager.running(kubernetes_cluster.ours) as kueue:
        yield kueue
