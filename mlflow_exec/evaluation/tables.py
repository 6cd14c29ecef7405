"""The features as a table for a learner."""

from __future__ import annotations

import numpy as np

from mlflow_exec.evaluation.arrays import Floats
from mlflow_exec.evaluation.data import Data, Kind


def features_as_numbers(data: Data, without: str | None = None) -> Floats:
    """Return the features as a table for a learner: categories as codes, missing ones as -1.

    Times are numbers, texts and opaque columns are left out, and the column of the name `without`.
    """
    columns = []
    for column in data.of_kind(Kind.NUMERIC, Kind.DATETIME, Kind.CATEGORY):
        if column.name == without:
            continue
        if column.kind is Kind.CATEGORY:
            columns.append(column.categories[0].astype(np.float64))
        else:
            columns.append(np.nan_to_num(column.values, nan=-1.0, posinf=3e38, neginf=-3e38))
    if not columns:
        return np.empty((len(data), 0))
    # Trees of scikit-learn compute with float32.
    return np.clip(np.column_stack(columns), -3e38, 3e38)
