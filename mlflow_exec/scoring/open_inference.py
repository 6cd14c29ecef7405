"""The Open Inference Protocol (v2) of one model: what it is, whether it is ready, and inference."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.types import DataType
from mlflow.version import VERSION

from mlflow_exec.scoring.asgi import Answer
from mlflow_exec.scoring.fast_path import Request
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.scorer import Scorer
from mlflow_exec.scoring.v2_tensors import TensorError, parse, write

_logger = logging.getLogger(__name__)
_JSON = "application/json"
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
_OUTPUT = "predictions"
_DATATYPES = {
    DataType.boolean: "BOOL", DataType.integer: "INT32", DataType.long: "INT64",
    DataType.float: "FP32", DataType.double: "FP64",
}  # fmt: skip
_KINDS = {"b": "BOOL", "i": "INT", "u": "UINT", "f": "FP"}


class OpenInference:
    """Answers below ``/v2`` for one model, whose name and version are those of the options."""

    def __init__(self, scorer: Scorer, options: ScoringOptions) -> None:
        self._scorer = scorer
        self._name = options.name or "model"
        self._version = options.model_version
        self._schema = scorer.model.metadata.get_input_schema()
        params = scorer.model.metadata.get_params_schema()
        self._param_names = {param.name for param in params or []}

    def method(self, path: str) -> str | None:
        """Return the method that a path is asked with; None: there is no such path."""
        if path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            return "GET"
        found = _MODEL.fullmatch(path)
        return None if not found else "POST" if found[3] == "/infer" else "GET"

    def about(self, path: str, is_ready: bool) -> Answer:
        """Answer a GET."""
        if path == "/v2":
            return _json(
                {"name": "mlflow-exec", "version": VERSION, "extensions": ["binary_tensor_data"]}
            )
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            return _json({"ready": is_ready}, 200 if is_ready else 503)
        refusal = self.refusal(path)
        if refusal:
            return refusal
        if path.endswith("/ready"):
            return _json({"name": self._name, "ready": is_ready}, 200 if is_ready else 503)
        return _json(
            {
                "name": self._name, "versions": [self._version] if self._version else [],
                "platform": "mlflow", "inputs": _described(self._schema),
                "outputs": _described(self._scorer.model.metadata.get_output_schema()),
            }
        )  # fmt: skip

    def refusal(self, path: str) -> Answer | None:
        """Return a 404 where a path names another model or version than this."""
        found = _MODEL.fullmatch(path)
        assert found is not None
        name, version = found[1], found[2]
        if name == self._name and version in (None, self._version):
            return None
        given = name if version is None else f"{name}, version {version}"
        here = f"{self._name}, version {self._version}" if self._version else self._name
        return _json({"error": f"there is no model {given} here; there is {here}"}, 404)

    def infer(self, body: bytes, header_bytes: int | None) -> Answer:
        """Answer one inference request; every error is an answer too."""
        try:
            request, tensors = parse(body, header_bytes)
            given = request.get("parameters") or {}
            params = {k: v for k, v in given.items() if k in self._param_names}
            quick = self._quick(tensors) if not params else None
            if quick is not None and self._scorer.fast_path is not None:
                predictions = self._scorer.fast_path.predict(quick)
            else:
                data = self._data(tensors)
                predictions = self._scorer.model.predict(data, params=params or None)
            outputs = _outputs(predictions)
            head = {"model_name": self._name}
            if self._version:
                head["model_version"] = self._version
            if "id" in request:
                head["id"] = request["id"]
            written, text_bytes = write(head, outputs, _binary(request, outputs))
        except TensorError as error:
            return _json({"error": str(error)}, 400)
        except MlflowException as error:
            return _json({"error": error.message}, error.get_http_status_code())
        except Exception as error:
            _logger.exception("the model failed")
            return _json({"error": f"the model failed: {type(error).__name__}: {error}"}, 500)
        path, rows = ("mlflow", 0) if quick is None else ("fast", quick.rows)
        if text_bytes is None:
            return Answer(200, written, _JSON, path, rows)
        header = (b"inference-header-content-length", b"%d" % text_bytes)
        return Answer(200, written, "application/octet-stream", path, rows, (header,))

    def _quick(self, tensors: dict[str, Any]) -> Request | None:
        """Return what the model gets of one table of the right numbers, else None."""
        if self._scorer.fast_path is None or len(tensors) != 1:
            return None
        [(name, array)] = tensors.items()
        data = self._scorer.fast_path.of_table(name, array)
        return None if data is None else Request(data, None)

    def _data(self, tensors: dict[str, Any]) -> Any:
        """Return what MLflow takes: an array, arrays by name, or a frame of columns."""
        if not tensors:
            raise TensorError("inputs: is empty")
        schema = self._schema
        alone = next(iter(tensors.values())) if len(tensors) == 1 else None
        if schema is not None and schema.is_tensor_spec():
            if schema.has_input_names() and set(tensors) >= set(schema.input_names()):
                return tensors
            return tensors if alone is None else alone
        is_named = schema is not None and schema.has_input_names()
        names = schema.input_names() if is_named else []
        if alone is not None and alone.ndim == 2 and not set(tensors) & set(names):
            if is_named and alone.shape[1] == len(names):
                return pd.DataFrame(alone, columns=names)
            if not is_named:
                return pd.DataFrame(alone)
        return pd.DataFrame({name: _column(name, array) for name, array in tensors.items()})


def _column(name: str, array: Any) -> Any:
    if array.ndim == 1:
        return array
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    raise TensorError(
        f"input {name}: the shape {list(array.shape)} is none of a column; send [rows] or [rows, 1]"
    )


def _outputs(predictions: Any) -> dict[str, Any]:
    if isinstance(predictions, pd.DataFrame):
        return {str(name): predictions[name].to_numpy() for name in predictions.columns}
    if isinstance(predictions, dict):
        return {str(name): np.asarray(value) for name, value in predictions.items()}
    return {_OUTPUT: np.asarray(predictions)}


def _binary(request: dict[str, Any], outputs: dict[str, Any]) -> frozenset[str]:
    """Return the names of the outputs that the request wants as bytes."""
    default = bool((request.get("parameters") or {}).get("binary_data_output", False))
    wanted = {o.get("name"): o.get("parameters") or {} for o in request.get("outputs") or []}
    return frozenset(
        name for name in outputs if wanted.get(name, {}).get("binary_data", default)
    )


def _described(schema: Any) -> list[dict[str, Any]]:
    """Describe the tensors of a signature; a frame's column is a tensor of its rows."""
    if schema is None:
        return []
    described = []
    for i, spec in enumerate(schema.inputs):
        if schema.is_tensor_spec():
            dtype = np.dtype(spec.type)
            datatype = _KINDS.get(dtype.kind, "BYTES")
            if dtype.kind in "iuf":
                datatype += str(dtype.itemsize * 8)
            shape = list(spec.shape)
        else:
            datatype, shape = _DATATYPES.get(spec.type, "BYTES"), [-1]
        described.append({"name": spec.name or f"{i}", "datatype": datatype, "shape": shape})
    return described


def _json(data: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, json.dumps(data).encode(), _JSON)
