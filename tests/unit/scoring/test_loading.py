"""The first prediction is on the model's own example, however MLflow kept it."""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature

from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.loading import LoadedModel, LoadError, load, serving_example
from mlflow_exec.scoring.options import ScoringOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow's, while it saves
FRAME = pd.DataFrame({"a": [0.5, 1.5], "b": ["x", "é"]})
ARRAY = np.array([[1.5, 2.5]])


# MLflow would make a signature of type hints.
def predict(model_input):  # type: ignore[no-untyped-def]
    values = model_input["a"] if isinstance(model_input, pd.DataFrame) else model_input.ravel()
    if min(values) < 0:
        raise ValueError("negative")
    return [float(value) for value in values]


def saved(path: Path, example: Any, signature_of: Any = FRAME) -> ScoringOptions:
    mlflow.pyfunc.save_model(
        str(path), python_model=predict, signature=infer_signature(signature_of, [0.5]),
        input_example=example, pip_requirements=[],
    )  # fmt: skip
    return ScoringOptions(str(path))


def example_of(options: ScoringOptions) -> Any:
    body = serving_example(load(options))
    return None if body is None else json.loads(body)


def test_the_example_is_a_request(tmp_path: Path) -> None:
    options = saved(tmp_path / "m", FRAME)
    expected = {"dataframe_split": {"columns": ["a", "b"], "data": [[0.5, "x"], [1.5, "é"]]}}
    assert example_of(options) == expected
    (tmp_path / "m" / "serving_input_example.json").unlink()  # as before MLflow 2.17
    assert example_of(options) == expected
    assert ScoringApp.load(options).ready


def test_an_array_is_an_example_too(tmp_path: Path) -> None:
    options = saved(tmp_path / "m", ARRAY, ARRAY)
    (tmp_path / "m" / "serving_input_example.json").unlink()
    assert example_of(options) == {"inputs": [[1.5, 2.5]]}
    assert ScoringApp.load(options).ready


def test_a_model_without_example_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = saved(tmp_path / "m", None)
    with caplog.at_level(logging.WARNING, "mlflow_exec.scoring.loading"):
        assert ScoringApp.load(options).ready
    assert "no input example" in caplog.text


def test_a_model_that_fails_on_its_example_is_not_served(tmp_path: Path) -> None:
    options = saved(tmp_path / "m", FRAME)
    (tmp_path / "m" / "serving_input_example.json").write_text(
        '{"inputs": {"a": [-1.0], "b": ["x"]}}'
    )
    with pytest.raises(LoadError, match="its own input example failed with 400: Encountered"):
        ScoringApp.load(options)
    assert ScoringApp.load(ScoringOptions(options.model_uri, warmup=False)).ready


def test_a_model_is_fetched_from_where_mlflow_finds_it(tmp_path: Path) -> None:
    saved(tmp_path / "m", FRAME)
    loaded: LoadedModel = load(ScoringOptions((tmp_path / "m").as_uri()))
    path = Path(loaded.path)
    assert (path / "MLmodel").is_file()
    del loaded
    gc.collect()
    assert not path.exists()
    with pytest.raises(LoadError, match="model file:///nowhere: cannot be loaded: "):
        load(ScoringOptions("file:///nowhere"))
