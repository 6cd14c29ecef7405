"""Hadoop's jars, fetched once per version by Maven into the tests' cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.clusters.cache import build_once, cache_folder

_POM = Path(__file__).parent / "pom.xml"


def version() -> str:
    """Return the version of Hadoop that pom.xml asks for, such as `3.4.1`."""
    found = re.search(r"<hadoop\.version>([^<]+)<", _POM.read_text())
    if found is None:
        raise RuntimeError(f"{_POM}: names no hadoop.version")
    return found[1]


def jars() -> Path:
    """Return the folder of all jars; Maven fetches them when they are not in the cache.

    That is about 100 MB and half a minute, from wherever Maven's own settings say.

    Raises:
        RuntimeError: Maven failed; holds the end of what it printed.
    """
    return build_once(_target(), _fetch)


def cached() -> bool:
    """Tell whether `jars` has nothing to fetch."""
    return _target().exists()


def java_home() -> Path | None:
    """Return the folder of the Java to use: $JAVA_HOME, or that of `java` on PATH; None without."""
    given = os.environ.get("JAVA_HOME")
    if given and (Path(given) / "bin" / "java").exists():
        return Path(given)
    found = shutil.which("java")
    return Path(found).resolve().parent.parent if found else None


def missing() -> list[str]:
    """Return a sentence for each thing that is missing here; empty when a cluster can start."""
    lacking = []
    if java_home() is None:
        lacking.append("java is missing: apt-get install openjdk-17-jre-headless")
    if shutil.which("mvn") is None and not cached():
        lacking.append("mvn is missing, to fetch Hadoop's jars: apt-get install maven")
    return lacking


def _target() -> Path:
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:8]
    return cache_folder() / f"hadoop-{version()}-{digest}"


def _fetch(part: Path) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    # Maven writes beside the pom that it is given, and a checkout is no place for that.
    with tempfile.TemporaryDirectory() as folder:
        pom = shutil.copy(_POM, folder)
        done = subprocess.run(
            ["mvn", "--quiet", "--batch-mode", "--file", pom,
             "dependency:copy-dependencies", f"-DoutputDirectory={part}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"mvn dependency:copy-dependencies: {done.stdout[-4000:]}{done.stderr}")
