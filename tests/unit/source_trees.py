"""Small trees of files, and what becomes of them in a bundle."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlflow_exec.errors import SourceError
from mlflow_exec.source import bundle

LIMIT_BYTES = 10 << 20


def write(top: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return top


def names(project: Path, extra: Mapping[str, Path] | None = None) -> list[str]:
    with (
        bundle(project, limit_bytes=LIMIT_BYTES, extra=extra) as made,
        zipfile.ZipFile(made.path) as archive,
    ):
        return archive.namelist()


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refusal(project: Path, extra: Mapping[str, Path] | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        bundle(project, limit_bytes=LIMIT_BYTES, extra=extra)
    return str(caught.value)
