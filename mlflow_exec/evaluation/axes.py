"""Axes: what rows can be told apart by, each as a few bins.

An axis is a column, or a property of it, cut into bins. An ordered one (numbers, times, lengths of
texts) has slices of neighbouring bins; of the others (categories, words, missing values) each bin
is a slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Integers, Values
from mlflow_exec.evaluation.data import Column, Data, Kind
from mlflow_exec.evaluation.properties import OF_TEXTS, OF_TIMES, numbers_of, words_of
from mlflow_exec.evaluation.slices import Condition

BINS = 40
_MAX_WORDS = 60
_SHORTEST_WORD = 3
_TEXTS_PER_TICK = 100


@dataclass(frozen=True, eq=False)
class Axis:
    """One way of telling rows apart.

    Attributes:
        column: The column's name.
        kind: As of `Condition.kind`.
        property_name: As of `Condition.property_name`.
        word: As of `Condition.value`, for the property ``word``.
        codes: The bin of each row; -1 for rows that are in none.
        edges: Of an ordered axis: where bins 1, 2, ... begin; empty for others.
        values: Of an axis that is not ordered: the value of each bin; None is a missing one.
        numbers: Of an ordered axis: what was cut into bins, for finer cuts; else empty.
    """

    column: str
    kind: str
    property_name: str
    word: str | None
    codes: Integers
    edges: Floats
    values: tuple[object, ...]
    numbers: Floats

    @property
    def is_ordered(self) -> bool:
        """Whether neighbouring bins make a slice."""
        return not self.values

    @property
    def n_bins(self) -> int:
        """How many bins it has."""
        return len(self.values) if self.values else len(self.edges) + 1

    def condition(self, first: int, end: int) -> Condition:
        """Return the condition for the bins from `first` up to, not including, `end`."""
        if self.is_ordered:
            low = float(self.edges[first - 1]) if first > 0 else None
            high = float(self.edges[end - 1]) if end <= len(self.edges) else None
            return self.range(low, high)
        value = self.values[first]
        missing = value is None
        if self.property_name == "word":
            value = self.word
        return Condition(
            self.column, self.property_name, value=value, missing=missing, kind=self.kind
        )

    def range(self, low: float | None, high: float | None) -> Condition:
        """Return the condition for numbers from `low` up to `high`."""
        return Condition(self.column, self.property_name, low, high, self.word, kind=self.kind)


Tick = Callable[[], None]


def axes_of(data: Data, min_rows: int, tick: Tick = lambda: None) -> list[Axis]:
    """Return all axes of the data on which there can be a slice of at least `min_rows` rows.

    Args:
        data: The rows.
        min_rows: Of a slice.
        tick: Called now and then, as long texts take time; what it raises ends it.
    """
    return [axis for column in data.columns for axis in _axes(column, min_rows, tick)]


def _axes(column: Column, min_rows: int, tick: Tick) -> Iterator[Axis]:
    tick()
    if column.kind is Kind.NUMERIC:
        yield from _ordered(column, "", column.values)
    elif column.kind is Kind.DATETIME:
        yield from _ordered(column, "", column.values)
        for name in OF_TIMES:
            yield from _ordered(column, name, numbers_of(column.values, name))
    elif column.kind is Kind.CATEGORY:
        yield from _categories(column, min_rows)
        return
    elif column.kind is Kind.TEXT:
        for name in OF_TEXTS:
            parts = [numbers_of(texts, name) for texts in _parts(column.values, tick)]
            yield from _ordered(column, name, np.concatenate(parts))
        yield from _words(column, min_rows, tick)
    else:
        return
    yield from _missing(column, min_rows)


def _parts(texts: Values, tick: Tick) -> Iterator[Values]:
    for start in range(0, len(texts), _TEXTS_PER_TICK):
        tick()
        yield texts[start : start + _TEXTS_PER_TICK]


def _ordered(column: Column, name: str, numbers: Floats) -> Iterator[Axis]:
    edges = cuts(numbers, BINS)
    if len(edges):
        yield Axis(column.name, column.kind.value, name, None,
                   binned(numbers, edges), edges, (), numbers)  # fmt: skip


def binned(numbers: Floats, edges: Floats) -> Integers:
    """Return the bin of each number; -1 where it is missing."""
    codes = np.searchsorted(edges, numbers, side="right").astype(np.int64)
    codes[np.isnan(numbers)] = -1
    return codes


def cuts(numbers: Floats, n_bins: int) -> Floats:
    """Return at most `n_bins` - 1 edges that cut numbers into bins of about the same size.

    Edges lie between neighbouring values, at the shortest number there is: people read them.
    """
    there = np.sort(numbers[~np.isnan(numbers)])
    if not len(there):
        return np.empty(0)
    starts = np.flatnonzero(there[1:] > there[:-1]) + 1  # also of infinite ones
    if len(starts) >= n_bins:
        wanted = np.arange(1, n_bins) * len(there) / n_bins
        nearest = np.searchsorted(starts, wanted)
        starts = np.unique(starts[np.minimum(nearest, len(starts) - 1)])
    return np.array([_between(there[s - 1], there[s]) for s in starts], dtype=np.float64)


def _between(below: float, above: float) -> float:
    """Return the shortest number in (below, above]."""
    if not (np.isfinite(below) and np.isfinite(above)):
        return float(above)
    middle = below + (above - below) / 2
    for digits in range(1, 17):
        for number in (middle, above):
            shown = float(f"{number:.{digits}g}")
            if below < shown <= above:
                return shown
    return float(above)


def _categories(column: Column, min_rows: int) -> Iterator[Axis]:
    codes, values = column.categories
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    kept = int((counts >= min_rows).sum())  # the most frequent ones are first
    kept = min(kept, BINS - 1)
    codes = np.where(codes < kept, codes, -2)
    bins: tuple[object, ...] = values[:kept]
    missing = codes == -1
    if missing.sum() >= min_rows:
        codes = np.where(missing, kept, codes)
        bins = (*bins, None)
    if bins:
        yield _nominal(column, "", None, np.maximum(codes, -1), bins)


def _words(column: Column, min_rows: int, tick: Tick) -> Iterator[Axis]:
    words_by_row = [
        frozenset(words_of(text or "")) for texts in _parts(column.values, tick) for text in texts
    ]
    found: Counter[str] = Counter()
    for words in words_by_row:
        found.update(words)
    most = len(column.values) - min_rows
    fitting = [(-count, word) for word, count in found.items()
               if len(word) >= _SHORTEST_WORD and min_rows <= count <= most]  # fmt: skip
    # By the word where as many rows have it: the order of a set is another in each process.
    for word in sorted(word for _, word in sorted(fitting)[:_MAX_WORDS]):
        rows = np.fromiter((word in words for words in words_by_row), bool, len(words_by_row))
        yield _nominal(column, "word", word, np.where(rows, 0, -1).astype(np.int64), (True,))


def _missing(column: Column, min_rows: int) -> Iterator[Axis]:
    values: Values = column.values
    missing = (values == None) if values.dtype == object else np.isnan(values)  # noqa: E711
    if min_rows <= missing.sum() < len(values):
        yield _nominal(column, "", None, np.where(missing, 0, -1).astype(np.int64), (None,))


def _nominal(
    column: Column, name: str, word: str | None, codes: Integers, values: tuple[object, ...]
) -> Axis:
    kind = column.kind.value
    return Axis(column.name, kind, name, word, codes, np.empty(0), values, np.empty(0))
