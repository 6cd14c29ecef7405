"""What a check is: one class in one file, found by `registry.CHECKS`.

A check yields findings, each with a p-value where it is a matter of chance. The scan does the rest:
it corrects the p-values of all findings of a check together (Benjamini-Hochberg), leaves out those
over alpha, sorts, counts, and keeps to the time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar
from zlib import crc32

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Mask, Values
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.difficulty import expected_errors
from mlflow_exec.evaluation.findings import Finding
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.search import SliceSearch
from mlflow_exec.evaluation.tables import Table, features_as_numbers
from mlflow_exec.settings import Settings

N_EXAMPLES = 5


class OutOfTimeError(Exception):
    """The scan's time is over; what a check yielded until then stays."""


@dataclass(eq=False)
class Context:
    """What a check works on.

    Attributes:
        data: The rows.
        model: The model, with its answers to all rows (`model.outputs`) and the labels in the form
            that fits them (`model.labels`).
        seed: Of the scan.
        alpha: The level of tests and intervals.
        deadline_s: On `time.monotonic`, when the scan's time is over.
        progress: Takes a few words about what is being done.
    """

    data: Data
    model: Model
    seed: int = 0
    alpha: float = 0.05
    deadline_s: float = float("inf")
    progress: Callable[[str], None] = field(default=lambda words: None)

    def tick(self) -> None:
        """Call it in every loop that takes time.

        Raises:
            OutOfTimeError: The scan's time is over.
        """
        if time.monotonic() > self.deadline_s:
            raise OutOfTimeError

    def rng(self, name: str) -> np.random.Generator:
        """Return a generator of its own for a check: results do not depend on their order.

        Draw no counts with it (binomial, multinomial, Poisson): those differ between versions of
        numpy, as uniform, normal, chosen and permuted ones do not.
        """
        return np.random.default_rng([self.seed, crc32(name.encode())])

    @cached_property
    def search(self) -> SliceSearch:
        """The slices of the data."""
        return SliceSearch(self.data, tick=self.tick)

    @cached_property
    def table(self) -> Table:
        """The features as numbers, for learners."""
        return features_as_numbers(self.data)

    @cached_property
    def labels(self) -> Values:
        """The labels: positions in `model.classes`, or numbers. Ask `needs_labels` before."""
        if self.model.labels is None:
            raise ValueError("a check that needs labels has to say so in `applies`")
        return self.model.labels

    @cached_property
    def errors(self) -> Floats:
        """Of a classification 1 where the class is wrong, else 0; of a regression the distance."""
        if self.model.task is Task.REGRESSION:
            return np.asarray(np.abs(self.model.outputs.values - self.labels), dtype=np.float64)
        return np.asarray(self.model.outputs.codes != self.labels, dtype=np.float64)

    @cached_property
    def expected_errors(self) -> Floats:
        """Of a classification the share of errors to expect of each row (see `difficulty`)."""
        return expected_errors(self)

    @cached_property
    def probabilities(self) -> Floats:
        """Rows x classes. Ask `needs_probabilities` before."""
        if self.model.outputs.probabilities is None:
            raise ValueError("a check that needs probabilities has to say so in `applies`")
        return self.model.outputs.probabilities

    def needs_labels(self) -> str | None:
        """Return why a check that needs labels does not apply."""
        return "the data has no labels" if self.model.labels is None else None

    def needs_probabilities(self) -> str | None:
        """Return why a check that needs probabilities does not apply."""
        if self.model.task is not Task.CLASSIFICATION:
            return "it is for classifications"
        if self.model.outputs.probabilities is None:
            return self.model.lacks_probabilities
        return None

    def needs_predictions(self) -> str | None:
        """Return why a check that asks the model about other rows does not apply."""
        if self.model.can_predict:
            return None
        return "only predictions were given, and no model to ask about other rows"

    def worst_rows(self, losses: Floats, rows: Mask, n: int = N_EXAMPLES) -> tuple[int, ...]:
        """Return the positions of the rows with the highest losses among some, worst first."""
        inside = np.flatnonzero(rows)
        order = np.argsort(-losses[inside], kind="stable")[:n]
        return tuple(int(position) for position in inside[order])


S = TypeVar("S", bound=Settings)


class Check(ABC, Generic[S]):
    """One kind of fault to look for.

    Attributes:
        name: As users write it and metrics have it (``performance_bias``); that of its file.
        title: For people, as a heading.
        settings_class: Its settings: each with a default and a description that names its source.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings_class: ClassVar[type[Settings]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def applies(self, context: Context) -> str | None:
        """Return in words why the check is not for this model or data; None where it is.

        The words go on after "skipped: ", without a full stop.
        """
        return None

    @abstractmethod
    def run(self, context: Context) -> Iterator[Finding]:
        """Yield what is found, also what may be chance: with its p-value.

        It calls `context.tick()` in its loops, draws from `context.rng(self.name)` only, and
        changes neither data nor model.

        Raises:
            OutOfTimeError: By `tick`; findings that were yielded before stay.
            ScanError: The model fails; the check counts as skipped, the scan goes on.
        """

    def finding(self, **fields: Any) -> Finding:
        """Return a finding of this check."""
        return Finding(check=self.name, **fields)
