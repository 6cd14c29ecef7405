"""The fast path: a request that is fully understood goes straight to the model.

Understood is what one of `ColumnFrames` and `TensorArrays` makes of it. Before a format is
used, it has to give what this very MLflow makes of a sample (`proven_formats`), so another version
of MLflow, pandas or numpy costs speed where it does things in another way, never an answer.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import ParamSchema

from mlflow_exec.scoring import estimators
from mlflow_exec.scoring.columns import ColumnFrames
from mlflow_exec.scoring.json_text import loads, loads_exactly
from mlflow_exec.scoring.tensors import TensorArrays

_logger = logging.getLogger(__name__)

JSON_TYPES = frozenset(
    {"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"}
)


class Request:
    """A request that is fully understood.

    Attributes:
        array: The array in the frame that the model gets, where that is all it looks at.
        params: The parameters as they came.
        rows: How many rows the data has.
    """

    __slots__ = ("_data", "_framed", "array", "params", "rows")

    def __init__(self, data: Any, params: dict[str, Any] | None) -> None:
        self._data = data
        self._framed: Callable[[Any], pd.DataFrame] = pd.DataFrame
        self.array: Any = None
        self.params = params
        first = next(iter(data.values())) if type(data) is dict else data
        self.rows = len(first)

    @classmethod
    def of_array(
        cls, array: Any, framed: Callable[[Any], pd.DataFrame], params: dict[str, Any] | None
    ) -> Request:
        """Return a request whose frame is made when it is asked for."""
        made = cls(array, params)
        made.array, made._data, made._framed = array, None, framed
        return made

    @property
    def data(self) -> Any:
        """What the model gets."""
        if self._data is None:
            self._data = self._framed(self.array)
        return self._data


class FastPath:
    """Understands the plain requests to one model, and asks the model without MLflow's checks.

    Attributes:
        formats: The formats of requests that are understood, by a proof on samples.
        is_cheap: Whether a prediction of a few rows costs less than to hand it to a thread.
    """

    def __init__(self, model: PyFuncModel, frames: ColumnFrames | TensorArrays) -> None:
        self._frames = frames
        self._params_schema: ParamSchema | None = model.metadata.get_params_schema()
        self._param_names = {p.name for p in self._params_schema or []}
        self._unchecked = without_input_schema(model)
        self._quicker: estimators.Quicker | None = None
        if isinstance(frames, ColumnFrames):
            quicker = estimators.quicker(model._predict_fn, frames.names, frames.dtypes)
            self._unchecked._predict_fn = quicker
            self._quicker = quicker if isinstance(quicker, estimators.Quicker) else None
        self.is_cheap = self._quicker is not None and self._quicker.is_cheap
        self.formats = proven_formats(model, frames)

    @classmethod
    def of(cls, model: Any) -> FastPath | None:
        """Return the fast path of a model, or None where every request needs MLflow."""
        if type(model) is not PyFuncModel:
            return None
        schema = model.metadata.get_input_schema()
        if schema is None or _gets_other_types(model.metadata):
            return None
        frames = ColumnFrames.of(schema) or TensorArrays.of(schema)
        fast_path = cls(model, frames) if frames else None
        return fast_path if fast_path and fast_path.formats else None

    def understand(self, body: bytes, content_type: str | None) -> Request | None:
        """Return what the model is to be asked, or None where only MLflow knows."""
        if content_type not in JSON_TYPES:
            return None
        try:
            parsed = loads(body)
            if type(parsed) is not dict:
                return None
            params = parsed.pop("params", None)
            if len(parsed) != 1:
                return None
            if params:
                params = loads_exactly(body)["params"]
        except (ValueError, RecursionError):
            return None
        [(request_format, value)] = parsed.items()
        if request_format not in self.formats or not self._takes(params):
            return None
        try:
            if self._quicker and isinstance(self._frames, ColumnFrames):
                array = self._frames.array(request_format, value)
                if array is not None:
                    return Request.of_array(array, self._frames.framed, params)
            data = self._frames.frame(request_format, value)
        except Exception as error:  # pandas refuses it; MLflow knows what to say
            _logger.debug("left to MLflow: %s", error)
            return None
        return None if data is None else Request(data, params)

    def of_table(self, name: str, array: Any) -> Any:
        """Return what MLflow would hand over for one array, or None where only it knows."""
        return self._frames.of_table(name, array) if "inputs" in self.formats else None

    def predict(self, request: Request) -> Any:
        """Return the model's prediction; its errors come as they are."""
        if self._quicker and request.array is not None and not request.params:
            with suppress(Exception):  # its message is of the frame: see below
                return self._quicker.by_array(request.array)
        return self._unchecked.predict(request.data, params=request.params)

    def _takes(self, params: Any) -> bool:
        if params is None or params == {}:
            return True
        if type(params) is not dict or not self._param_names.issuperset(params):
            return False
        from mlflow.models.utils import _enforce_params_schema

        try:
            _enforce_params_schema(dict(params), self._params_schema)
        except Exception:
            return False
        return True


def _gets_other_types(metadata: Any) -> bool:
    """Whether a type hint says what the model gets; MLflow knows these since 2.20."""
    asks = ("_is_signature_from_type_hint", "_is_type_hint_from_example")
    return any(getattr(metadata, ask, lambda: False)() for ask in asks)


def without_input_schema(model: PyFuncModel) -> PyFuncModel:
    """Return the same model, whose ``predict`` does all but check and convert the data."""
    signature = model.metadata.signature
    bare = copy.copy(model)
    bare._model_meta = copy.copy(model.metadata)
    bare._model_meta.signature = (
        ModelSignature(params=signature.params) if signature.params else None
    )
    return bare


class _Echo:
    """A model that notes what it gets."""

    got: Any = None

    def predict(self, data: Any, params: Any = None) -> list[int]:
        self.got = data
        return [0]


def proven_formats(model: PyFuncModel, frames: ColumnFrames | TensorArrays) -> frozenset[str]:
    """Return the formats for all of whose samples MLflow's own path hands over the same."""
    tried, failed = set(), set()
    for request_format, value in frames.samples():
        tried.add(request_format)
        echo = _Echo()
        try:
            scoring_server.invocations(
                json.dumps({request_format: value}).encode(),
                "application/json",
                PyFuncModel(model.metadata, echo),
                model.metadata.get_input_schema(),
            )
            if not is_same(frames.frame(request_format, value), echo.got):
                failed.add(request_format)
        except Exception as error:
            _logger.info("%s: MLflow refuses the sample: %s", request_format, error)
            failed.add(request_format)
    return frozenset(tried - failed)


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether a model can tell the two apart: types, values, names, order and layout."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(is_same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, np.ndarray):
        return (
            ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and ours.tobytes() == theirs.tobytes()
            and (ours.flags.c_contiguous, ours.flags.f_contiguous)
            == (theirs.flags.c_contiguous, theirs.flags.f_contiguous)
        )
    return isinstance(ours, pd.DataFrame) and _is_same_frame(ours, theirs)


def _is_same_frame(ours: pd.DataFrame, theirs: pd.DataFrame) -> bool:
    if not (
        ours.columns.identical(theirs.columns)
        and ours.index.identical(theirs.index)
        and list(ours.dtypes) == list(theirs.dtypes)
        and ours.equals(theirs)
    ):
        return False
    a, b = ours.to_numpy(), theirs.to_numpy()
    return a.dtype == object or is_same(a, b)
