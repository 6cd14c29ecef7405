"""What models answer, in the many forms that they have, as labels, numbers or probabilities."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
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
_WHOLE = re.compile(r"-?\d+\.0")


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
        ScanError: It is none of these, has another number of rows, or values that are neither
            classes nor numbers.
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
    refuse_odd(array, "model: predictions")
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
    """Tell what a model predicts by its answers and the data's labels, where there are some."""
    if are_probabilities(answer) or _are_texts(answer.array):
        return Task.CLASSIFICATION
    said, known = _floats(answer.array), None if labels is None else _floats(labels)
    if said is None or (labels is not None and (known is None or labels.dtype.kind == "b")):
        return Task.CLASSIFICATION
    values = said if known is None else known
    if _has_fractions(values):
        return Task.REGRESSION
    n_different = len(np.unique(values))
    if _has_fractions(said) and not answer.is_table:
        # Whole labels, such as counts and marks, do not make classes of them.
        is_class = are_positive_probabilities(answer, n_different)
        return Task.CLASSIFICATION if is_class else Task.REGRESSION
    few = n_different <= min(_MAX_CLASSES, max(len(values) // 5, 2))
    return Task.CLASSIFICATION if few else Task.REGRESSION


def _are_texts(values: Values) -> bool:
    """Whether values are texts or booleans, which are classes, also if numbers can be read."""
    if values.dtype.kind == "O":
        return any(isinstance(value, (str, bool, np.bool_)) for value in values.flat)
    return values.dtype.kind in "USb"


def _floats(values: Values) -> Floats | None:
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def _has_fractions(values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite != np.round(finite)).any())


def refuse_odd(values: Values, what: str) -> None:
    """Refuse what is neither a class nor a number: dates, spans of time, lists.

    Args:
        values: Labels or answers.
        what: They are, for the message: ``model: predictions``.

    Raises:
        ScanError: There is such a value.
    """
    kinds = (date, timedelta, np.datetime64, np.timedelta64, tuple, complex)
    if values.dtype.kind in "mMc":
        odd: Any = values.flat[0]
    elif values.dtype.kind == "O":
        odd = next(
            (v for v in values.flat if isinstance(v, kinds) or not isinstance(v, Hashable)), None
        )
    else:
        return
    if odd is not None:
        raise ScanError(
            f"{what} are needed that are classes or numbers; given {type(odd).__name__}: "
            f"{str(odd)[:100]!r}"
        )


def distinct(values: Any) -> list[Any]:
    """Return the different values, sorted as scikit-learn sorts classes where they can be.

    Missing ones are left out.
    """
    plain = [_plain(value) for value in pd.unique(_series(values).dropna())]
    try:
        return sorted(plain)
    except TypeError:
        return sorted(plain, key=lambda value: (type(value).__name__, str(value)))


def strangers(values: Any, classes: Sequence[Any]) -> list[Any]:
    """Return the different values that are none of the classes."""
    found = distinct(values)
    return [v for v, code in zip(found, encoded(found, classes), strict=True) if code < 0]


def encoded(values: Any, classes: Sequence[Any]) -> Integers:
    """Return the position of each value in the classes; -1 where it is none of them.

    One is a text and the other a number for many a reason (a column of a file, a model that
    answers by JSON): 1, 1.0, "1" and "1.0" are one class, and True and "True", unless the classes
    tell them apart.
    """
    positions = {value: position for position, value in enumerate(classes)}
    by_text: dict[str, int] = {}
    for value, position in positions.items():
        by_text.setdefault(_text_of(value), position)
    codes, found = pd.factorize(_series(values), use_na_sentinel=True)
    known = [positions.get(v, by_text.get(_text_of(v), -1)) for v in map(_plain, found)]
    return np.asarray(np.array([*known, -1], dtype=np.int64)[codes])


def named(values: Values, classes: Sequence[Any]) -> tuple[Values, Integers]:
    """Return values as the classes have them, unknown ones as they are; and their positions."""
    codes = encoded(values, classes)
    known = np.array([*classes, None], dtype=object)
    return np.where(codes >= 0, known[codes], values.astype(object)), codes


def _series(values: Any) -> pd.Series:
    # A list may be of numbers and truths, which are to stay what they are.
    return pd.Series(values, dtype=object if isinstance(values, (list, tuple)) else None)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _text_of(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return text[:-2] if _WHOLE.fullmatch(text) else text


def numbers(answer: Answer, what: str = "model: predictions") -> Floats:
    """Return the numbers of a regression.

    Args:
        answer: What the model says, or labels.
        what: It is, for messages.

    Raises:
        ScanError: They are no numbers, or some are missing or infinite.
    """
    if answer.is_table:
        raise ScanError(
            f"{what} of a regression are one number per row; given {answer.array.shape[1]}"
        )
    values = _floats(answer.array)
    if values is None:
        odd = next(v for v in answer.array if _floats(np.array([v], dtype=object)) is None)
        raise ScanError(f"{what} of a regression are numbers; given {odd!r}")
    n_odd = int((~np.isfinite(values)).sum())
    if n_odd:
        raise ScanError(f"{what}: {n_odd} of {len(values)} are no finite numbers")
    return values
