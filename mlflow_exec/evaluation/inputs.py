"""The rim of a scan: models of MLflow, and files of data. Nothing else here knows of MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_regressor

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.data import Data, unique_names
from mlflow_exec.evaluation.model import Model, Predict
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.settings import ScanSettings
from mlflow_exec.settings.reading import closest

_READERS: dict[str, Callable[..., pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".feather": pd.read_feather,
    ".json": pd.read_json,
    ".parquet": pd.read_parquet,
    ".tsv": lambda path: pd.read_csv(path, sep="\t"),
}


def read_frame(path: str) -> pd.DataFrame:
    """Read a file of rows, by its ending (``.csv``, also ``.csv.gz``).

    Raises:
        ScanError: It is of no known kind, or cannot be read.
    """
    suffixes = [suffix for suffix in Path(path).suffixes if suffix in _READERS]
    if not suffixes:
        known = ", ".join(_READERS)
        raise ScanError(f"data: which kind of file is {path!r}? Known: {known}")
    try:
        return _READERS[suffixes[-1]](path)
    except FileNotFoundError as error:
        raise ScanError(f"data: there is no file {path!r}") from error
    except (OSError, EOFError, ValueError, ImportError) as error:
        raise ScanError(f"data: {path!r} cannot be read: {error}") from error


def read_rows(path: str, target: str | None, reference: str | None = None) -> Data:
    """Read files of rows with labels.

    Args:
        path: The rows to scan.
        target: The column with the labels; None where there are none.
        reference: The rows that the model learnt from.

    Raises:
        ScanError: A file cannot be read, or lacks a column.
    """
    frame = read_frame(path)
    if target is not None and target not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        guess = closest(target, [str(name) for name in frame.columns])
        raise ScanError(
            f"target: there is no column {target!r} in {path!r}{guess}. It has: {known}"
        )
    features = frame if target is None else frame.drop(columns=[target])
    labels = None if target is None else frame[target]
    data = Data(features, labels)
    if reference is not None:
        data.reference = read_reference(reference, data, target)
    return data


def read_reference(path: str, data: Data, target: str | None) -> Data:
    """Read the second data set: its columns that the data has, in the same order, and its labels.

    Args:
        path: Of a file, see `read_frame`.
        data: The rows to scan.
        target: The column with the labels; there are none where it is None or not there.

    Raises:
        ScanError: It cannot be read, or no column is one of the data's.
    """
    frame = read_frame(path)
    labels = frame.pop(target) if target is not None and target in frame.columns else None
    frame = frame.set_axis(unique_names(frame.columns), axis=1)
    shared = [name for name in data.frame.columns if name in frame.columns]
    if not shared:
        raise ScanError(
            f"reference: {path!r} has no column of the data; it has "
            f"{', '.join(frame.columns[:20])}; give rows with the same features"
        )
    return Data(frame[shared], labels)


def load_pyfunc(model_uri: str) -> Any:
    """Return a model of MLflow, in this environment.

    Raises:
        ScanError: It cannot be loaded here, such as for a package that is not installed.
        MlflowException: There is none.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import load_model

    try:
        return load_model(model_uri)
    except MlflowException:
        raise
    except Exception as error:
        raise ScanError(
            f"model: {model_uri!r} cannot be loaded here: {type(error).__name__}: {error}; install "
            "what it needs (mlflow.pyfunc.get_model_dependencies names it)"
        ) from error


def model_of(
    pyfunc: Any,
    data: Data,
    settings: ScanSettings,
    *,
    task: Task | None = None,
    predictions: Any = None,
) -> Model:
    """Return the model of a scan.

    An estimator as of scikit-learn tells labels; its probabilities are asked for besides where
    their classes are those that it tells, for all rows. Whether it is a classifier settles the
    task where nobody says it.

    Args:
        pyfunc: A model of MLflow; None where only its predictions are known.
        data: The rows.
        settings: Of the scan; `task`, `classes`, `predictions` and `batch_rows` are used.
        task: Where the settings do not tell it.
        predictions: Answers to all rows, where there is no model.

    Raises:
        ScanError: The model fails, or its answers do not fit the labels.
    """
    raw = None if pyfunc is None else _raw_model(pyfunc)
    classes = _classes_of(raw)
    ask = None if classes is None else _probabilities(raw)
    return Model(
        None if pyfunc is None else pyfunc.predict,
        data,
        task=Task(settings.task) if settings.task else task or _task_of(raw, classes),
        classes=settings.classes or classes,
        probabilities=ask if settings.classes is None else None,
        predictions=predictions,
        column=settings.predictions,
        batch_rows=settings.batch_rows,
    )


def _raw_model(pyfunc: Any) -> Any:
    try:
        return pyfunc.get_raw_model()
    except (AttributeError, NotImplementedError):
        return None


def _classes_of(raw: Any) -> list[Any] | None:
    """Return the classes of an estimator; None where it has none, or some for each output."""
    classes = np.asarray(getattr(raw, "classes_", ()), dtype=object)
    if classes.ndim != 1 or not len(classes) or any(np.ndim(one) for one in classes):
        return None
    return [c.item() if isinstance(c, np.generic) else c for c in classes]


def _task_of(raw: Any, classes: list[Any] | None) -> Task | None:
    """Return what an estimator predicts; None of another model."""
    try:
        if is_regressor(raw):
            return Task.REGRESSION
    except (AttributeError, TypeError):  # it is none of scikit-learn's kind
        pass
    return None if classes is None else Task.CLASSIFICATION


def _probabilities(raw: Any) -> Predict | None:
    """Return how to ask an estimator for probabilities."""
    ask = getattr(raw, "predict_proba", None)
    if ask is None:
        return None
    names = getattr(raw, "feature_names_in_", None)

    def probabilities(rows: Any) -> Any:
        if names is None:
            return ask(rows)
        if isinstance(rows, pd.DataFrame):
            return ask(rows[list(names)])  # as the signature of the model puts them in order
        return ask(pd.DataFrame(rows, columns=names))

    return probabilities
