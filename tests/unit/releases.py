"""Releases for the unit tests of the targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_exec.releases import Model, ModelPackage, Release
from mlflow_exec.settings import TargetSettings, parse_settings


def model(**changes: Any) -> Model:
    base: dict[str, Any] = {
        "uri": "models:/iris@champion", "pinned_uri": "models:/iris/3", "version": "3",
        "python": "3.11", "requirements": ("mlflow==3.5.0", "scikit-learn==1.7.0"),
    }  # fmt: skip
    return Model(**{**base, **changes})


def release(
    cls: type[TargetSettings], number: int = 1, *, of: Model | None = None, **given: Any
) -> Release:
    settings = parse_settings(cls, given, "-C")
    return Release(
        "iris", number, of or model(), settings, given, "2026-01-01T00:00:00Z",
        "http://mlflow:5000",
    )  # fmt: skip


def packaged(folder: Path) -> Model:
    """Return a model whose files travel along."""
    (folder / "MLmodel").write_text("flavors: {}")
    return model(pinned_uri=folder.as_uri(), package=ModelPackage(folder, "a" * 64, 11))
