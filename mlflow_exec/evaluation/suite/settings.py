"""What stands in a suite: its own settings, and one class for each kind of validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mlflow_exec.evaluation.suite.names import check_metric, scan_metric_check
from mlflow_exec.settings import Settings

# MLflow takes metrics of 250 characters, and a validation is one, with a few words before it.
NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
MIN_ROWS = 20  # of a slice; what fewer rows tell is chance

Severity = Literal["major", "medium", "minor"]
Strategy = Literal["most_frequent", "prior", "stratified", "uniform", "mean", "median"]


class SliceCondition(Settings):
    """A condition that the rows of a slice fulfil: a range, a value, or a missing value."""

    column: str = Field(description="The feature.")
    low: float | datetime | date | None = Field(None, description="At least this.")
    high: float | datetime | date | None = Field(None, description="Less than this.")
    value: str | float | bool | datetime | date | None = Field(None, description="Exactly this.")
    missing: bool = Field(False, description="Rows where it is missing.")

    @field_validator("low", "high", mode="before")
    @classmethod
    def _number_or_date(cls, given: Any) -> Any:
        if given is None or isinstance(given, date):
            return given
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            return given
        if isinstance(given, str):
            with suppress(ValueError):
                return datetime.fromisoformat(given)
        raise ValueError("a number or a date is needed")

    @field_validator("value", mode="before")
    @classmethod
    def _one_value(cls, given: Any) -> Any:
        if given is None or isinstance(given, (str, int, float, date)):
            return given
        raise ValueError("a text, a number, true or false, or a date is needed")

    @model_validator(mode="after")
    def _one_form(self) -> SliceCondition:
        is_range = self.low is not None or self.high is not None
        if sum([is_range, self.value is not None, self.missing]) != 1:
            raise ValueError("one of 'low' and 'high', 'value', or 'missing' is needed")
        return self


class SuiteSettings(Settings):
    """What stands in a suite beside its validations; paths are relative to its file."""

    data: str | None = Field(None, description="The rows to judge by, for a gate.")
    target: str | None = Field(None, description="The column with the labels.")
    reference: str | None = Field(None, description="The rows that the model learnt from.")
    fail_on: Severity = Field(
        "major", description="The least severity of a failed validation that fails the model."
    )
    scan: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the scan; those of a call go before them."
    )
    slices: dict[str, Annotated[tuple[SliceCondition, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Slices by name: a condition, or several that all hold.",
    )

    @field_validator("scan")
    @classmethod
    def _of_the_checks(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in ("enabled", "file", "suite"):
            if name in given:
                raise ValueError(f"{name!r} has no effect in a suite; leave it out")
        return given

    @field_validator("slices", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: [one] if isinstance(one, Mapping) else one for name, one in given.items()}


class Validation(Settings):
    """What all kinds have."""

    needs_reference: ClassVar[bool] = False
    asks_model: ClassVar[bool] = False

    kind: str = Field(description="Which kind of validation it is.")
    severity: Severity = Field("major", description="How bad it is where the model fails it.")
    why: str = Field("", description="For people: what it is good for. It is told on failure.")
    metric: str | None = None

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, given: str | None) -> str | None:
        if given is not None:
            check_metric(given, of_scan=cls is Threshold)
        return given

    def checks(self) -> set[str]:
        """Return the checks of the scan that it asks about; the empty name for all of them."""
        if not (self.metric or "").startswith("scan/"):
            return set()
        return {scan_metric_check(str(self.metric))}

    def slice_names(self) -> tuple[str, ...]:
        """Return the named slices that it asks about."""
        return ()

    def columns(self) -> tuple[str, ...]:
        """Return the features that it names."""
        return ()


def _needs_one(given: Validation, *names: str) -> None:
    if all(getattr(given, name) is None for name in names):
        raise ValueError(f"one of {', '.join(map(repr, names))} is needed")


class Threshold(Validation):
    """A metric within limits, on all rows or on a slice; also counts of the scan's findings."""

    kind: Literal["threshold"]
    metric: str
    slice: str | None = Field(None, description="A named slice; all rows if null.")
    min_rows: int = Field(MIN_ROWS, ge=1, description="By fewer rows it cannot be told.")
    min: float | None = Field(None, description="At least.")
    max: float | None = Field(None, description="At most.")
    equals: float | None = Field(None, description="Exactly, up to rounding.")

    @model_validator(mode="after")
    def _check(self) -> Threshold:
        _needs_one(self, "min", "max", "equals")
        if self.slice is not None and self.metric.startswith("scan/"):
            raise ValueError(f"slice: {self.metric} is of all rows; leave the slice out")
        return self

    def slice_names(self) -> tuple[str, ...]:
        """Return the slice, if there is one."""
        return () if self.slice is None else (self.slice,)


