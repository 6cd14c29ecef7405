"""scikit-learn's estimators give the same on the quick way, and only those go there that do."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ColSpec, Schema
from sklearn import set_config
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.utils import all_estimators

from mlflow_exec.scoring import estimators, linear
from mlflow_exec.scoring.scorer import Scorer
from tests.unit.scoring.asgi import ask

NAMES = ["a", "b", "c", "d"]
RANDOM = np.random.default_rng(3)
TABLE = pd.DataFrame(RANDOM.normal(size=(60, 4)), columns=NAMES)
LABELS = (TABLE.sum(axis=1) > 0).astype(int).to_numpy()
LISTED, SCALERS = (
    {n: c for n, c in all_estimators() if any(n in names for names in listed.values())}
    for listed in (estimators._LAST, estimators._FIRST)
)


class Wrapper:
    """As MLflow's, whose method MLflow calls."""

    def __init__(self, sklearn_model: Any) -> None:
        self.sklearn_model = sklearn_model

    def predict(self, data: Any, params: Any = None) -> Any:
        return self.sklearn_model.predict(data)


Wrapper.__module__ = "mlflow.sklearn"


def fitted(estimator: Any, table: pd.DataFrame = TABLE) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few iterations
        return estimator.fit(table, LABELS)


def quick(estimator: Any, method: str = "predict", dtype: Any = np.float64) -> Callable[..., Any]:
    owner = Wrapper(estimator) if method == "predict" else estimator
    found: Callable[..., Any] = estimators.quicker(getattr(owner, method), NAMES, {dtype})
    return found


def is_quick(predict: Any) -> bool:
    return isinstance(predict, estimators.Quicker)


@pytest.mark.parametrize("name", sorted(LISTED))
def test_every_listed_estimator_gives_the_same(name: str) -> None:
    estimator = fitted(LISTED[name]())
    predict = quick(estimator)
    assert is_quick(predict)
    assert list(estimator.feature_names_in_) == NAMES
    for rows in (1, 7, 60):
        table = TABLE[:rows].reset_index(drop=True)
        usual = estimator.predict(table)
        assert predict(table).tobytes() == usual.tobytes()
        assert predict(table).shape == usual.shape


@pytest.mark.parametrize("name", sorted(linear._REGRESSORS | linear._CLASSIFIERS))
@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_model_is_one_product(name: str, classes: int) -> None:
    labels = pd.qcut(TABLE.sum(axis=1), classes, labels=False).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = LISTED[name]().fit(TABLE, labels)
    predict: Any = quick(estimator)
    assert predict.by_array.__module__ == linear.__name__
    assert predict(TABLE).tobytes() == estimator.predict(TABLE).tobytes()
    assert predict(TABLE).shape == estimator.predict(TABLE).shape
    for wrong in (np.nan, np.inf):
        odd = TABLE.copy()
        odd.iloc[1, 1] = wrong
        with pytest.raises(ValueError, match="Input X contains"):
            predict(odd)


def test_a_sparse_linear_model_is_asked_itself() -> None:
    estimator = fitted(LISTED["SGDClassifier"]()).sparsify()
    predict: Any = quick(estimator)
    assert predict.by_array.__module__ != linear.__name__
    assert predict(TABLE).tobytes() == estimator.predict(TABLE).tobytes()


@pytest.mark.parametrize("name", sorted(SCALERS))
def test_every_listed_first_step_gives_the_same(name: str) -> None:
    pipeline = fitted(make_pipeline(SCALERS[name](), LISTED["LogisticRegression"]()))
    predict = quick(pipeline)
    assert is_quick(predict)
    assert predict(TABLE).tobytes() == pipeline.predict(TABLE).tobytes()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 4), min_size=1, max_size=20))
def test_probabilities_are_the_same_to_the_last_bit(rows: list[tuple[float, ...]]) -> None:
    table = pd.DataFrame(np.array(np.array(rows).T, order="C").T, columns=NAMES)
    usual = LOGISTIC.predict_proba(table)
    predict = quick(LOGISTIC, "predict_proba")
    assert is_quick(predict)
    assert predict(table).tobytes() == usual.tobytes()


LOGISTIC = fitted(LISTED["LogisticRegression"]())


class Selecting(BaseEstimator):  # type: ignore[misc]
    """An estimator of a user, which takes a column by its name."""

    def fit(self, data: Any, labels: Any) -> Selecting:
        self.feature_names_in_ = np.array(NAMES)
        return self

    def predict(self, data: Any) -> Any:
        return data["a"].to_numpy()


@pytest.mark.parametrize(
    "estimator",
    [
        Selecting(),
        make_pipeline(
            ColumnTransformer([("x", StandardScaler(), ["a", "b"])]), LISTED["Ridge"]()
        ),
        make_pipeline(FunctionTransformer(lambda frame: frame[["a", "b"]]), LISTED["Ridge"]()),
        make_pipeline(StandardScaler(), PolynomialFeatures(), LISTED["Ridge"]()),
        Pipeline([("nothing", "passthrough"), ("last", LISTED["Ridge"]())]),
    ],
    ids=["own", "columns", "function", "unlisted step", "passthrough"],
)
def test_estimators_that_may_want_the_frame_get_it(estimator: Any) -> None:
    predict = quick(fitted(estimator))
    assert not is_quick(predict)
    assert len(predict(TABLE)) == 60


def test_steps_that_hand_frames_on_get_frames() -> None:
    set_config(transform_output="pandas")
    try:
        pipeline = fitted(make_pipeline(StandardScaler(), LISTED["Ridge"]()))
        assert not is_quick(quick(pipeline))
    finally:
        set_config(transform_output="default")


def test_columns_in_another_order_than_fitted_are_sklearns_to_refuse() -> None:
    other = fitted(LISTED["Ridge"](), TABLE[["b", "a", "c", "d"]])
    assert not is_quick(quick(other))
    assert not is_quick(quick(LISTED["Ridge"]().fit(TABLE.to_numpy(), LABELS)))
    assert not is_quick(quick(LOGISTIC, dtype=np.bool_))


def test_an_error_is_that_of_the_frame() -> None:
    predict = quick(LOGISTIC)
    table = TABLE.copy()
    table.iloc[3, 1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN") as ours:
        predict(table)
    with pytest.raises(ValueError, match="Input X contains NaN") as theirs:
        LOGISTIC.predict(table)
    assert str(ours.value) == str(theirs.value)


def test_an_array_is_all_that_a_request_needs_and_errors_are_mlflows() -> None:
    signature = ModelSignature(Schema([ColSpec("double", name) for name in NAMES]))
    model = PyFuncModel(Model(signature=signature), Wrapper(LOGISTIC))
    scorer, theirs = Scorer(model), scoring_server.init(model)
    for row in ([0.5, -1, 2.0, 3], [0.5, None, 2.0, 3]):
        body = json.dumps({"dataframe_split": {"columns": NAMES, "data": [row]}}).encode()
        request = scorer.understand(body, "application/json")
        assert request is not None
        assert request.array is not None
        pd.testing.assert_frame_equal(request.data, pd.DataFrame([row], columns=NAMES, dtype=float))
        reply = ask(theirs, "POST", "/invocations", body, {"content-type": "application/json"})
        answer = scorer.answer(body, "application/json")
        assert (answer.status, answer.path) == (reply.status, "fast")
        if reply.status != 200:  # the stack differs
            assert json.loads(answer.body)["message"] == json.loads(reply.body)["message"]
        else:
            assert answer.body == reply.body
