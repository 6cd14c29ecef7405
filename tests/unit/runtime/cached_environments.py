"""Jobs whose environments are kept in a folder for later jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.clusters.kubernetes.pods import pip_environment
from tests.unit.runtime.job_in_cluster import PYTHON_FOLDER, Cluster, Container, Finished

TELL = "import six, sys; print('six', six.__version__, sys.prefix, flush=True)"
WAIT = "import signal; print('it waits', flush=True); signal.pause()"
GIB = 1024**3
SIX = "six==1.16.0"
NEWER_SIX = "six==1.17.0"


class CachedEnvironments:
    """A cache that jobs of one node share."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.root = cluster.folder / "cache"
        self.root.mkdir()
        self._tools = 0

    @property
    def folder(self) -> Path:
        """Where the environments of this user are."""
        return self.root / str(os.geteuid())

    def order(self, *dependencies: str, code: str = TELL, **changes: Any) -> dict[str, Any]:
        """Return an order for a job with these requirements; `cache` changes the cache's part."""
        cache = {"path": str(self.root), "limit_bytes": GIB, **changes.pop("cache", {})}
        environment = {
            "manager": "virtualenv",
            "dependencies": list(dependencies or [SIX]),
            **changes.pop("environment", {}),
        }
        return self.cluster.order(
            code, environment=environment, environment_cache=cache, **changes
        )

    def image(self, uv: str | None = None) -> dict[str, str]:
        """Return the variables of an image with pip alone, or with this program as its uv."""
        path = "/usr/bin:/bin"
        if uv is not None:
            self._tools += 1
            folder = self.cluster.folder / f"image-{self._tools}"
            folder.mkdir()
            (folder / "uv").write_text(uv)
            (folder / "uv").chmod(0o755)
            path = f"{folder}:{path}"
        # uv puts files of its own cache into environments by hard links: their sizes stay the same.
        return {**pip_environment(), "UV_LINK_MODE": "copy", "PATH": path}

    def start(
        self, order: Mapping[str, Any], env: Mapping[str, str] | None = None, **how: Any
    ) -> Container:
        """Start a job in an image with uv, unless another one is given."""
        return self.cluster.start(order, env=env or self.image(plain_uv()), **how)

    def run(
        self, order: Mapping[str, Any], env: Mapping[str, str] | None = None, **how: Any
    ) -> Finished:
        """Run a job to its good end."""
        finished = self.start(order, env, **how).wait()
        assert finished.code == 0, finished.text
        return finished

    def build(self, *dependencies: str, code: str = TELL) -> Path:
        """Run a job that builds an environment, and return the folder that is new."""
        before = set(self.entries())
        finished = self.run(self.order(*dependencies, code=code))
        assert built(finished), finished.text
        (new,) = set(self.entries()) - before
        return new

    def entries(self) -> list[Path]:
        """Return the environments, finished or not, the oldest use first."""
        found = [path for path in self.folder.glob("*") if path.is_dir()]
        return sorted(found, key=lambda path: last_use(path))

    def leftovers(self) -> list[str]:
        """Return files that belong to no environment."""
        known = {f"{path.name}.lock" for path in self.entries()}
        return [p.name for p in self.folder.glob("*") if p.is_file() and p.name not in known]


def last_use(entry: Path) -> float:
    marker = entry / "complete.json"
    return marker.stat().st_mtime if marker.exists() else 0


def size_bytes(entry: Path) -> int:
    return int(json.loads((entry / "complete.json").read_text())["size_bytes"])


def plain_uv() -> str:
    found = shutil.which("uv", path=f"{PYTHON_FOLDER}:/usr/local/bin:/usr/bin")
    assert found, "uv belongs to the tests' dependencies"
    return f'#!/bin/sh\nexec "{found}" "$@"\n'


def gated_uv(gate: Path) -> str:
    """Return a uv that installs only once somebody has opened the gate, a named pipe."""
    os.mkfifo(gate)
    real = plain_uv().removeprefix("#!/bin/sh\n")
    return f'#!/bin/sh\nif [ "$1" = pip ]; then echo at the gate; cat "{gate}"; fi\n{real}'


def built(finished: Finished) -> bool:
    """Whether the job built its environment and left it in the cache."""
    return re.search(r"environment: built in [\d.]+ s and cached", finished.text) is not None


def taken(finished: Finished) -> bool:
    """Whether the job took its environment from the cache, and installed nothing."""
    found = re.search(r"environment: taken from the cache \(key [0-9a-f]+…\), [\d.]+ s",
                      finished.text)  # fmt: skip
    return found is not None and "install" not in finished.text


def prefix_of(finished: Finished) -> str:
    """Return the environment that the program ran in."""
    return next(line for line in finished.text.splitlines() if line.startswith("six ")).split()[2]
