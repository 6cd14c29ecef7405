"""Whether a model passes a suite: one verdict for each validation.

What cannot be told counts as failed: a gate that does not know stays shut.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cached_property, singledispatchmethod
from typing import Any

import numpy as np

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Mask
from mlflow_exec.evaluation.checks.base import Context, OutOfTimeError
from mlflow_exec.evaluation.findings import Result
from mlflow_exec.evaluation.settings import settings_of
from mlflow_exec.evaluation.suite import measuring
from mlflow_exec.evaluation.suite.answers import Answers, answers_of, gain, labels_of
from mlflow_exec.evaluation.suite.importance import Sampling, first_ones, importances
from mlflow_exec.evaluation.suite.names import is_count, less_is_better, scan_metric_check
from mlflow_exec.evaluation.suite.reading import Suite
from mlflow_exec.evaluation.suite.settings import (
    Dummy,
    FeatureImportance,
    ImportanceTrainTest,
    InferenceTime,
    Spread,
    Threshold,
    TrainTest,
    Validation,
)
from mlflow_exec.evaluation.suite.slicing import named_slice, slices_by
from mlflow_exec.evaluation.verdicts import Verdict

_log = logging.getLogger(__name__)

_Told = tuple[bool, str, float | None, dict[str, Any]]


def judge(suite: Suite, context: Context, result: Result) -> tuple[Verdict, ...]:
    """Return what becomes of each validation.

    Args:
        suite: That `check_suite` has passed.
        context: Of the scan.
        result: Of its checks.
    """
    judge_ = _Judge(suite, context, result)
    verdicts = []
    for name, given in suite.validations.items():
        context.progress(name)
        figure: float | None = None
        details: dict[str, Any] = {}
        try:
            passed, said, figure, details = judge_.tell(given)
        except OutOfTimeError:
            passed, said = False, "the time of the scan was over (time_budget_s)"
        except ScanError as error:
            passed, said = False, f"{given.metric or given.kind} cannot be told: {error}"
        except Exception as error:  # the other validations are worth having
            _log.exception("The validation %s failed", name)
            passed, said = False, f"it cannot be told: {error!r}"
        if not passed and given.why:
            said = f"{said} ({given.why})"
        verdicts.append(Verdict(name, given.kind, given.severity, passed, said, figure, details))
    return tuple(verdicts)


class _Judge:
    def __init__(self, suite: Suite, context: Context, result: Result) -> None:
        self._suite = suite
        self._context = context
        self._result = result
        self._importances: dict[tuple[Sampling, bool], dict[str, float]] = {}

    @cached_property
    def _answers(self) -> Answers:
        model = self._context.model
        return answers_of(model, self._context.labels, model.outputs)

    @cached_property
    def _of_reference(self) -> Answers:
        model, reference = self._context.model, self._context.data.reference
        assert reference is not None
        return answers_of(model, labels_of(model, reference), model.predict(reference.frame))

    def _slice(self, name: str) -> Mask:
        return named_slice(self._context.data, self._suite.settings.slices[name])

    @singledispatchmethod
    def tell(self, given: Validation) -> _Told:
        """Return whether it is passed, in words, the figure, and more figures."""
        raise TypeError(f"{type(given).__name__} is no kind of validation")

    @tell.register
    def _threshold(self, given: Threshold) -> _Told:
        if given.metric.startswith("scan/"):
            figure, where = self._of_scan(given.metric), ""
        else:
            answers, where = self._answers, ""
            if given.slice is not None:
                answers = answers.on(self._slice(given.slice))
                where = f" on {given.slice} ({len(answers)} rows)"
            if len(answers) < given.min_rows:
                raise ScanError(
                    f"{len(answers)} rows{where and f' of {given.slice}'} are too few; "
                    f"{given.min_rows} are needed (min_rows)"
                )
            figure = answers.metric(given.metric)
        wanted = _limits(given.min, given.max)
        passed = _within(figure, given.min, given.max)
        if given.equals is not None:
            wanted.append(f"exactly {given.equals:g}")
            passed = passed and bool(np.isclose(figure, given.equals))
        said = f"{given.metric} is {figure:.4g}{where}; wanted: {' and '.join(wanted)}"
        return passed, said, figure, {}

    def _of_scan(self, metric: str) -> float:
        """Return a metric of the scan, where all was looked at that could add to it."""
        check = scan_metric_check(metric)
        skipped = {one.check: one for one in self._result.skipped}
        known = {*skipped, *(one.name for one in self._result.checks)}
        asked = {check} if check else set()
        if not check and is_count(metric):
            asked = known | {*settings_of(self._suite).names()}
        reasons: dict[str, list[str]] = {}
        for name in sorted(asked):
            # One that does not apply adds nothing to a total; alone, it tells nothing either.
            if name in skipped and (check or not skipped[name].expected):
                reasons.setdefault(skipped[name].reason, []).append(name)
            elif name not in known:
                reasons.setdefault("by the settings", []).append(name)
        if reasons:
            raise ScanError("; ".join(
                f"the check{'s' * (len(names) > 1)} {', '.join(names)} "
                f"{'were' if len(names) > 1 else 'was'} skipped: {why}"
                for why, names in reasons.items()
            ))  # fmt: skip
        return self._result.scan_metrics()[metric]

    @tell.register
    def _spread(self, given: Spread) -> _Told:
        masks = {name: self._slice(name) for name in given.slices}
        if given.by is not None:
            masks = slices_by(self._context.data, given.by)
        taken = {name: mask for name, mask in masks.items() if mask.sum() >= given.min_rows}
        if len(taken) < 2:
            raise ScanError(
                f"two slices of {given.min_rows} rows or more are needed; there are {len(taken)}"
            )
        figures = {
            name: self._answers.on(mask).metric(given.metric) for name, mask in taken.items()
        }
        return _told_of_spread(given, figures)

    @tell.register
    def _train_test(self, given: TrainTest) -> _Told:
        figure = self._answers.metric(given.metric)
        before = self._of_reference.metric(given.metric)
        drop = gain(given.metric, before, figure)
        relative = drop / abs(before) if before else math.copysign(math.inf, drop) if drop else 0.0
        passed = _within(drop, None, given.max_drop)
        passed = passed and _within(relative, None, given.max_relative_drop)
        wanted = [f"{limit:g}{unit}" for limit, unit in (
            (given.max_drop, ""), (given.max_relative_drop, " of it")) if limit is not None
        ]  # fmt: skip
        said = (
            f"{given.metric} is {figure:.4g}, and {before:.4g} on the reference; wanted: worse by "
            f"{' and '.join(wanted)} at most"
        )
        return passed, said, figure, {"reference": before, "drop": drop}

    @tell.register
    def _dummy(self, given: Dummy) -> _Told:
        figure = self._answers.metric(given.metric)
        dummy = measuring.dummy_answers(self._context, given.strategy).metric(given.metric)
        better = gain(given.metric, figure, dummy)
        said = (
            f"{given.metric} is {figure:.4g}, and {dummy:.4g} without any feature; wanted: better "
            f"by more than {given.min_gain:g}"
        )
        return better > given.min_gain, said, figure, {"dummy": dummy, "gain": better}

    @tell.register
    def _inference_time(self, given: InferenceTime) -> _Told:
        times = measuring.times_ms(self._context, given.rows, given.repeats)
        figure = float(np.quantile(times, given.quantile))
        said = (
            f"{given.rows} row{'s' * (given.rows > 1)} took {figure:.3g} ms (quantile "
            f"{given.quantile:g} of {given.repeats}); wanted: {given.max_ms:g} ms at most"
        )
        return figure <= given.max_ms, said, figure, {"fastest_ms": min(times)}

    @tell.register
    def _feature_importance(self, given: FeatureImportance) -> _Told:
        found = self._importance(given)
        first = first_ones(found, given.top or given.not_in_top or 1)
        place = list(found).index(given.feature) + 1
        wanted = f"among the first {given.top}" if given.top else (
            f"not among the first {given.not_in_top}")  # fmt: skip
        said = (
            f"{given.feature} is number {place} of {len(found)} by importance "
            f"({found[given.feature]:.4g}); wanted: {wanted}"
        )
        passed = (given.feature in first) == (given.top is not None)
        return passed, said, float(place), {"importance": found[given.feature], "first": first}

    @tell.register
    def _importance_train_test(self, given: ImportanceTrainTest) -> _Told:
        first = first_ones(self._importance(given), given.top)
        before = first_ones(self._importance(given, reference=True), given.top)
        common = [name for name in before if name in first]
        wanted = given.min_common or given.top
        said = (
            f"{len(common)} of the first {given.top} features by importance are the same "
            f"({', '.join(first)}; on the reference: {', '.join(before)}); wanted: {wanted}"
        )
        details = {"first": first, "first_of_reference": before}
        return len(common) >= wanted, said, float(len(common)), details

    def _importance(
        self, given: FeatureImportance | ImportanceTrainTest, *, reference: bool = False
    ) -> dict[str, float]:
        key = (Sampling(given.metric, given.repeats, given.max_rows), reference)
        if key not in self._importances:
            data, labels = self._context.data, self._context.labels
            if reference:
                assert data.reference is not None
                data, labels = data.reference, self._of_reference.labels
            self._importances[key] = importances(self._context, data, labels, key[0])
        return self._importances[key]


def _told_of_spread(given: Spread, figures: Mapping[str, float]) -> _Told:
    ordered = sorted(figures, key=lambda name: figures[name])
    lowest, highest = ordered[0], ordered[-1]
    values = np.array(list(figures.values()))
    std, gap = float(values.std()), float(values.max() - values.min())
    worst = highest if less_is_better(given.metric) else lowest
    passed = _within(figures[lowest], given.min, None) and _within(
        figures[highest], None, given.max
    )
    passed = passed and _within(std, None, given.max_std) and _within(gap, None, given.max_gap)
    wanted = _limits(given.min, given.max)
    if given.max_std is not None:
        wanted.append(f"a deviation of {given.max_std:g} at most")
    if given.max_gap is not None:
        wanted.append(f"a gap of {given.max_gap:g} at most")
    said = (
        f"{given.metric} is {figures[lowest]:.4g} ({lowest}) to {figures[highest]:.4g} ({highest}) "
        f"on {len(figures)} slices, with a deviation of {std:.3g}; wanted: {' and '.join(wanted)}"
    )
    return passed, said, figures[worst], {"slices": dict(figures), "std": std, "gap": gap}


def _limits(low: float | None, high: float | None) -> list[str]:
    told = [] if low is None else [f"{low:g} at least"]
    return told + ([] if high is None else [f"{high:g} at most"])


def _within(figure: float, low: float | None, high: float | None) -> bool:
    return (low is None or figure >= low) and (high is None or figure <= high)
