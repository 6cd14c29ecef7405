"""Slices: sets of rows that a sentence can tell and a program can find again in other data.

A slice is a few conditions that all hold, each on one column, or on a property of it such as the
length of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_exec.evaluation.arrays import Mask, Values
from mlflow_exec.evaluation.properties import as_numbers, is_missing, numbers_of, property_title


@dataclass(frozen=True)
class Condition:
    """A condition on one column.

    Exactly one of three forms: a range (``low <= x < high``, either may be None), a value
    (``x == value``), or `missing`.

    Attributes:
        column: Name of the column in the scanned data.
        property_name: Of which property of the column it is, such as ``length``; empty: its value.
        low: The range's beginning, inclusive.
        high: The range's end, exclusive.
        value: The value; for the property ``word`` the word that the text has.
        missing: Whether the value is missing.
        kind: ``numeric``, ``datetime``, ``category`` or ``text``: how to read the numbers.
    """

    column: str
    property_name: str = ""
    low: float | None = None
    high: float | None = None
    value: Any = None
    missing: bool = False
    kind: str = "numeric"

    def mask(self, values: Values) -> Mask:
        """Return for which of a column's values it holds."""
        if self.missing:
            return is_missing(values)
        if self.low is None and self.high is None:
            if self.property_name:
                return numbers_of(values, self.property_name, self.value) > 0
            return np.asarray(as_numbers(values) == self.value if self.kind == "numeric"
                              else values.astype(object) == self.value, dtype=bool)  # fmt: skip
        if self.property_name:
            numbers = numbers_of(values, self.property_name, self.value)
        else:
            numbers = as_numbers(values)
        held = ~np.isnan(numbers)
        if self.low is not None:
            held &= numbers >= self.low
        if self.high is not None:
            held &= numbers < self.high
        return held

    def __str__(self) -> str:
        name = property_title(self.column, self.property_name, self.value)
        if self.missing:
            return f"{name} is missing"
        if self.low is None and self.high is None:
            return name if self.property_name else f"{name} = {_shown(self.value)}"
        low, high = (_number(bound, self._unit()) for bound in (self.low, self.high))
        if self.low is None:
            return f"{name} < {high}"
        return f"{name} >= {low}" if self.high is None else f"{low} <= {name} < {high}"

    def interval(self) -> str:
        """Return the range alone, short: for the axes of plots."""
        low, high = (_number(bound, self._unit()) for bound in (self.low, self.high))
        if self.low is None:
            return f"< {high}"
        return f"≥ {low}" if self.high is None else f"{low} to {high}"

    def _unit(self) -> str:
        return "" if self.property_name else self.kind  # the hour of a time is a number

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, without what it does not have."""
        value = self.value.item() if isinstance(self.value, np.generic) else self.value
        shown = value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
        full = {"column": self.column, "property": self.property_name, "low": self.low,
                "high": self.high, "value": shown, "missing": self.missing}  # fmt: skip
        return {key: given for key, given in full.items() if given not in (None, "", False)
                or (key == "value" and given is not None)}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """Rows for which all conditions hold.

    Attributes:
        conditions: At least one.
        mask: Over the rows of the scanned data.
    """

    conditions: tuple[Condition, ...]
    mask: Mask

    @property
    def size(self) -> int:
        """How many rows it has."""
        return int(self.mask.sum())

    @property
    def share(self) -> float:
        """Which part of all rows it has."""
        return self.size / max(len(self.mask), 1)

    def __str__(self) -> str:
        return " and ".join(str(condition) for condition in self.conditions)

    def overlap(self, other: Mask) -> float:
        """Return the Jaccard index with other rows: 1 for the same ones, 0 for none in common."""
        union = int((self.mask | other).sum())
        return float((self.mask & other).sum()) / union if union else 0.0


def _number(bound: float | None, kind: str) -> str:
    if bound is None:
        return ""
    if kind == "datetime":
        text = str(np.datetime64(int(bound * 1000), "ms"))
        return text[:10] if text.endswith("T00:00:00.000") else text[:19].replace("T", " ")
    return f"{bound:.12g}"


def _shown(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return repr(value) if isinstance(value, str) else str(value)