class Spread(Validation):
    """A metric that is alike on several slices (Trubrics: performance_std_across_slices)."""

    kind: Literal["spread"]
    metric: str
    slices: tuple[str, ...] = Field((), description="Named slices.")
    by: str | None = Field(
        None, description="A feature: one slice per value; quarters of the rows for numbers."
    )
    min_rows: int = Field(MIN_ROWS, ge=1, description="Slices of fewer rows are left out.")
    min: float | None = Field(None, description="At least, on each slice.")
    max: float | None = Field(None, description="At most, on each slice.")
    max_std: float | None = Field(None, ge=0, description="The most standard deviation.")
    max_gap: float | None = Field(None, ge=0, description="The most between best and worst.")

    @model_validator(mode="after")
    def _check(self) -> Spread:
        _needs_one(self, "min", "max", "max_std", "max_gap")
        if bool(self.slices) == (self.by is not None):
            raise ValueError("either 'slices' or 'by' is needed")
        return self

    def slice_names(self) -> tuple[str, ...]:
        """Return the slices."""
        return self.slices

    def columns(self) -> tuple[str, ...]:
        """Return the feature that it goes by."""
        return () if self.by is None else (self.by,)


class TrainTest(Validation):
    """A metric that is not much worse than on the rows that the model learnt from."""

    needs_reference: ClassVar[bool] = True
    asks_model: ClassVar[bool] = True

    kind: Literal["train_test"]
    metric: str
    max_drop: float | None = Field(None, ge=0, description="So much worse, at most.")
    max_relative_drop: float | None = Field(
        None, ge=0, description="So much worse, as a share of the metric on the reference."
    )

    @model_validator(mode="after")
    def _check(self) -> TrainTest:
        _needs_one(self, "max_drop", "max_relative_drop")
        return self


class Dummy(Validation):
    """A metric that is better than that of a model which knows no feature."""

    kind: Literal["dummy"]
    metric: str
    strategy: Strategy | None = Field(
        None, description="Of scikit-learn's dummy; `prior` or `mean` if null."
    )
    min_gain: float = Field(0.0, ge=0, description="Better by more than this.")


class InferenceTime(Validation):
    """The time of an answer, on this machine."""

    asks_model: ClassVar[bool] = True

    kind: Literal["inference_time"]
    max_ms: float = Field(gt=0, description="Milliseconds at most.")
    rows: int = Field(1, ge=1, description="So many rows are asked about at a time.")
    repeats: int = Field(20, ge=1, description="So many times, after one that does not count.")
    quantile: float = Field(0.5, ge=0, le=1, description="Which one of them counts.")
    metric: None = None


class FeatureImportance(Validation):
    """Where a feature stands by its permutation importance."""

    asks_model: ClassVar[bool] = True

    kind: Literal["feature_importance"]
    feature: str = Field(description="The feature.")
    top: int | None = Field(None, ge=1, description="It is among so many of the first ones.")
    not_in_top: int | None = Field(None, ge=1, description="It is not among them.")
    metric: str | None = Field(
        None, description="What its shuffling costs; `log_loss`, `accuracy` or `rmse` if null."
    )
    repeats: int = Field(5, ge=1, description="So many shuffles.")
    max_rows: int = Field(2000, ge=2, description="So many rows, drawn by chance.")

    @model_validator(mode="after")
    def _check(self) -> FeatureImportance:
        if (self.top is None) == (self.not_in_top is None):
            raise ValueError("either 'top' or 'not_in_top' is needed")
        return self

    def columns(self) -> tuple[str, ...]:
        """Return the feature."""
        return (self.feature,)


class ImportanceTrainTest(Validation):
    """The features that matter are those that mattered on the rows the model learnt from."""

    needs_reference: ClassVar[bool] = True
    asks_model: ClassVar[bool] = True

    kind: Literal["feature_importance_train_test"]
    top: int = Field(ge=1, description="So many of the first ones are compared.")
    min_common: int | None = Field(
        None, ge=1, description="So many of them are the same at least; all if null."
    )
    metric: str | None = Field(None, description="As of `feature_importance`.")
    repeats: int = Field(5, ge=1, description="So many shuffles.")
    max_rows: int = Field(2000, ge=2, description="So many rows, drawn by chance.")


KINDS: dict[str, type[Validation]] = {
    "dummy": Dummy,
    "feature_importance": FeatureImportance,
    "feature_importance_train_test": ImportanceTrainTest,
    "inference_time": InferenceTime,
    "spread": Spread,
    "threshold": Threshold,
    "train_test": TrainTest,
}
assert list(KINDS) == sorted(KINDS), "keep KINDS sorted"
