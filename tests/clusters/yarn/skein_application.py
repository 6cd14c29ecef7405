"""Applications of skein's: masters that register, and so can succeed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.yarn.cluster import YarnCluster

_PROGRAM = """if True:
    import json, sys, skein
    with skein.Client(log_level="WARN") as client:
        specification = skein.ApplicationSpec.from_dict(json.loads(sys.argv[1]))
        print(client.submit(specification))
"""
_RESOURCES = {"memory": "256 MiB", "vcores": 1}


def skein_application(
    cluster: YarnCluster, client: str, home: Path, *, script: str | None = None, **further: Any
) -> str:
    """Submit one by skein's client and return its id.

    Args:
        cluster: where; whose application it is has a home in HDFS there.
        client: who submits it: the user whose it is, if `user` does not say another.
        home: a folder for what skein keeps on this machine.
        script: what its master runs; without, it only keeps its services.
        further: further keys of the specification, such as `services`.
    """
    pytest.importorskip("skein")
    specification = {"name": "of the tests", "max_attempts": 1, **further}
    if script is not None:
        specification["master"] = {"script": script, "resources": _RESOURCES}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(specification)],
        env={**os.environ, **cluster.environment(client), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
