"""Reading suites: what is written is what is meant; mistakes are told before anything is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.settings import scan_settings
from mlflow_exec.evaluation.suite.reading import read_suite
from mlflow_exec.settings import load_config

REFUSED = {
    "{": "it cannot be read",
    "[1]": "a mapping with 'validations' is needed; given list",
    "validations: {}": "validations: a mapping of at least one name",
    "validations:\n  a: {kind: treshold}": (
        r"line 2: a: unknown kind 'treshold' \(did you mean 'threshold'\?\). Known: dummy, "
    ),
    "validations:\n\n  a: {metric: accuracy}": r"line 3: a: kind: it is needed. Known: dummy, ",
    "validations:\n  a: {kind: threshold, metric: acuracy, min: 1}": (
        r"line 2: a: metric: unknown metric 'acuracy' \(did you mean 'accuracy'\?\)"
    ),
    "validations:\n  a: {kind: threshold, metric: scan/performance_bais/n_major, max: 0}": (
        r"did you mean 'scan/performance_bias/n_major'"
    ),
    "validations:\n  a: {kind: dummy, metric: scan/n_major}": "ask for it by the kind 'threshold'",
    "validations:\n  a: {kind: threshold, metric: accuracy}": (
        "a: one of 'min', 'max', 'equals' is needed"
    ),
    "validations:\n  a: {kind: threshold, metric: accuracy, mim: 1}": (
        r"unknown setting 'mim' \(did you mean 'min'\?\)"
    ),
    "validations:\n  a: {kind: threshold, metric: accuracy, min: 1, severity: mayor}": (
        "severity: .*'major', 'medium' or 'minor'; given \"mayor\""
    ),
    "validations:\n  a: {kind: threshold, metric: accuracy, min: 1}\n"
    "  a: {kind: threshold, metric: accuracy, min: 0}": "line 3: 'a' is given twice",
    "validations:\n  a b: {kind: threshold, metric: accuracy, min: 1}": "a name of 200 letters",
    "slices: {ulm: {column: city, value: Ulm}}\n"
    "validations:\n  a: {kind: threshold, metric: accuracy, min: 1, slice: ullm}": (
        r"line 3: a: unknown slice 'ullm' \(did you mean 'ulm'\?\)"
    ),
    "slices: {ulm: {column: city}}\n"
    "validations:\n  a: {kind: threshold, metric: accuracy, min: 1}": "slices.ulm.0: one of",
    "fail_no: major\nvalidations:\n  a: {kind: threshold, metric: accuracy, min: 1}": (
        r"unknown setting 'fail_no' \(did you mean 'fail_on'\?\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_mistake_is_told_with_its_place_and_the_nearest_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=REFUSED[text]):
        read_suite(path)


GOOD = "{kind: threshold, metric: accuracy, min: 0.9}"
VALIDATION = f"validations:\n  a: {GOOD}\n"


def read(folder: Path, text: str) -> dict[str, float]:
    """The least of each validation of a suite."""
    path = folder / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return {name: block.min for name, block in read_suite(path).validations.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("first", "second"),
    [("yes", "on"), ("1", "0x1"), ("true", "'True'"), ("=", "b"), ("2020-13-45", "null")],
)
def test_names_are_as_they_are_written(tmp_path: Path, first: str, second: str) -> None:
    text = f"validations:\n  {first}: {GOOD}\n  {second}: {GOOD.replace('0.9', '0.1')}\n"
    if first == "=":
        with pytest.raises(ConfigError, match="line 2: =: a name of 200 letters"):
            read(tmp_path, text)
        return
    assert read(tmp_path, text) == {first: 0.9, second.strip("'"): 0.1}


def test_what_is_merged_is_read_and_its_mistakes_have_their_lines(tmp_path: Path) -> None:
    text = f"validations:\n  <<: {{base: {GOOD}}}\n  b: {GOOD}\n"
    assert read(tmp_path, text) == {"base": 0.9, "b": 0.9}
    with pytest.raises(ConfigError, match="line 2: base: unknown setting 'mim'"):
        read(tmp_path, text.replace("min", "mim", 1))


def laughs(levels: int) -> str:
    """Ten to the power of so many ones, in few lines."""
    lines = ["  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["x:", *lines])


ODD = {
    "validations:\n  a: {kind: [1], metric: accuracy}": r"line 2: a: unknown kind \[1\]",
    f"slices: {{s: {{column: a, low: 2020-13-45}}}}\n{VALIDATION}": (
        "line 1: no value: month must be in 1..12"
    ),
    f"x: !!int ''\n{VALIDATION}": "line 1: no value: ",
    f"x: !!map [1]\n{VALIDATION}": "line 1: a mapping is needed",
    f"x: \x07\n{VALIDATION}": "it cannot be read: unacceptable character",
    f"? [a]\n: 1\n{VALIDATION}": "line 1: a text is needed as the key",
    f"validations:\n  true: {GOOD}\n  'true': {GOOD}": "line 3: 'true' is given twice",
    "validations: &v\n  a: *v": "line 1: it contains itself",
    "validations:\n  a: &v [*v]": "line 2: it contains itself",
    "x: " + "[" * 3000 + "]" * 3000: "it is nested too deeply",
    f"{laughs(9)}\n{VALIDATION}": "over 100000 values, where aliases are written out",
    f"validations:\n  {'n' * 201}: {GOOD}": "a name of 200 letters, digits, .* at most is needed",
    f"slices: {{s: []}}\n{VALIDATION}": "slices.s: List should have at least 1 item",
    f"slices: {{s: 3}}\n{VALIDATION}": "slices.s: Input should be a valid list",
    f"slices: {{s: {{column: a, value: [1, 2]}}}}\n{VALIDATION}": (
        "slices.s.0.value: a text, a number, true or false, or a date is needed"
    ),
    f"slices: {{s: {{column: a, low: true}}}}\n{VALIDATION}": "a number or a date is needed",
    f"slices: {{s: {{column: a, high: '65'}}}}\n{VALIDATION}": "a number or a date is needed",
    f"scan: {{suite: other.yaml}}\n{VALIDATION}": "scan: 'suite' has no effect in a suite",
    f"scan: {{enabled: true}}\n{VALIDATION}": "scan: 'enabled' has no effect in a suite",
    f"scan: {{file: scan.yaml}}\n{VALIDATION}": "scan: 'file' has no effect in a suite",
}


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:30].encode("unicode_escape").decode())
def test_odd_files_are_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=ODD[text]):
        read(tmp_path, text)


def test_a_name_of_200_characters_fits_into_a_metric(tmp_path: Path) -> None:
    assert list(read(tmp_path, f"validations:\n  {'n' * 200}: {GOOD}")) == ["n" * 200]


@pytest.mark.parametrize("text", ["a: 2020-13-45", "x: " + "[" * 3000 + "]" * 3000])
def test_odd_configurations_are_refused_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "scan.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"scan\.yaml': cannot be read: "):
        load_config(tmp_path / "scan.yaml")


def test_one_name_alone_is_a_list_and_messages_speak_of_lists() -> None:
    assert scan_settings({"skip": "drift"}).skip == ("drift",)
    with pytest.raises(ConfigError, match="classes: Input should be a valid list; given \"0\""):
        scan_settings({"classes": "0"})
