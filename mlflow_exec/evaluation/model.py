"""The model of a scan: asked in batches, its answers in one form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Floats, Integers, Values
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.outputs import (
    Answer,
    Outputs,
    Task,
    answer_of,
    are_positive_probabilities,
    are_probabilities,
    distinct,
    encoded,
    named,
    numbers,
    strangers,
    task_of,
)

BATCH_ROWS = 10_000

Predict = Callable[[Any], Any]


class Model:
    """A model together with the data that it is scanned on.

    Attributes:
        task: What it predicts.
        classes: Of a classification, in the order of `Outputs.probabilities`; else empty.
        outputs: Its answers to all rows of the data, asked for once.
        labels: The data's labels: positions in `classes` (int64), or numbers of a regression
            (float64); None where there are none.
        can_predict: Whether it can be asked again; False where only predictions were given.
        lacks_probabilities: Why a classification tells none, where it does not.
        n_predicted: How many rows it was asked for so far.
    """

    def __init__(
        self,
        predict: Predict | None,
        data: Data,
        *,
        task: Task | None = None,
        classes: Sequence[Any] | None = None,
        probabilities: Predict | None = None,
        predictions: Any = None,
        column: str | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        """Ask for all rows, and find out by the answers what the model is.

        Args:
            predict: Takes rows as they were given to `data`; None where only `predictions` are.
            data: The rows.
            task: What it predicts; found out where it is None.
            classes: In the order of its probabilities; found out where it is None.
            probabilities: Another way of asking, for the probabilities, with the classes in the
                order of `classes`; it is used where it agrees with `predict` on all rows.
            predictions: Answers to all rows, where they are known already.
            column: Of the answer, where that is a frame with several.
            batch_rows: How many rows are asked for at a time.

        Raises:
            ScanError: The model fails, or its answers do not fit the labels.
        """
        self._predict = predict
        self._data = data
        self._column = column
        self._batch_rows = batch_rows
        self._probabilities: Predict | None = None
        self._is_positive = False
        self.n_predicted = 0
        self.can_predict = predict is not None
        self.lacks_probabilities = (
            "the model tells no probabilities (of a scikit-learn model, log it with "
            'pyfunc_predict_fn="predict_proba")'
        )
        if predictions is not None:
            answer = answer_of(predictions, len(data), column)
        else:
            answer = self._ask(data.frame)
        self.task = task or task_of(data.labels, answer)
        self.classes: tuple[Any, ...] = ()
        self.labels: Values | None = self._labels(answer, classes)
        self.outputs = self._outputs(answer)
        if self.task is Task.CLASSIFICATION and probabilities is not None and classes is not None:
            self._use(probabilities)

    def predict(self, rows: pd.DataFrame) -> Outputs:
        """Ask for rows with the columns of `Data.frame`; changed values are fine.

        Raises:
            ScanError: The model fails, or only its predictions were given.
        """
        return self._outputs(self._ask(rows))

    def _ask(self, rows: pd.DataFrame) -> Answer:
        predict = self._probabilities or self._predict
        if predict is None:
            raise ScanError("model: only its predictions were given, so it cannot be asked again")
        answers = []
        for start in range(0, len(rows), self._batch_rows):
            batch = rows.iloc[start : start + self._batch_rows]
            try:
                output = predict(self._data.for_model(batch))
            except Exception as error:
                raise ScanError(
                    f"model: it failed on {len(batch)} rows: {type(error).__name__}: "
                    f"{_shortened(str(error))}"
                ) from error
            answers.append(answer_of(output, len(batch), self._column))
            self.n_predicted += len(batch)
        if len(answers) == 1:
            return answers[0]
        return Answer(np.concatenate([answer.array for answer in answers]), answers[0].names)

    def _labels(self, answer: Answer, classes: Sequence[Any] | None) -> Values | None:
        """Settle the classes; returns the labels in the form that checks use."""
        labels = self._data.labels
        if labels is not None and pd.isna(labels).any():
            raise ScanError(
                f"data: {int(pd.isna(labels).sum())} of {len(labels)} labels are missing; "
                "leave these rows out"
            )
        if self.task is Task.REGRESSION:
            return None if labels is None else numbers(Answer(labels), "data: labels")
        known = [] if labels is None else distinct(labels)
        if are_probabilities(answer):
            self.classes = _classes_of_table(answer, classes, known)
        elif are_positive_probabilities(answer, len(classes or known)):
            self._is_positive = True
            self.classes = tuple(classes or known)
            if len(self.classes) != 2:
                raise ScanError(
                    "model: it answers with the probability of one of two classes; given "
                    f"{len(self.classes)} classes in the labels; name both by the setting 'classes'"
                )
        elif answer.is_table:
            raise ScanError(
                f"model: {answer.array.shape[1]} values per row that do not add up to one are "
                "neither labels nor probabilities"
            )
        else:
            said, first = strangers(answer.array, known), list(classes or [])
            self.classes = (*first, *strangers(distinct([*known, *said]), first))
        if labels is None:
            return None
        is_table = answer.is_table or self._is_positive
        _refuse_strangers(known, list(self.classes) if is_table else answer.array, classes or [])
        # Labels that the model does not know are classes that it gives no probability.
        self.classes += tuple(strangers(labels, self.classes))
        return encoded(labels, self.classes)

    def _use(self, probabilities: Predict) -> None:
        """Ask for probabilities from now on, if they give the classes that are told of all rows.

        Of some rows is not enough: those of a file may be sorted, and a model that tells a class
        from another probability on is not the one that its probabilities are of.
        """
        told = self.outputs
        if told.probabilities is not None:
            return
        self._probabilities = probabilities
        try:
            self.outputs = self._outputs(self._ask(self._data.frame))
            differ = np.asarray(self.outputs.codes) != np.asarray(told.codes)
        except ScanError as error:
            said = str(error).removeprefix("model: ")
            self.lacks_probabilities = f"the model was asked for its probabilities: {said}"
        else:
            if self.outputs.probabilities is not None and not differ.any():
                return
            if differ.any():
                self.lacks_probabilities = (
                    f"the most probable class is not the one that the model tells in "
                    f"{differ.sum()} of {len(differ)} rows, so the probabilities are not those of "
                    f"what it serves"
                )
        self._probabilities, self.outputs = None, told

    def _outputs(self, answer: Answer) -> Outputs:
        if self.task is Task.REGRESSION:
            return Outputs(numbers(answer))
        if self._is_positive and not answer.is_table:
            positive = answer.array.astype(np.float64)
            answer = Answer(np.column_stack([1 - positive, positive]))
        if answer.is_table:
            return self._of_probabilities(np.asarray(answer.array, dtype=np.float64))
        # A class that only appears later, on changed rows, is -1: equal to no label.
        return Outputs(*named(answer.array, self.classes))

    def _of_probabilities(self, table: Floats) -> Outputs:
        if not np.isfinite(table).all():
            raise ScanError("model: some of its probabilities are no finite numbers")
        unknown = len(self.classes) - table.shape[1]
        if unknown > 0:
            table = np.column_stack([table, np.zeros((len(table), unknown))])
        codes: Integers = table.argmax(axis=1).astype(np.int64)
        return Outputs(np.array([*self.classes, None], dtype=object)[codes], codes, table)


def _classes_of_table(
    answer: Answer, classes: Sequence[Any] | None, known: list[Any]
) -> tuple[Any, ...]:
    n_columns = answer.array.shape[1]
    if classes is not None and len(classes) == n_columns:
        return tuple(classes)
    by_text = {str(value): value for value in known}
    if answer.names and {str(name) for name in answer.names} >= set(by_text):
        return tuple(by_text.get(str(name), name) for name in answer.names)
    if len(known) == n_columns:
        return tuple(known)
    raise ScanError(
        f"model: its {n_columns} probabilities per row are of which classes? The labels have "
        f"{len(known)}; name them in the model's order by the setting 'classes'"
    )


def _refuse_strangers(labels: list[Any], said: Any, classes: Sequence[Any]) -> None:
    """Refuse answers of which none is a label: two ways of writing them look like a bad model.

    Args:
        labels: The different ones.
        said: The answers, or the classes that they are of.
        classes: That are known to be the model's: it may be wrong for all rows that are there.
    """
    if (encoded(said, labels) >= 0).any():
        return
    if (encoded(said, classes) >= 0).any() and (encoded(labels, classes) >= 0).any():
        return
    says, has = (", ".join(repr(value) for value in distinct(v)[:2]) for v in (said, labels))
    raise ScanError(
        f"model: none of its answers is a label: it says {says}; labels are {has}; give labels as "
        "the model says them, or name all classes by the setting 'classes'"
    )


def _shortened(text: str) -> str:
    """Return a text in one line; MLflow's begin with the rows and end with the reason."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"
