"""The result as JSON, after the schema in ``result.schema.json``.

Names are stable: what is added later is new keys. NaN and infinities, which JSON has not, are null.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_exec.evaluation.findings import Finding, Plot, Result, Severity

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("result.schema.json")


def as_data(result: Result) -> dict[str, Any]:
    """Return the result as JSON values."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "model": result.model,
        "data": result.data,
        "task": result.task,
        "n_rows": result.n_rows,
        "n_columns": result.n_columns,
        "seed": result.seed,
        "alpha": result.alpha,
        "duration_s": round(result.duration_s, 3),
        "counts": {f"n_{severity.value}": result.count(severity) for severity in Severity},
        "metrics": dict(result.metrics),
        "findings": [_finding(finding) for finding in result.findings],
        "checks": [
            {"name": check.name, "title": check.title, "n_tested": check.n_tested,
             "duration_s": round(check.duration_s, 3)}
            for check in result.checks
        ],
        "skipped": [
            {"check": s.check, "reason": s.reason, "expected": s.expected} for s in result.skipped
        ],
        "suite": [
            {"name": v.name, "kind": v.kind, "severity": v.severity, "passed": v.passed,
             "message": v.message, "figure": v.figure, "details": dict(v.details)}
            for v in result.verdicts
        ],
        "samples": {str(position): dict(row) for position, row in result.samples.items()},
        "versions": dict(result.versions),
    }  # fmt: skip
    plain: dict[str, Any] = _plain(data)
    return plain


def as_json(result: Result) -> str:
    """Return the result as JSON text."""
    return json.dumps(as_data(result), indent=2, ensure_ascii=False, allow_nan=False)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "severity": finding.severity.value,
        "title": finding.title,
        "metric": finding.metric,
        "figure": finding.figure,
        "compared_to": finding.compared_to,
        "interval": None if finding.interval is None else list(finding.interval),
        "p_value": finding.p_value,
        "adjusted_p": finding.adjusted_p,
        "slice": None if finding.slice is None else {
            "text": str(finding.slice),
            "conditions": [
                {"text": str(condition)} | condition.to_dict()
                for condition in finding.slice.conditions
            ],
            "size": finding.slice.size,
            "share": finding.slice.share,
        },
        "size": finding.size,
        "examples": list(finding.examples),
        "details": dict(finding.details),
        "plot": None if finding.plot is None else _plot(finding.plot),
        "advice": finding.advice,
    }  # fmt: skip


def _plot(plot: Plot) -> dict[str, Any]:
    return {
        "kind": plot.kind,
        "x_title": plot.x_title,
        "y_title": plot.y_title,
        "x": list(plot.x),
        "series": {name: list(values) for name, values in plot.series.items()},
        "highlighted": list(plot.highlighted),
        "reference": plot.reference,
    }


def _plain(value: Any) -> Any:
    """Return a value with what JSON has: no numbers of numpy, no NaN."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (int, float, type(None))):
        return value
    # Half a pair of surrogates, which a text can hold, is none of Unicode's characters.
    return str(value).encode("utf-8", "replace").decode()
