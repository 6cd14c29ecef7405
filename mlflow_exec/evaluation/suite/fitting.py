"""Whether a suite fits the data and the model: what it asks for is there, and of the right type."""

from __future__ import annotations

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.checks.base import Context
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.suite.reading import Suite
from mlflow_exec.evaluation.suite.settings import InferenceTime
from mlflow_exec.evaluation.suite.slicing import misfit
from mlflow_exec.settings.reading import closest


def check_suite(suite: Suite, context: Context) -> None:
    """Refuse a suite that asks for what data and model do not have.

    Raises:
        ConfigError: A feature or the reference is not there, the data has no labels, or a slice
            compares a feature with what its values are not.
    """
    features = [column.name for column in context.data.columns]
    for name, conditions in suite.settings.slices.items():
        where = f"suite {str(suite.path)!r}: slices: {name}"
        for condition in conditions:
            _check_feature(where, condition.column, features)
            if (reason := misfit(context.data, condition)) is not None:
                raise ConfigError(f"{where}: {reason}")
    for name, given in suite.validations.items():
        where = f"suite {str(suite.path)!r}: {name}"
        for column in given.columns():
            _check_feature(where, column, features)
        if not (given.metric or "").startswith("scan/") and not isinstance(given, InferenceTime) \
                and context.needs_labels():  # fmt: skip
            raise ConfigError(f"{where}: the data has no labels; name their column as the target")
        if given.needs_reference and context.data.reference is None:
            raise ConfigError(
                f"{where}: the rows that the model learnt from are needed; name their file as "
                "'reference'"
            )
        if given.needs_reference:
            _check_whole(where, context.data)
        if given.asks_model and (reason := context.needs_predictions()):
            raise ConfigError(f"{where}: {reason}")


def _check_whole(where: str, data: Data) -> None:
    """Refuse a reference that the model cannot be asked about."""
    assert data.reference is not None, "asked after it is known to be there"
    there = {column.name for column in data.reference.columns}
    for column in data.columns:
        if column.name not in there:
            raise ConfigError(f"{where}: the reference lacks the feature {column.name!r}")


def _check_feature(where: str, column: str, known: list[str]) -> None:
    if column not in known:
        shown = ", ".join(known[:20])
        raise ConfigError(
            f"{where}: unknown feature {column!r}{closest(column, known)}. Known: {shown}"
        )
