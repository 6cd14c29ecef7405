"""The bars of a slice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.plots import slice_plot
from mlflow_exec.evaluation.slices import Condition, Slice

FRAME = pd.DataFrame({
    "height": np.arange(1_000) % 100, "city": np.repeat(["Ulm", "Bonn"], 500),
})  # fmt: skip
DATA = Data(FRAME)
TALL = Condition("height", low=80.0)
IN_BONN = Condition("city", value="Bonn", kind="category")
WRONG = ((FRAME["height"] >= 80) & (FRAME["city"] == "Bonn")).to_numpy(dtype=float)


def test_the_bars_of_a_slice_are_highlighted_and_compared_to_all_rows() -> None:
    in_bonn = Slice((IN_BONN,), (FRAME["city"] == "Bonn").to_numpy())
    plot = slice_plot(DATA, in_bonn, WRONG, "errors")
    assert plot is not None
    assert set(plot.x) == {"Ulm", "Bonn"}  # no city is missing, so there is no bar of such rows
    assert [plot.x[n] for n in plot.highlighted] == ["Bonn"]
    assert dict(zip(plot.x, plot.series["errors"], strict=True)) == {"Ulm": 0.0, "Bonn": 0.2}
    assert plot.reference == pytest.approx(0.1)


def test_the_bars_of_a_pair_are_of_the_rows_where_the_second_condition_holds() -> None:
    plot = slice_plot(DATA, Slice((TALL, IN_BONN), WRONG > 0), WRONG, "errors")
    assert plot is not None
    assert plot.x_title == "height, where city = 'Bonn'"
    values = plot.series["errors"]
    assert {values[n] for n in plot.highlighted} == {1.0}
    assert {v for n, v in enumerate(values) if n not in plot.highlighted} == {0.0}
    assert plot.reference == pytest.approx(0.1)
