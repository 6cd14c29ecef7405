"""The result for programs: after its schema, whatever the data holds, with keys that stay."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlflow_exec.evaluation.findings import Result
from mlflow_exec.evaluation.report_json import SCHEMA, as_json
from tests.unit.evaluation.reported import drawing, faulty, hostile, result_of

NAN = float("nan")
# What programs rely on. A new key is added here; one of these never goes.
KEYS = {
    "": "schema_version model data task n_rows n_columns seed alpha duration_s counts metrics "
    "findings checks skipped suite samples versions",
    "counts": "n_major n_medium n_minor",
    "checks": "name title n_tested duration_s",
    "skipped": "check reason expected",
    "finding": "check severity title metric figure compared_to interval p_value adjusted_p slice "
    "size examples details plot advice",
    "suite": "name kind severity passed message figure details",
    "slice": "text conditions size share",
    "conditions": "text column property low high value missing",
    "plot": "kind x_title y_title x series highlighted reference",
}
MAY_BE_ABSENT = {"property", "low", "high", "value", "missing"}
RESULTS: dict[str, Callable[[], Result]] = {
    "a real scan": faulty,
    "hostile names and values": hostile,
    "nothing found": result_of,
    "gaps": lambda: result_of([drawing("line", [1.0, NAN], [0], a=(NAN, float("inf")))]),
}


def schema() -> Any:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def objects(part: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects of the schema that have keys of their own."""
    if "properties" in part:
        yield name, part
    for key, child in {**part.get("properties", {}), **part.get("$defs", {})}.items():
        yield from objects(child.get("items", child), key)


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_after_the_schema(name: str) -> None:
    result = RESULTS[name]()
    text = as_json(result)
    text.encode()
    assert "NaN" not in text
    found = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(found, schema())
    assert len(found["findings"]) == len(result.findings)
    for finding in found["findings"]:
        assert {str(position) for position in finding["examples"]} <= found["samples"].keys()


def test_the_keys_stay_and_are_always_there() -> None:
    assert {name: set(part["properties"]) for name, part in objects(schema())} == {
        name: set(keys.split()) for name, keys in KEYS.items()
    }
    for _, part in objects(schema()):
        assert set(part["required"]) | MAY_BE_ABSENT >= set(part["properties"])
        assert part["additionalProperties"] is False


def test_the_schema_says_what_each_key_means() -> None:
    for name, part in objects(schema()):
        for key, value in part["properties"].items():
            assert value.get("description"), f"{name}.{key} says nothing"


def test_the_docs_tell_each_key() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "evaluation-report.md"
    told = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8")))
    for part in ("", "counts", "checks", "skipped", "finding", "conditions"):
        assert set(KEYS[part].split()) - {"text"} <= told, part


def test_a_slice_can_be_found_again_by_its_conditions() -> None:
    found = json.loads(as_json(faulty()))
    [finding] = [f for f in found["findings"] if f["slice"] and "height" in f["slice"]["text"]]
    [condition] = finding["slice"]["conditions"]
    assert condition["text"] == finding["slice"]["text"]
    assert condition["low"] == pytest.approx(180, abs=1)
    assert "high" not in condition
