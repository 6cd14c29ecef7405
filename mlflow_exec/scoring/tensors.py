"""Signatures of tensors: from parsed JSON straight to the arrays that the model gets."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.types import Schema

from mlflow_exec.scoring.columns import SPLIT_KEYS, is_plain_index
from mlflow_exec.scoring.json_text import TOO_LARGE

_Arrays = Any  # one array, or a dict of them by the names of the signature


class TensorArrays:
    """Makes the arrays of one signature of tensors of numbers.

    Attributes:
        names: The tensors' names, in the signature's order; None: one tensor without a name.
        formats: The keys of a request that are understood.
    """

    formats = ("inputs", "instances", "dataframe_split")

    def __init__(self, names: list[str] | None, specs: list[tuple[Any, tuple[int, ...]]]) -> None:
        self.names = names
        self._specs = specs

    @classmethod
    def of(cls, schema: Schema) -> TensorArrays | None:
        """Return the arrays of a schema, or None where it has more than tensors of numbers."""
        if not schema.is_tensor_spec() or not schema.inputs:
            return None
        specs = [(np.dtype(spec.type), tuple(spec.shape)) for spec in schema.inputs]
        if not all(dtype.kind in "fiub" for dtype, _ in specs):
            return None
        names = schema.input_names() if schema.has_input_names() else None
        if names is None:
            return cls(None, specs) if len(specs) == 1 else None
        return cls(names, specs) if len(set(names)) == len(names) else None

    def samples(self) -> list[tuple[str, Any]]:
        """Return values of requests in each format."""
        tensors = [
            np.ones([2 if size == -1 else size for size in shape], dtype).tolist()
            for dtype, shape in self._specs
        ]
        value = tensors[0] if self.names is None else dict(zip(self.names, tensors))
        samples = [("inputs", value), ("instances", value)]
        if self._columns():
            split = {"columns": [str(i) for i in range(self._columns())], "data": tensors[0]}
            samples.append(("dataframe_split", split))
            samples.append(("dataframe_split", {**split, "index": ["é", ""]}))
        return samples

    def frame(self, request_format: str, value: Any) -> _Arrays | None:
        """Return the array or arrays that MLflow would hand over, or None where they may differ."""
        if request_format == "dataframe_split":
            return self._of_frame(value)
        if self.names is None:
            return _tensor(value, *self._specs[0])
        if type(value) is list and len(self.names) == 1:
            value = {self.names[0]: value}
        if type(value) is not dict or len(value) != len(self.names):
            return None
        arrays: dict[str, Any] = {}
        for name, (dtype, shape) in zip(self.names, self._specs):
            array = _tensor(value.get(name), dtype, shape)
            if array is None:
                return None
            arrays[name] = array
        if request_format == "instances" and len({len(a) for a in arrays.values()}) != 1:
            return None
        return arrays

    def of_table(self, name: str, array: Any) -> Any:
        """Return the array where it is one of the signature's dtype and shape, else None."""
        dtype, shape = self._specs[0]
        is_right = self.names is None and array.dtype == dtype and _fits(array, shape)
        return array if is_right and len(array) else None

    def _columns(self) -> int:
        """How many columns a frame in place of the tensor has; 0 where it may be none."""
        _, shape = self._specs[0]
        is_table = self.names is None and len(shape) == 2 and shape[0] == -1 and shape[1] > 1
        return shape[1] if is_table else 0

    def _of_frame(self, value: Any) -> Any:
        columns = self._columns()
        if not columns or type(value) is not dict:
            return None
        if not value.keys() <= SPLIT_KEYS or type(value.get("data")) is not list:
            return None
        names = value.get("columns")
        if names is not None and (
            type(names) is not list
            or set(map(type, names)) != {str}
            or len(set(names)) != columns
            or len(names) != columns
        ):
            return None
        table = _tensor(value["data"], *self._specs[0])
        if table is None or not is_plain_index(value.get("index"), len(table)):
            return None
        # A frame hands its values out by columns, and its index not at all.
        return np.array(table.T, order="C").T


def _tensor(value: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    if type(value) is not list or not value or type(value[0]) is dict:
        return None
    try:
        natural = np.array(value)
    except (ValueError, OverflowError):
        return None
    return _cast(natural, dtype) if _fits(natural, shape) else None


def _fits(array: Any, shape: tuple[int, ...]) -> bool:
    return array.ndim == len(shape) and all(
        size in (-1, actual) for size, actual in zip(shape, array.shape)
    )


def _cast(natural: Any, dtype: Any) -> Any:
    """Return the numbers in the signature's dtype, where every way to it gives the same."""
    if dtype.kind == "f" and natural.dtype.kind in "fi":
        is_sure = ((natural < TOO_LARGE) & (natural > -TOO_LARGE)).all()
        return natural.astype(dtype) if is_sure else None
    if natural.dtype == dtype:
        return natural
    if dtype.kind in "iu" and natural.dtype.kind == "i":
        cast = natural.astype(dtype)
        return cast if (cast == natural).all() else None
    return None
