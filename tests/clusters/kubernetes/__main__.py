"""`python -m tests.clusters.kubernetes`: a cluster for people, outside of any test session.

`up` starts one and returns; it runs until `down`, also across test sessions. `build` only fills the
cache, `status` tells what runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.clusters.cache import cache_folder
from tests.clusters.kubernetes import build, images
from tests.clusters.kubernetes.cluster import Cluster
from tests.clusters.kubernetes.components import COMPONENTS, node_ready
from tests.clusters.kubernetes.prerequisites import missing


def main() -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.clusters.kubernetes")
    parser.add_argument("command", choices=["up", "down", "build", "status"])
    place = "the folder of the cluster's files (default: %(default)s)"
    parser.add_argument("--dir", type=Path, default=cache_folder() / "dev", help=place)
    given = parser.parse_args()
    if given.command in ("up", "build") and (lacking := missing()):
        print(*lacking, sep="\n", file=sys.stderr)
        return 1
    actions = {"up": _up, "down": _down, "build": _build, "status": _status}
    try:
        return actions[given.command](given.dir)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


def _up(folder: Path) -> int:
    cluster = Cluster.find(folder)
    if cluster is None:
        cluster = Cluster.start(folder)
        cluster.detach()
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(folder: Path) -> int:
    cluster = Cluster.find(folder)
    if cluster is None:
        print(f"{folder}: no cluster runs there", file=sys.stderr)
    else:
        cluster.stop()
    return 0


def _build(folder: Path) -> int:
    for name in build.COMPONENTS:
        print(build.binary(name))
    for image in images.NAMES:
        print(image, *images.layers(image))
    return 0


def _status(folder: Path) -> int:
    cluster = Cluster.find(folder)
    if cluster is None:
        print(f"{folder}: no cluster runs there")
        return 1
    for name in COMPONENTS:
        process = cluster.process(name)
        print(f"{name:26}{f'runs as {process.pid}' if process else 'does not run'}")
    print(f"{'node':26}{'ready' if node_ready(cluster.slot) else 'not ready'}")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
