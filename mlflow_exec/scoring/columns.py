"""Signatures of named columns: from parsed JSON straight to the frame that the model gets.

MLflow parses a request into a frame, casts each column to the signature's type, and checks and
copies each column again. Where every value is of the JSON type that belongs to the column, the
result is known beforehand: whole blocks of one dtype. Everything else is left to MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from mlflow.types import DataType, Schema

from mlflow_exec.scoring.json_text import TOO_LARGE


class ColumnKind(NamedTuple):
    """What one column takes and gives.

    Attributes:
        accepts: The types of parsed JSON values that are fully understood.
        read_as: The dtype that pandas finds for such values by itself.
        dtype: The dtype that the signature asks for; None: the text dtype of this pandas.
        samples: Values of every accepted type.
    """

    accepts: frozenset[type]
    read_as: Any
    dtype: Any
    samples: tuple[Any, Any]


_NUMBERS: frozenset[type] = frozenset({int, float, type(None)})  # None is NaN on every way
KINDS = {
    DataType.double: ColumnKind(_NUMBERS, np.float64, np.float64, (0.1, 2)),
    DataType.float: ColumnKind(_NUMBERS, np.float64, np.float32, (0.1, 2)),
    DataType.long: ColumnKind(frozenset({int}), np.int64, np.int64, (-1, 2**31)),
    DataType.integer: ColumnKind(frozenset({int}), np.int64, np.int32, (-1, 2)),
    DataType.boolean: ColumnKind(frozenset({bool}), np.bool_, np.bool_, (True, False)),
    DataType.string: ColumnKind(frozenset({str}), object, None, ("é", "")),
}
"""Binary columns and dates need work for each value, which is MLflow's."""

SPLIT_KEYS = frozenset({"columns", "data", "index"})
"""What a ``dataframe_split`` may have."""

_LABELS: tuple[set[type], ...] = ({int}, {str})
_Rows = list[Sequence[Any]]
_Index = Any  # a list of labels, or None


