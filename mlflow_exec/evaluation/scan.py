"""The scan: all checks, one after the other, in the time there is."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.data import MIN_ROWS, Data
from mlflow_exec.evaluation.findings import MISSING, CheckSummary, Finding, Result, Skipped
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.performance import metrics_of
from mlflow_exec.evaluation.ray_engine import run_on_ray
from mlflow_exec.evaluation.registry import check_class
from mlflow_exec.evaluation.running import Progress, prefixed, run_here
from mlflow_exec.evaluation.settings import ScanSettings
from mlflow_exec.evaluation.statistics import benjamini_hochberg
from mlflow_exec.evaluation.suite.judging import check_suite, judge
from mlflow_exec.evaluation.suite.reading import suite_of
from mlflow_exec.settings import Settings, parse_settings

_VERSIONS = ("mlflow-exec", "mlflow", "numpy", "pandas", "scikit-learn", "scipy")
_SHOWN_CHARS = 200


def scan(
    data: Data,
    model: Model,
    settings: ScanSettings | None = None,
    progress: Progress = lambda words: None,
) -> Result:
    """Look for everything that is wrong with a model on some data.

    Args:
        data: The rows, with labels where there are some.
        model: Made with the same data.
        settings: The defaults where it is None.
        progress: Takes words about what is being done, some times per check.

    Raises:
        ConfigError: A check's settings or the suite are wrong; nothing was run.
        ScanError: There are too few rows.
        MissingExtraError: The engine is `ray`, and that is not installed.
        UnreachableError: The engine is `ray`, and that does not answer.
    """
    settings = settings or ScanSettings()
    started = time.monotonic()
    if len(data) < MIN_ROWS:
        raise ScanError(f"data: {len(data)} rows are too few; give at least {MIN_ROWS}")
    checks = [_check(name, settings) for name in settings.names()]
    context = Context(data, model, settings.seed, settings.alpha, started + settings.time_budget_s)
    suite = suite_of(settings)
    if suite is not None:
        check_suite(suite, context)
    findings: list[Finding] = []
    summaries: list[CheckSummary] = []
    skipped: list[Skipped] = []
    run = {"local": run_here, "ray": run_on_ray}[settings.engine]
    for ran in run(checks, context, settings, progress):
        check = ran.check
        if ran.skipped is not None:
            skipped.append(ran.skipped)
        if ran.skipped is None or ran.found:
            findings += certain_ones(ran.found, settings.alpha)
            summaries.append(CheckSummary(check.name, check.title, len(ran.found), ran.duration_s))
    findings.sort(key=lambda f: (f.severity.rank, f.check, f.adjusted_p or 0.0, -f.size))
    result = Result(
        tuple(findings), tuple(summaries), tuple(skipped), model.task.value, len(data),
        len(data.columns), metrics_of(context), settings.seed, settings.alpha,
        time.monotonic() - started, _versions(), _samples(context, findings),
    )  # fmt: skip
    if suite is None:
        return result
    context.progress = prefixed(progress, "Suite")
    verdicts = judge(suite, context, result)
    return replace(result, verdicts=verdicts, duration_s=time.monotonic() - started)


def _check(name: str, settings: ScanSettings) -> Check[Any]:
    cls = check_class(name)
    block: Mapping[str, Any] = (settings.checks or {}).get(name, {})
    own: Settings = parse_settings(cls.settings_class, block, f"checks.{name}")
    return cls(own)


def certain_ones(found: list[Finding], alpha: float) -> list[Finding]:
    """Return the findings of one check that chance does not explain, with adjusted p-values.

    Args:
        found: All that it tested; those without a p-value stay.
        alpha: The level, after the correction by Benjamini and Hochberg for their number.
    """
    tested = [finding for finding in found if finding.p_value is not None]
    adjusted = benjamini_hochberg([f.p_value for f in tested if f.p_value is not None])
    with_p = [replace(f, adjusted_p=p) for f, p in zip(tested, adjusted, strict=True) if p <= alpha]
    return [finding for finding in found if finding.p_value is None] + with_p


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _samples(context: Context, findings: list[Finding]) -> dict[int, dict[str, str]]:
    """Return the rows that are examples: their values, and what was expected and predicted."""
    rows = sorted({position for finding in findings for position in finding.examples})
    samples = {}
    model = context.model
    for position in rows:
        values = context.data.frame.iloc[position]
        shown = {str(name): _shown(value) for name, value in values.items()}
        if model.labels is not None:
            label = model.labels[position]
            shown["(label)"] = _shown(model.classes[label] if model.classes else label)
        shown["(prediction)"] = _shown(model.outputs.values[position])
        samples[position] = shown
    return samples


def _shown(value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return MISSING
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
