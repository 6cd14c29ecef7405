"""What models answer, in the many forms that they have, as labels, numbers or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Floats, Integers, Values

# Probabilities of a row add up to one; float32 and rounding to two digits are allowed for.
_SUM_TOLERANCE = 0.02
# Whole numbers with more different values than this are taken for a quantity.
_MAX_CLASSES = 50


class Task(Enum):
    """What a model predicts."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the model says about some rows.

    Attributes:
        values: One per row: numbers of a regression (float64), or the predicted classes.
        codes: Of a classification: the position of each predicted class in `Model.classes`.
        probabilities: Of a classification that tells them: rows x `Model.classes`.
    """

    values: Values
    codes: Integers | None = None
    probabilities: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer as an array: one value per row, or a row of probabilities with perhaps names."""

    array: Values
    names: tuple[Any, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether there is more than one value per row."""
        return self.array.ndim == 2


def answer_of(output: Any, n_rows: int, column: str | None = None) -> Answer:
    """Return a model's output as an array.

    Args:
        output: A frame, series, array, list, list of dicts, or a dict with one of them.
        n_rows: How many rows were asked for.
        column: The column of a frame that holds the predictions.

    Raises:
        ScanError: It is none of these, or has another number of rows.
    """
    if isinstance(output, dict) and len(output) == 1:
        output = next(iter(output.values()))
    if isinstance(output, (dict, list)) and _of_dicts(output):
        output = pd.DataFrame(output)
    names: tuple[Any, ...] = ()
    if isinstance(output, pd.DataFrame):
        output, names = _of_frame(output, column)
    array = np.asarray(output.toarray() if hasattr(output, "toarray") else output)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or len(array) != n_rows:
        raise ScanError(
            f"model: one prediction per row is needed; given an answer of shape {array.shape} "
            f"to {n_rows} rows"
        )
    return Answer(array, names)


def _of_dicts(output: Any) -> bool:
    return isinstance(output, dict) or (bool(output) and isinstance(output[0], dict))


def _of_frame(frame: pd.DataFrame, column: str | None) -> tuple[Any, tuple[Any, ...]]:
    if column is not None:
        if column not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise ScanError(f"model: its answer has no column {column!r}. It has: {known}")
        return frame[column].to_numpy(), ()
    if len(frame.columns) == 1:
        return frame.iloc[:, 0].to_numpy(), ()
    if "label" in frame.columns:  # as pipelines of transformers answer
        return frame["label"].to_numpy(), ()
    if all(pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64), tuple(frame.columns)
    known = ", ".join(map(str, frame.columns))
    raise ScanError(
        f"model: which column of its answer is the prediction? Given {known}; "
        "name it by the setting 'predictions'"
    )


def are_probabilities(answer: Answer) -> bool:
    """Whether an answer is rows of probabilities."""
    if not answer.is_table or answer.array.dtype.kind not in "fiu":
        return False
    table = answer.array
    sums = table.sum(axis=1)
    return bool(table.min() >= -1e-6 and (np.abs(sums - 1.0) <= _SUM_TOLERANCE).all())


def are_positive_probabilities(answer: Answer, n_classes: int) -> bool:
    """Whether an answer is the probability of the second of two classes."""
    values = answer.array
    if answer.is_table or values.dtype.kind != "f" or n_classes > 2:
        return False
    return bool(values.min() >= 0 and values.max() <= 1 and (values != np.round(values)).any())


def task_of(labels: Values | None, answer: Answer) -> Task:
    """Tell what a model predicts by the data's labels, or by its answers where there are none."""
    if are_probabilities(answer) or answer.array.dtype.kind in "OUSb":
        return Task.CLASSIFICATION
    values = answer.array if labels is None else labels
    if values.dtype.kind not in "fiu":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            return Task.CLASSIFICATION
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        return Task.REGRESSION
    few = len(np.unique(values)) <= min(_MAX_CLASSES, max(len(values) // 5, 2))
    return Task.CLASSIFICATION if few else Task.REGRESSION


def distinct(values: Values) -> list[Any]:
    """Return the different values, sorted as scikit-learn sorts classes where they can be."""
    found = pd.unique(pd.Series(values))
    plain = [v.item() if isinstance(v, np.generic) else v for v in found]
    try:
        return sorted(plain)
    except TypeError:
        return sorted(plain, key=lambda value: (type(value).__name__, str(value)))


def as_text_where_needed(values: Values, like: Sequence[Any]) -> Values:
    """Return labels as texts where those that they are compared with are, and they are numbers."""
    if len(values) and like and isinstance(like[0], str) and not isinstance(values[0], str):
        return np.array([str(value) for value in values], dtype=object)
    return values


def encoded(values: Values, classes: Sequence[Any]) -> Integers:
    """Return the position of each value in the classes; -1 where it is none of them."""
    positions = {value: position for position, value in enumerate(classes)}
    codes, found = pd.factorize(pd.Series(values), use_na_sentinel=True)
    known = [positions.get(v.item() if isinstance(v, np.generic) else v, -1) for v in found]
    return np.asarray(np.array([*known, -1], dtype=np.int64)[codes])


def numbers(answer: Answer) -> Floats:
    """Return the numbers of a regression.

    Raises:
        ScanError: They are no numbers, or some are missing or infinite.
    """
    if answer.is_table:
        raise ScanError(
            f"model: a regression with one number per row is needed; given {answer.array.shape[1]}"
        )
    try:
        values = answer.array.astype(np.float64)
    except (TypeError, ValueError):
        raise ScanError(
            f"model: numbers are needed of a regression; given {answer.array[0]!r}"
        ) from None
    if not np.isfinite(values).all():
        n_missing = int((~np.isfinite(values)).sum())
        raise ScanError(f"model: {n_missing} of {len(values)} predictions are no finite numbers")
    return values
