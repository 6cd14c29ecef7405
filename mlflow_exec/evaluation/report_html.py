"""The report for people: one HTML file, the worst first.

It is a page of its own as well as an artifact in MLflow's view, which shows it in a frame without
rights. It loads nothing, and a policy in its head forbids that to whatever might get into it. Its
one script makes the links inside of the page work in that frame; all else is there without it.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from mlflow_exec.evaluation import report_words as words
from mlflow_exec.evaluation.findings import MISSING, Result
from mlflow_exec.evaluation.report_json import as_data
from mlflow_exec.evaluation.report_plots import effect_svg, legend, plot_svg

_TEMPLATE = "report.html.j2"
_MOST_BYTES = 1_000_000
_MOST_FINDINGS = 100
_UNFOLDED = 10  # findings whose example rows are shown without a click
# How many cells the tables of examples have together, and how long the texts in them are: the
# first of these with which the report is of a good size.
_SIZES = ((6_000, 60), (2_000, 40), (500, 20), (0, 20))
# Chromium follows no link inside of a page that is a blob in a frame with an origin of its own.
_SCRIPT = """document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']");
  if (link) document.querySelector(link.getAttribute("href")).scrollIntoView();
});"""
_OF_MODEL = ("(label)", "(prediction)")
_WORDS = {
    "major": "look at it before anybody uses the model",
    "medium": "look at it",
    "minor": "good to know",
}


def as_html(result: Result) -> str:
    """Return the report. Whatever comes from data or model is escaped, and cut where it is long."""
    data = as_data(result)
    html = ""
    for n_cells, n_chars in _SIZES:
        html = _template().render(_page(data, n_cells, n_chars))
        if len(html.encode()) <= _MOST_BYTES:
            break
    return html


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "figure": words.figure, "number": words.number, "cut": words.cut,
        "readable": words.readable,
    }  # fmt: skip
    return environment.get_template(_TEMPLATE)


def _page(data: dict[str, Any], n_cells: int, n_chars: int) -> dict[str, Any]:
    titles = {check["name"]: check["title"] for check in data["checks"]}
    shown = data["findings"][:_MOST_FINDINGS]
    n_rows = sum(len(finding["examples"]) for finding in shown)
    n_columns = min(30, n_cells // n_rows) if n_rows else 0
    found = {finding["check"] for finding in data["findings"]}
    return {
        "result": data,
        "verdict": _verdict(data),
        "severities": [(name, data["counts"][f"n_{name}"], said) for name, said in _WORDS.items()],
        "findings": [
            _finding(number, finding, titles) | {"table": _table(
                finding, data["samples"], n_columns, n_chars)}
            for number, finding in enumerate(shown, start=1)
        ],
        "n_left_out": len(data["findings"]) - len(shown),
        "n_unfolded": _UNFOLDED,
        "clean": [check for check in data["checks"] if check["name"] not in found],
        "not_done": [item for item in data["skipped"] if not item["expected"]],
        "not_for": [item for item in data["skipped"] if item["expected"]],
        "script": Markup(_SCRIPT),
        "script_hash": b64encode(sha256(_SCRIPT.encode()).digest()).decode(),
        "level": f"{100 * (1 - data['alpha']):g} %",
    }  # fmt: skip


def _verdict(data: dict[str, Any]) -> str:
    counts = data["counts"]
    undone = sum(not item["expected"] for item in data["skipped"])
    but = f", but {_many(undone, 'check')} could not be done" if undone else ""
    if counts["n_major"]:
        return f"{_many(counts['n_major'], 'major fault')} to look at before anybody uses the model"
    if counts["n_medium"]:
        return f"No major fault was found, and {_many(counts['n_medium'], 'medium one')}{but}"
    if counts["n_minor"]:
        return f"Nothing bad was found{but}"
    return f"Nothing was found{but}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def _finding(number: int, finding: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    identity = f"finding-{number}"
    plot, effect = finding["plot"], words.effect_of(finding)
    conditions = finding["slice"]["conditions"] if finding["slice"] else []
    return finding | {
        "identity": identity,
        "check_title": titles.get(finding["check"], finding["check"]),
        "conditions": [condition["text"] for condition in conditions],
        "facts": _facts(finding),
        "effect": effect,
        "effect_words": _effect_words(effect),
        "effect_svg": effect_svg(effect, f"{identity}-effect") if effect else Markup(""),
        "chance": words.chance(finding["adjusted_p"]),
        "plot_svg": plot_svg(plot, f"{identity}-plot") if plot else Markup(""),
        "legend": legend(plot) if plot else [],
        "more": _more(finding["details"]),
    }


def _facts(finding: dict[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of a finding's main figures."""
    metric, slice_ = finding["metric"], finding["slice"]
    name = words.cut(metric.replace("_", " "))
    facts = [(f"{name} here" if slice_ else name, words.figure(finding["figure"], metric))]
    if finding["compared_to"] is not None:
        facts.append(("elsewhere" if slice_ else "compared to",
                      words.figure(finding["compared_to"], metric)))  # fmt: skip
    if slice_:
        share = words.figure(slice_["share"], "share_of_rows")
        facts.append(("rows in the slice", f"{slice_['size']:,} ({share} of all)"))
        if finding["size"] != slice_["size"]:
            facts.append(("of them measured", f"{finding['size']:,}"))
    elif finding["size"]:
        facts.append(("rows it is about", f"{finding['size']:,}"))
    return facts


def _effect_words(effect: words.Effect | None) -> str:
    if effect is None:
        return ""
    between = f"{effect.shown(effect.low)} to {effect.shown(effect.high)}"
    if effect.value is None:
        return f"{between} {effect.unit}".rstrip()
    return f"{f'{effect.shown(effect.value)} {effect.unit}'.rstrip()} ({between})"


def _more(details: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the details that are single values; those that are lists are for programs."""
    return [
        (words.cut(name.replace("_", " ")),
         words.number(value) if isinstance(value, (int, float)) and not isinstance(value, bool)
         else words.cut(value))
        for name, value in list(details.items())[:20]
        if not isinstance(value, (dict, list)) and value is not None and name != "relative"
    ]  # fmt: skip


def _table(
    finding: dict[str, Any], samples: dict[str, dict[str, str]], n_columns: int, n_chars: int
) -> dict[str, Any] | None:
    """Return the example rows: label and prediction first, then what the slice is about."""
    rows = [(n, samples[str(n)]) for n in finding["examples"] if str(n) in samples]
    if not rows or not n_columns:
        return None
    given = list(rows[0][1])
    of_slice = {c["column"] for c in finding["slice"]["conditions"]} if finding["slice"] else set()
    first = [name for name in _OF_MODEL if name in given]
    first += [name for name in given if name in of_slice]
    columns = [*first, *(name for name in given if name not in first)][: max(n_columns, len(first))]
    return {
        "columns": [
            {"name": words.cut(name.strip("()") if name in _OF_MODEL else name, 30),
             "class": "model" if name in _OF_MODEL else "hot" if name in of_slice else ""}
            for name in columns
        ],
        "rows": [(n, [_cell(row.get(name, ""), n_chars) for name in columns]) for n, row in rows],
        "n_left_out": len(given) - len(columns),
    }  # fmt: skip


def _cell(value: str, n_chars: int) -> tuple[str, str]:
    """Return the class and the text of a cell: numbers stand on the right."""
    if value in (MISSING, ""):
        return "none", value
    try:
        float(value)
    except ValueError:
        return "", words.cut(value.removesuffix(" 00:00:00"), n_chars)
    return "n", words.cut(value, n_chars)
