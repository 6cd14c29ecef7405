"""Run and serve MLflow work on the clusters you already have.

Importing this package imports nothing else; the public names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_exec.runs.attach import attach as attach
    from mlflow_exec.settings import load_config as load_config

__all__ = ["__version__", "attach", "load_config"]
__version__ = "0.1.0"

_PUBLIC = {
    "attach": "mlflow_exec.runs.attach",
    "load_config": "mlflow_exec.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mlflow_exec' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
