"""Our own code on its way to a cluster, so that nothing of ours has to be installed there."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from mlflow_exec.source import write_zip

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = ("__init__.py", "scoring")


@lru_cache(maxsize=1)
def code_files() -> Mapping[str, bytes]:
    """Return the files of the scoring runtime by their path in a folder of Python's path."""
    found: dict[str, bytes] = {}
    for name in _SHIPPED:
        path = _PACKAGE / name
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        for file in files:
            found[f"mlflow_exec/{file.relative_to(_PACKAGE).as_posix()}"] = file.read_bytes()
    return found


def zipped(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Return the sha256 and the bytes of a zip file with these files; same files, same bytes."""
    with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
        path = Path(folder) / "files.zip"
        return write_zip(path, None, files), path.read_bytes()


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder by their relative path, without what Python compiles there."""
    return {name: path.read_bytes() for name, path in _files(folder)}


def content_hash(folder: Path) -> tuple[str, int]:
    """Return the sha256 of `files_below`, independent of times and order, and their size."""
    digest, size_bytes = hashlib.sha256(), 0
    for name, path in _files(folder):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                content.update(piece)
                size_bytes += len(piece)
        digest.update(len(name.encode()).to_bytes(4, "big") + name.encode() + content.digest())
    return digest.hexdigest(), size_bytes


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield files by their relative path, sorted; loading a model adds ``__pycache__``."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name in sorted(found):
        if "__pycache__" not in name.split("/") and found[name].is_file():
            yield name, found[name]
