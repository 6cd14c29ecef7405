"""A fixture that gives tests a real Ray: the one of $RAY_API_SERVER_ADDRESS, or one started here.

One started here is the product's own embedded Ray with an MLFLOW_EXEC_HOME of its own, where
possible inside a cgroup, so that a job which eats all memory meets the limit and not the machine's.
Where none is to be had the tests are skipped with the reason, or fail with it when
MLFLOW_EXEC_FORBID_SKIP=1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.cache import cache_folder, discard, locked
from tests.clusters.processes import Process
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.ray_cgroup import MemoryCgroup

MEMORY_LIMIT_BYTES = 6 * 1024**3
_START_TIMEOUT_S = 240

# Where a test wants an environment that cannot be made, Ray need not try thrice.
_START = """
import os, sys
os.environ["RUNTIME_ENV_RETRY_TIMES"] = "1"
for path in sys.argv[1:]:
    open(path, "w").write(str(os.getpid()))
from mlflow_exec.clients import ray_embedded
ray_embedded.start_or_reuse(print)
"""
_STOP = "from mlflow_exec.clients import ray_embedded; ray_embedded.stop()"


@dataclass(frozen=True)
class RayCluster:
    """A Ray for tests, ours or the user's, and how to reach it."""

    address: str
    token_file: str | None = None
    """The file with its token; None where the user's own rules find it."""
    home: Path | None = None
    """Its MLFLOW_EXEC_HOME, when it runs on this machine and is ours."""
    memory_limit_bytes: int | None = None
    """What all its jobs together may use before the kernel kills one; None for no such limit."""
    node_secret: str | None = None
    """What its nodes have in their variable `NODE_SECRET`; None where that is not known."""

    def settings(self, **further: Any) -> dict[str, Any]:
        """Return the settings of the backend that reach it, with further ones."""
        token = {"token_file": self.token_file} if self.token_file else {}
        # What tests build is not to stay in the home of who runs them.
        return {"address": self.address, **token, "environment_cache": None, **further}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A real Ray for the whole session."""
    given = os.environ.get("RAY_API_SERVER_ADDRESS")
    if given:
        yield RayCluster(given.rstrip("/"), os.environ.get("MLFLOW_EXEC_TEST_RAY_TOKEN_FILE"))
        return
    require_ray()
    _clean_dead()
    home = _new_home()
    cgroup = MemoryCgroup.make(f"mlflow-exec-test-ray-{os.getpid()}", MEMORY_LIMIT_BYTES)
    try:
        yield _start(home, cgroup)
    finally:
        _remove(home)
        if cgroup is not None:
            cgroup.remove()


def require_ray() -> None:
    """Skip the running test, or fail it where skips are forbidden, when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        unavailable("no Ray: RAY_API_SERVER_ADDRESS is not set, and the package is not installed")


def in_home(home: Path, program: str, *arguments: str, **environment: str) -> str:
    """Run a Python program with this MLFLOW_EXEC_HOME and return its output."""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment, "MLFLOW_EXEC_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=_START_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _start(home: Path, cgroup: MemoryCgroup | None) -> RayCluster:
    secret = secrets.token_hex(16)
    in_home(home, _START, *([str(cgroup.procs)] if cgroup else []), NODE_SECRET=secret)
    state = json.loads((home / "ray.json").read_text())
    limit = MEMORY_LIMIT_BYTES if cgroup else None
    return RayCluster(state["address"], state["token_file"], home, limit, secret)


def _remove(home: Path) -> None:
    state = home / "ray.json"
    folders = [json.loads(state.read_text())["folder"]] if state.exists() else []
    in_home(home, _STOP)
    discard(home)
    left = [folder for folder in folders if Path(folder).exists()]
    assert not left, f"the Ray has left files behind: {left}"


def _homes() -> Path:
    return cache_folder() / "run-ray"


def _new_home() -> Path:
    _homes().mkdir(parents=True, exist_ok=True)
    with locked(_homes() / "lock"):
        home = Path(tempfile.mkdtemp(prefix="home-", dir=_homes()))
        Process.current().write(home / "owner.json")
    return home


def _clean_dead() -> None:
    """Remove what a session that was killed has left."""
    _homes().mkdir(parents=True, exist_ok=True)
    with locked(_homes() / "lock"):
        for home in _homes().glob("home-*"):
            if Process.read(home / "owner.json") is None:
                _remove(home)
        MemoryCgroup.remove_empty("mlflow-exec-test-ray-")
