"""Folders of a containerd that already has its images: to link one takes a second, not forty.

Their files are shared by hard links with the clusters made from them. That is safe because
containerd never changes a layer or a blob, only removes it; the databases, which it does change,
are copied.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.clusters.cache import build_once, cache_folder
from tests.clusters.kubernetes import images


def restore(loaded: Iterable[str], folder: Path) -> bool:
    """Make `folder` one with these images; False (and no folder) when there is none to link."""
    seed = _seed(loaded)
    if not seed.exists() or seed.stat().st_dev != folder.parent.stat().st_dev:
        return False
    _link(seed, folder)
    return True


def keep(loaded: Iterable[str], folder: Path) -> None:
    """Keep the folder of a containerd that does not run now, for later calls of `restore`."""
    if cache_folder().stat().st_dev == folder.stat().st_dev:
        build_once(_seed(loaded), lambda part: _link(folder, part))


def _seed(loaded: Iterable[str]) -> Path:
    asked = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True)
    made_from = [asked.stdout, [[i, [p.name for p in images.layers(i)]] for i in sorted(loaded)]]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    return cache_folder() / "containerd" / key


def _link(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--link", str(source), str(target)], check=True)
    for database in source.glob("*/*.db"):
        copy = target / database.relative_to(source)
        copy.unlink()
        shutil.copy2(database, copy)
