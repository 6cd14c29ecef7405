"""scikit-learn's estimators, without what they do again for each column of a frame.

Most estimators make one array of the frame, after they looked at each column's dtype and name:
3 ms for 600 columns, where the prediction itself takes 0.1 ms. The dtypes are known here, and the
names are the signature's; so a copy of the estimator that knows no names gets the same array.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.scoring.linear import product

_logger = logging.getLogger(__name__)

_FIRST = {
    "sklearn.preprocessing": {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"},
    "sklearn.impute": {"SimpleImputer"},
    "sklearn.decomposition": {"PCA", "TruncatedSVD"},
}
_LAST = {
    "sklearn.linear_model": {
        "LinearRegression", "LogisticRegression", "Ridge", "RidgeClassifier", "Lasso", "ElasticNet",
        "SGDClassifier", "SGDRegressor", "BayesianRidge", "HuberRegressor", "PoissonRegressor",
    },
    "sklearn.tree": {"DecisionTreeClassifier", "DecisionTreeRegressor"},
    "sklearn.ensemble": {
        "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier",
        "ExtraTreesRegressor", "GradientBoostingClassifier", "GradientBoostingRegressor",
        "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "IsolationForest",
    },
    "sklearn.svm": {"SVC", "SVR", "LinearSVC", "LinearSVR"},
    "sklearn.neighbors": {"KNeighborsClassifier", "KNeighborsRegressor"},
    "sklearn.naive_bayes": {"GaussianNB"},
    "sklearn.neural_network": {"MLPClassifier", "MLPRegressor"},
    "sklearn.cluster": {"KMeans"},
}  # fmt: skip
"""By public module: estimators that make one array of what they get, and do no more with it."""

_CHEAP = {name: _LAST[name] for name in ("sklearn.linear_model", "sklearn.naive_bayes")}
"""Those of them that take microseconds for a few rows, and never wait for anything."""

_CHEAP_SIZE = 10_000
"""As long as they have no more features times classes than this."""

_DTYPES = (np.float64, np.float32, np.int64, np.int32)


def quicker(predict: Callable[..., Any], names: list[str], dtypes: set[Any]) -> Any:
    """Return what answers as a model's own method does, or that method where nothing is gained.

    Args:
        predict: The method that MLflow calls, of one of its scikit-learn models.
        names: The columns of the frames that it will get.
        dtypes: Their dtypes.
    """
    method = getattr(predict, "__name__", "")
    estimator = _estimator(predict)
    if estimator is None or len(dtypes) != 1 or not dtypes <= set(_DTYPES):
        return predict
    nameless = _without_names(estimator, names)
    if nameless is None or not hasattr(nameless, method):
        return predict
    last = estimator.steps[-1][1] if type(estimator).__name__ == "Pipeline" else estimator
    size = len(names) * np.size(getattr(last, "classes_", 1))
    is_cheap, dtype = _is_listed(last, _CHEAP) and size <= _CHEAP_SIZE, dtypes.pop()
    ways = [product(nameless) if method == "predict" else None, getattr(nameless, method)]
    for way in ways:
        if way is not None:
            by_array = Quicker(predict, way, is_cheap=is_cheap)
            if _is_proven(predict, by_array, names, dtype):
                return by_array
    return predict


class Quicker:
    """Predicts on the array in a frame; whatever fails is asked again in the usual way.

    Attributes:
        by_array: The same for the array itself; its errors come as they are.
        is_cheap: Whether a few rows cost less than to hand them to a thread.
    """

    def __init__(
        self, usual: Callable[..., Any], by_array: Callable[[Any], Any], *, is_cheap: bool
    ) -> None:
        self._usual = usual
        self.by_array = by_array
        self.is_cheap = is_cheap
        # MLflow looks at each request what the method takes, and finds it here at once.
        self.__signature__ = inspect.signature(usual)

    def __call__(self, data: Any, params: Any = None) -> Any:
        """Predict on a frame."""
        try:
            return self.by_array(data.to_numpy())
        except Exception:  # so that its message is of the frame
            return self._usual(data)


def _estimator(predict: Any) -> Any:
    """Return the estimator whose method MLflow calls, where it is one of scikit-learn's."""
    owner = getattr(predict, "__self__", None)
    if type(owner).__module__ == "mlflow.sklearn" and predict.__name__ == "predict":
        owner = getattr(owner, "sklearn_model", None)
    return owner if type(owner).__module__.startswith("sklearn.") else None


def _without_names(estimator: Any, names: list[str]) -> Any:
    """Return a copy that knows no names, or None where the names or the estimator say no."""
    if list(getattr(estimator, "feature_names_in_", [])) != names:
        return None
    if type(estimator).__name__ == "Pipeline":
        return _pipeline_without_names(estimator)
    return _nameless(estimator) if _is_listed(estimator, _LAST) else None


def _pipeline_without_names(pipeline: Any) -> Any:
    steps = [step for _, step in pipeline.steps]
    if not all(_is_listed(step, _FIRST) for step in steps[:-1]):
        return None
    if not (_is_listed(steps[-1], _LAST) and hasattr(steps[0], "feature_names_in_")):
        return None
    if any(hasattr(step, "feature_names_in_") for step in steps[1:]):
        return None  # frames go from step to step
    bare = copy.copy(pipeline)
    bare.steps = [(pipeline.steps[0][0], _nameless(steps[0])), *pipeline.steps[1:]]
    return bare


def _nameless(estimator: Any) -> Any:
    bare = copy.copy(estimator)
    del bare.feature_names_in_
    return bare


def _is_listed(estimator: Any, listed: dict[str, set[str]]) -> bool:
    name, module = type(estimator).__name__, type(estimator).__module__ + "."
    return any(
        module.startswith(public + ".") and name in names for public, names in listed.items()
    )


def _is_proven(predict: Any, by_array: Quicker, names: list[str], dtype: Any) -> bool:
    """Whether both ways give the same to the last bit, for some rows."""
    random = np.random.default_rng(0)
    try:
        for rows in (1, 2, 50):
            values = (random.normal(size=(len(names), rows)) * 3).astype(dtype)
            frame = pd.DataFrame(values.T, columns=names)
            usual, found = predict(frame), by_array.by_array(frame.to_numpy())
            if type(usual) is not type(found) or not isinstance(usual, np.ndarray):
                return False
            same = (usual.dtype, usual.shape) == (found.dtype, found.shape)
            if not same or usual.tobytes() != found.tobytes():
                return False
    except Exception as error:
        _logger.info("the estimator is asked in the usual way: %s", error)
        return False
    return True
