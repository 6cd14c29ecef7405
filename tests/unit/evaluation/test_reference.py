"""The second data set of a scan, read from a file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.inputs import read_reference

ROWS = Data(pd.DataFrame({"ä": [1, 2], "b": ["x", "y"]}))


def test_it_has_the_columns_of_the_data_in_their_order_and_the_target(tmp_path: Path) -> None:
    learnt = pd.DataFrame({"b": ["z"] * 3, "id": [7, 8, 9], "ä": [3, 4, 5], "y": [0, 1, 1]})
    learnt.to_csv(tmp_path / "learnt.csv", index=False)
    reference = read_reference(str(tmp_path / "learnt.csv"), ROWS, "y")
    assert [column.name for column in reference.columns] == ["ä", "b"]
    assert reference.labels is not None
    assert reference.labels.tolist() == [0, 1, 1]
    assert read_reference(str(tmp_path / "learnt.csv"), ROWS, "other").labels is None


def test_rows_of_something_else_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"c": [1], "d": [2]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ScanError, match=r"has no column of the data; it has c, d; give rows with"):
        read_reference(str(tmp_path / "other.csv"), ROWS, None)
    with pytest.raises(ScanError, match="there is no file"):
        read_reference(str(tmp_path / "missing.csv"), ROWS, None)
