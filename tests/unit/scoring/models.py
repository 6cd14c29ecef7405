"""Models that note what they get, and requests to them: right ones, and every kind of wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array


class Echo:
    """Answers with what it gets, and keeps it."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any]] = []

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        self.got.append((data, params))
        return data


def echoing(signature: ModelSignature | None) -> tuple[PyFuncModel, Echo]:
    echo = Echo()
    return PyFuncModel(Model(signature=signature), echo), echo


NAMES = st.sampled_from(["a", "b", "é", "x y", "", "0", "columns", "true", "\U0001f600"])
PLAIN = (
    DataType.double, DataType.float, DataType.long, DataType.integer, DataType.boolean,
    DataType.string,
)  # fmt: skip
OTHER = (DataType.binary, DataType.datetime, Array(DataType.double))
Values = dict[Any, st.SearchStrategy[Any]]
RIGHT: Values = {
    DataType.double: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    DataType.float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    DataType.long: st.integers(-(2**63), 2**63 - 1),
    DataType.integer: st.integers(-(2**31), 2**31 - 1),
    DataType.boolean: st.booleans(),
    DataType.string: st.text(max_size=4),
    DataType.binary: st.sampled_from(["aGFsbG8=", "", "%"]),
    DataType.datetime: st.sampled_from(["2026-01-02", "2026-01-02T03:04:05.678", "x"]),
}
ORDINARY: Values = {
    **RIGHT,
    DataType.double: st.floats(-1e9, 1e9) | st.integers(-9, 9) | st.none(),
    DataType.float: st.floats(-1e9, 1e9) | st.integers(-9, 9) | st.none(),
    DataType.string: st.text("abé \U0001f600", max_size=4),
}
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([2**31, 2**53 + 1, 2**63, 2**64, 2**70, -(2**70), 10**310, 0, 1]),
    st.sampled_from([float("nan"), float("inf"), -0.0, 1.5, 1e300, 1.0, 5e-324, 1e16]),
    st.sampled_from(["", "1", "1.5", "nan", "true", "2026-01-02", "a\0", "\ud800", "é"]),
    st.sampled_from([[], [1], [[1.5]], {}, {"a": 1}, [None]]),
)


def values_of(kind: Any, values: Values) -> st.SearchStrategy[Any]:
    if isinstance(kind, Array):
        return st.lists(values[kind.dtype], max_size=2)
    return values[kind]


@st.composite
def column_schemas(
    draw: st.DrawFn, kinds: Any = PLAIN + OTHER, always_named: bool = False
) -> Schema:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    if always_named:  # MLflow takes an empty name for none
        names = [name or "empty" for name in names]
    same = draw(st.sampled_from(kinds)) if draw(st.booleans()) else None
    is_named = always_named or draw(st.sampled_from([True, True, True, False]))
    return Schema(
        [
            ColSpec(
                same or draw(st.sampled_from(kinds)),
                name if is_named else None,
                required=draw(st.sampled_from([True, True, True, False])) if is_named else True,
            )
            for name in names
        ]
    )


@st.composite
def tensor_schemas(draw: st.DrawFn) -> Schema:
    dtypes = st.sampled_from(
        ["float64", "float32", "float16", "int64", "int32", "uint8", "bool", "str", "object"]
    )
    shapes = st.sampled_from([(-1,), (-1, 1), (-1, 2), (-1, 2, 2), (2, 2), (-1, -1), (3,)])
    names: list[Any] = draw(st.lists(NAMES, max_size=2, unique=True))
    return Schema(
        [TensorSpec(np.dtype(draw(dtypes)), draw(shapes), name) for name in names or [None]]
    )


PARAMS = ParamSchema(
    [
        ParamSpec("size", DataType.long, 3),
        ParamSpec("rate", DataType.double, 0.5),
        ParamSpec("words", DataType.string, ["a"], (-1,)),
        ParamSpec("on", DataType.boolean, True),
        ParamSpec("since", DataType.datetime, np.datetime64("2026-01-02")),
    ]
)
GIVEN_PARAMS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["size", "rate", "words", "on", "since", "other"]),
        ODD | st.integers() | st.floats() | st.lists(st.text(max_size=2), max_size=2),
        max_size=2,
    ),
    ODD,
)


@st.composite
def column_requests(
    draw: st.DrawFn, schema: Schema, values: Values = RIGHT, odd: bool = True
) -> dict[str, Any]:
    names = schema.input_names() if schema.has_input_names() else ["a", "b", "c", "d"]
    names = names[: len(schema.inputs)]
    count = draw(st.integers(0 if odd else 1, 3))
    columns = [values_of(kind, values) for kind in schema.input_types()]
    rows: list[list[Any]] = [[draw(column) for column in columns] for _ in range(count)]
    has_odd_value = draw(st.booleans())
    if odd and rows and has_odd_value:
        row = rows[draw(st.integers(0, len(rows) - 1))]
        row[draw(st.integers(0, len(names) - 1))] = draw(ODD)
    order = draw(st.permutations(range(len(names))))
    names, rows = [names[i] for i in order], [[row[i] for i in order] for row in rows]
    if odd and draw(st.integers(0, 4)) == 0:
        names, rows = draw(misshapen(names, rows))
    request: dict[str, Any] = draw(st.sampled_from(laid_out(names, rows, odd)))
    split = request.get("dataframe_split")
    if isinstance(split, dict) and draw(st.booleans()):
        split["index"] = draw(indexes(len(rows), odd))
    return request


