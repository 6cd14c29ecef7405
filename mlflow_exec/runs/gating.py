"""The gate of a deployment, as the runs of it know it: who judges is given to them."""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient

from mlflow_exec.runs import models
from mlflow_exec.runs.progress import Progress
from mlflow_exec.settings import TargetSettings

Gate = Callable[[TargetSettings, str, Progress], None]
"""Judges a model by its pinned URI, as the settings `gate` and `gate_data` say.

It raises `GateError` where the model fails, and another error of ours where that cannot be told.
"""


def judged(
    settings: TargetSettings, model: str | models.Pinned, gate: Gate, progress: Progress
) -> str | models.Pinned:
    """Return a model that its gate has let pass, pinned: the version that was judged is applied.

    Raises:
        GateError: The model fails.
        ConfigError: There is no such model.
    """
    if settings.gate is None:
        return model
    pin = models.pinned(model, MlflowClient()) if isinstance(model, str) else models.same(model)
    gate(settings, pin.pinned_uri, progress)
    return pin