class ColumnFrames:
    """Makes the frames of one signature of named columns of plain types.

    Attributes:
        names: The columns, in the signature's order.
        formats: The keys of a request that are understood.
    """

    formats = ("dataframe_split", "dataframe_records", "inputs", "instances")

    def __init__(self, names: Sequence[str], kinds: Sequence[ColumnKind]) -> None:
        self.names = list(names)
        self._kinds = list(kinds)
        self._pick = _picker(self.names)
        self._name_set = frozenset(names)
        first = self._kinds[0]
        self._block = first if first.dtype and all(kind == first for kind in kinds) else None
        # A frame's own names are an Index; making it costs more than all of the rest.
        self._columns = pd.DataFrame({name: [0] for name in self.names}).columns

    @classmethod
    def of(cls, schema: Schema) -> ColumnFrames | None:
        """Return the frames of a schema, or None where it has more than plain named columns."""
        if schema.is_tensor_spec() or not schema.inputs or not schema.has_input_names():
            return None
        names, types = schema.input_names(), schema.input_types()
        if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
            return None
        if not all(isinstance(type_, DataType) and type_ in KINDS for type_ in types):
            return None
        return cls(names, [KINDS[type_] for type_ in types])

    @property
    def dtypes(self) -> set[Any]:
        """The dtypes of the frames' columns; None stands for text."""
        return {kind.dtype for kind in self._kinds}

    def samples(self) -> list[tuple[str, Any]]:
        """Return values of requests in each format, with every accepted type in them."""
        rows = [[kind.samples[i] for kind in self._kinds] for i in (0, 1)]
        by_column = {n: list(column) for n, column in zip(self.names, zip(*rows))}
        split = {"columns": self.names[::-1], "data": [r[::-1] for r in rows]}
        return [
            ("dataframe_split", split),
            ("dataframe_split", {**split, "index": [7, 7]}),
            ("dataframe_split", {**split, "index": ["é", ""]}),
            ("dataframe_records", [dict(zip(self.names, row)) for row in rows]),
            ("inputs", by_column),
            ("instances", by_column),
        ]

    def frame(self, request_format: str, value: Any) -> pd.DataFrame | None:
        """Return the frame that MLflow would hand to the model, or None where it may differ."""
        rows = self._readers[request_format](self, value)
        index = _index_in(request_format, value)
        if not rows or not is_plain_index(index, len(rows)):
            return None
        if self._block is None:
            return self._by_column(list(zip(*rows)), index)
        table = self._one_block(rows)
        return None if table is None else self.framed(table, index)

    def array(self, request_format: str, value: Any) -> Any:
        """Return the array in such a frame, where it is one and nothing else is in it, or None."""
        rows = self._readers[request_format](self, value)
        if not rows or self._block is None or _index_in(request_format, value) is not None:
            return None
        return self._one_block(rows)

    def framed(self, table: Any, index: _Index = None) -> pd.DataFrame:
        """Return the frame around an array of all columns."""
        return pd.DataFrame(table, index=index, columns=self._columns, copy=False)

    def of_table(self, name: str, array: Any) -> pd.DataFrame | None:
        """Return the frame of a table of all columns that has the dtype already, else None."""
        if self._block is None or name in self._name_set or array.ndim != 2:
            return None
        if array.dtype != self._block.dtype or array.shape[1] != len(self.names) or not len(array):
            return None
        return self.framed(np.array(array.T, order="C").T)

    def _split_rows(self, value: Any) -> _Rows | None:
        if type(value) is not dict or not value.keys() <= SPLIT_KEYS:
            return None
        rows, columns = value.get("data"), value.get("columns")
        if type(rows) is not list or type(columns) is not list or not rows:
            return None
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {len(self.names)}:
            return None
        if columns == self.names:
            return rows
        if len(columns) != len(self.names) or not self._is_all_names(columns):
            return None
        place = {name: i for i, name in enumerate(columns)}
        pick = _picker([place[name] for name in self.names])
        return [pick(row) for row in rows]

    def _record_rows(self, value: Any) -> _Rows | None:
        if type(value) is not list or not value or set(map(type, value)) != {dict}:
            return None
        if set(map(len, value)) != {len(self.names)}:
            return None
        try:
            return [self._pick(record) for record in value]
        except KeyError:
            return None

    def _column_rows(self, value: Any) -> _Rows | None:
        if type(value) is list:  # instances: numpy makes its own text of each value
            has_text = any(kind.dtype is None for kind in self._kinds)
            return None if has_text else self._record_rows(value)
        if type(value) is not dict or value.keys() != self._name_set:
            return None
        columns = self._pick(value)
        if set(map(type, columns)) != {list} or len(set(map(len, columns))) != 1:
            return None
        return list(zip(*columns))

    def _input_rows(self, value: Any) -> _Rows | None:
        return self._column_rows(value) if type(value) is dict else None

    _readers: ClassVar[dict[str, Callable[[Any, Any], _Rows | None]]] = {
        "dataframe_split": _split_rows,
        "dataframe_records": _record_rows,
        "inputs": _input_rows,
        "instances": _column_rows,
    }

    def _is_all_names(self, columns: list[Any]) -> bool:
        return set(map(type, columns)) == {str} and self._name_set == frozenset(columns)

    def _one_block(self, rows: _Rows) -> Any:
        kind = self._block
        assert kind is not None
        if not kind.accepts.issuperset(map(type, chain.from_iterable(rows))):
            return None
        try:
            table = np.array(rows, dtype=kind.read_as)
        except OverflowError:
            return None
        # pandas keeps a block by columns; a model may well add up in another order by rows.
        block = np.array(table.T, dtype=kind.dtype, order="C")
        return None if _is_changed(table.T, block) else block.T

    def _by_column(self, columns: list[tuple[Any, ...]], index: _Index) -> pd.DataFrame | None:
        arrays: dict[str, Any] = {}
        for name, kind, values in zip(self.names, self._kinds, columns):
            array = _column(kind, values)
            if array is None:
                return None
            arrays[name] = array
        return pd.DataFrame(arrays, index=index)


def _index_in(request_format: str, value: Any) -> _Index:
    return value.get("index") if request_format == "dataframe_split" else None


def is_plain_index(index: Any, rows: int) -> bool:
    """Whether it is none, or one that pandas makes the same of for MLflow and for us."""
    if index is None:
        return True
    return type(index) is list and len(index) == rows and set(map(type, index)) in _LABELS


def _column(kind: ColumnKind, values: tuple[Any, ...]) -> Any:
    if not kind.accepts.issuperset(map(type, values)):
        return None
    if kind.dtype is None:
        # numpy, which some of MLflow's ways go through, drops a NUL at the end of a text.
        return None if "\0" in "".join(values) else list(values)
    try:
        array = np.array(values, dtype=kind.read_as)
    except OverflowError:
        return None
    cast = array.astype(kind.dtype)
    return None if _is_changed(array, cast) else cast


def _is_changed(array: Any, cast: Any) -> bool:
    """Whether a number is not what the text said, or would not be on each of MLflow's ways."""
    if array.dtype.kind == "f":
        flat = array.ravel(order="K")
        with np.errstate(over="ignore"):
            if flat.dot(flat) < TOO_LARGE**2:  # in one call: then no number is too large
                return False
        return bool((np.abs(array) >= TOO_LARGE).any())
    return array.dtype != cast.dtype and bool((array != cast).any())


def _picker(keys: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what takes the values of these keys as a tuple."""
    if len(keys) == 1:
        key = keys[0]
        return lambda container: (container[key],)
    return itemgetter(*keys)