@st.composite
def indexes(draw: st.DrawFn, rows: int, odd: bool) -> Any:
    def each(labels: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(labels, min_size=rows, max_size=rows)

    integers = each(st.integers(0, 3) | st.integers(-(2**63), 2**64 - 1))
    texts = each(st.text(max_size=2) | st.sampled_from(["1", "nan", "2026-01-02", "a\0"]))
    right = st.one_of(st.just(list(range(rows))), st.none(), integers, texts)
    wrong = st.one_of(st.lists(ODD, max_size=4), each(ODD), ODD)
    return draw(st.one_of(right, right, wrong) if odd else right)


@st.composite
def misshapen(draw: st.DrawFn, names: list[str], rows: list[list[Any]]) -> Any:
    what = draw(st.sampled_from(["missing", "extra", "twice", "short row", "other names"]))
    if what == "missing":
        return names[1:], [row[1:] for row in rows]
    if what == "extra":
        return [*names, draw(NAMES | st.just("extra"))], [[*row, draw(ODD)] for row in rows]
    if what == "twice":
        return [*names, names[0]], [[*row, row[0]] for row in rows]
    if what == "short row":
        return names, [row[: draw(st.integers(0, len(row)))] for row in rows]
    return [draw(NAMES | st.integers(0, 3)) for _ in names], rows


def laid_out(names: list[Any], rows: list[list[Any]], odd: bool) -> list[dict[str, Any]]:
    """Return the same table in every format."""
    records = [dict(zip(names, row, strict=False)) for row in rows]
    by_column = {n: [r[i] for r in rows if i < len(r)] for i, n in enumerate(names)}
    usual: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": names, "data": rows}},
        {"dataframe_records": records},
        {"inputs": by_column},
        {"instances": by_column},
        {"instances": records},
    ]
    unusual: list[dict[str, Any]] = [
        {"dataframe_split": {"data": rows}},
        {"dataframe_split": {"columns": names}},
        {"dataframe_split": rows},
        {"dataframe_records": by_column},
        {"inputs": records},
        {"inputs": rows},
        {"instances": rows},
        {"inputs": rows[0] if rows else []},
        {"inputs": rows, "instances": rows},
        {"inputs": by_column, "signature_name": "x"},
        {"messages": []},
        {},
    ]
    return usual * 3 + unusual if odd else usual


@st.composite
def tensor_requests(draw: st.DrawFn, schema: Schema) -> dict[str, Any]:
    def tensor(shape: tuple[int, ...], values: st.SearchStrategy[Any]) -> Any:
        if not shape:
            return draw(values)
        size = draw(st.integers(0, 3)) if shape[0] == -1 else shape[0]
        size += draw(st.sampled_from([0] * 12 + [1]))
        return [tensor(shape[1:], values) for _ in range(size)]

    def values(kind: str) -> st.SearchStrategy[Any]:
        usual: dict[str, st.SearchStrategy[Any]] = {
            "f": st.floats(width=16) | st.integers(-5, 5), "b": st.booleans(),
            "u": st.integers(0, 255), "i": st.integers(-(2**31), 2**31 - 1),
        }  # fmt: skip
        return st.sampled_from([usual.get(kind, st.text(max_size=2))] * 9 + [ODD]).flatmap(
            lambda chosen: chosen
        )

    tensors = [tensor(tuple(s.shape), values(s.type.kind)) for s in schema.inputs]
    if schema.has_input_names():
        named = dict(zip(schema.input_names(), tensors, strict=True))
        bodies = [{"inputs": named}, {"instances": named}, {"inputs": tensors[0]}]
    else:
        bodies = [{"inputs": tensors[0]}, {"instances": tensors[0]}]
    frame = {"data": tensors[0], "columns": ["a", "b"]}
    if draw(st.booleans()):
        frame["index"] = draw(indexes(len(tensors[0]), True))
    return draw(st.sampled_from([*bodies * 3, {"dataframe_split": frame}, {"instances": [{}]}]))


@st.composite
def texts(draw: st.DrawFn, request: dict[str, Any]) -> bytes:
    """Return the request as bytes: mostly its JSON, sometimes in other encodings or broken."""
    ascii_ = draw(st.booleans())
    text = json.dumps(request, ensure_ascii=ascii_)
    how = draw(st.sampled_from(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "cut", "list", "not utf"]))
    if how == "cut":
        return text[: len(text) // 2].encode("utf-8", "surrogatepass")
    if how == "list":
        return b"[" + text.encode("utf-8", "surrogatepass") + b"]"
    if how == "not utf":
        return text.encode("utf-8", "surrogatepass") + b"\xff"
    return text.encode(how, "surrogatepass")
