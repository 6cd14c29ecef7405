"""The features as a table for a learner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlflow_exec.evaluation.arrays import Floats
from mlflow_exec.evaluation.data import Data, Kind


@dataclass(frozen=True, eq=False)
class Table:
    """Features as numbers.

    Attributes:
        names: Of its columns.
        numbers: Rows x columns: categories as codes, missing ones as -1, times as numbers.
    """

    names: tuple[str, ...]
    numbers: Floats

    def without(self, name: str) -> Floats:
        """Return the numbers without a column."""
        return np.delete(self.numbers, self.names.index(name), axis=1)


def features_as_numbers(data: Data) -> Table:
    """Return the features as a table for a learner; texts and opaque columns are left out."""
    names, columns = [], []
    for column in data.of_kind(Kind.NUMERIC, Kind.DATETIME, Kind.CATEGORY):
        names.append(column.name)
        if column.kind is Kind.CATEGORY:
            columns.append(column.categories[0].astype(np.float64))
        else:
            columns.append(np.nan_to_num(column.values, nan=-1.0, posinf=3e38, neginf=-3e38))
    table = np.column_stack(columns) if columns else np.empty((len(data), 0))
    # Trees of scikit-learn compute with float32.
    return Table(tuple(names), np.clip(table, -3e38, 3e38))
