"""Templates: a value stays in its place, whatever it is; patches merge as the API server does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mlflow_exec.errors import TemplateError
from mlflow_exec.templates import load_patch, merge, render, to_yaml_scalar

TEXT = st.text(st.characters(blacklist_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)  # fmt: skip
PLACES = """
first: {{ value }}
list:
  - {{ value }}
  - {inline: {{ value }}, other: [{{ value }}]}
{% for item in [value] %}
- {{ item }}
{% endfor %}
last: 1
""".replace("{% for item in [value] %}\n- {{ item }}\n{% endfor %}\n", "")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("templates") / "places.yaml.j2"
    path.write_text(PLACES)
    return path


@given(VALUES)
@example("a: b\n- c # d")
@example("{{ value }} {% raw %}")
@example("---\n...\n%YAML 1.1\n&a *a !!python/object:os.system")
@example("\x85\u2028\u2029\ufeff\x7f\x00\x1b")
@example("yes")
@example("0x1f")
@example("1e3")
@example(1e300)
@example(-1e-7)
@example(5e-324)
@example([1e-05, {"1e5": "1e5"}])
@example({"": {"<<": ["="]}})
def test_a_value_never_breaks_out_of_its_place(places: Path, value: Any) -> None:
    (found,) = render(places, {"value": value})
    expected = {"first": value, "list": [value, {"inline": value, "other": [value]}], "last": 1}
    assert same(found, expected)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types: 1, 1.0 and True are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, b"bytes", "\ud800"])
def test_what_yaml_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TemplateError, match="cannot be written"):
        to_yaml_scalar(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {{ missing }}", "missing"),
        ("a: {{ value.__class__ }}", "__class__|unsafe"),
        ("a: {{ ''.__class__.__mro__ }}", "unsafe|__class__"),
        ("a: {{ value", "unexpected|end of"),
        ("a: [", "not valid YAML"),
        ("- a list", "mapping"),
    ],
)
def test_a_template_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.yaml.j2").write_text(text)
    with pytest.raises(TemplateError, match=said):
        render(tmp_path / "t.yaml.j2", {"value": "v"})


def test_a_template_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="cannot be read"):
        render(tmp_path / "none.yaml.j2", {})


MERGES: dict[str, tuple[Any, Any, Any]] = {
    "mappings key by key": (
        {"a": {"x": 1, "y": 2}}, {"a": {"y": 3, "z": 4}}, {"a": {"x": 1, "y": 3, "z": 4}},
    ),
    "null deletes": ({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"c": None}}, {"b": {}}),
    "containers by name": (
        {"containers": [{"name": "job", "image": "a"}, {"name": "side"}]},
        {"containers": [{"name": "job", "tty": True}, {"name": "new"}]},
        {"containers": [{"name": "job", "image": "a", "tty": True}, {"name": "side"},
                        {"name": "new"}]},
    ),
    "env by name inside of containers": (
        {"containers": [{"name": "job", "env": [{"name": "A", "value": "1"}]}]},
        {"containers": [{"name": "job", "env": [{"name": "A", "value": "2"}, {"name": "B"}]}]},
        {"containers": [{"name": "job", "env": [{"name": "A", "value": "2"}, {"name": "B"}]}]},
    ),
    "mounts by path": (
        {"volumeMounts": [{"mountPath": "/a", "name": "x"}]},
        {"volumeMounts": [{"mountPath": "/a", "readOnly": True}]},
        {"volumeMounts": [{"mountPath": "/a", "name": "x", "readOnly": True}]},
    ),
    "other lists are replaced": ({"args": [1, 2]}, {"args": [3]}, {"args": [3]}),
    "tolerations are replaced": (
        {"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]},
        {"tolerations": [{"key": "b"}]},
    ),
    "a named entry is deleted": (
        {"env": [{"name": "A"}, {"name": "B"}]}, {"env": [{"name": "A", "$patch": "delete"}]},
        {"env": [{"name": "B"}]},
    ),
    "a list is replaced on demand": (
        {"env": [{"name": "A"}]}, {"env": [{"$patch": "replace"}, {"name": "C"}]},
        {"env": [{"name": "C"}]},
    ),
    "a mapping is replaced on demand": (
        {"a": {"x": 1}}, {"a": {"$patch": "replace", "y": 2}}, {"a": {"y": 2}},
    ),
    "a value takes the place of a mapping": ({"a": {"x": 1}}, {"a": 2}, {"a": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGES)
def test_merging(case: str) -> None:
    base, patch, expected = MERGES[case]
    before = repr((base, patch))
    assert merge(base, patch) == expected
    assert repr((base, patch)) == before, "the arguments are not changed"


@given(st.dictionaries(TEXT, VALUES))
def test_an_empty_patch_changes_nothing(base: dict[str, Any]) -> None:
    assert merge(base, {}) == base


def test_a_named_entry_needs_its_name() -> None:
    with pytest.raises(TemplateError, match="'containers' has no 'name'"):
        merge({"containers": [{"name": "job"}]}, {"containers": [{"image": "x"}]})


def test_a_patch_comes_inline_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: {b: 1}")
    assert load_patch(str(tmp_path / "p.yaml")) == load_patch({"a": {"b": 1}}) == {"a": {"b": 1}}
    assert load_patch(None) == {}
    (tmp_path / "p.yaml").write_text("- 1")
    with pytest.raises(TemplateError, match="mapping"):
        load_patch(str(tmp_path / "p.yaml"))
    with pytest.raises(TemplateError, match="cannot be read"):
        load_patch(str(tmp_path / "none.yaml"))
    assert yaml.safe_load((tmp_path / "p.yaml").read_text()) == [1]
