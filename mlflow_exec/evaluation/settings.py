"""The settings of a scan, as they stand in `evaluator_config`, a file, or on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.registry import CHECKS
from mlflow_exec.settings import Settings, parse_settings
from mlflow_exec.settings.reading import closest

if TYPE_CHECKING:
    from mlflow_exec.evaluation.suite.reading import Suite

NAME = "mlflow-exec-scan"


class ScanSettings(Settings):
    """What a scan does."""

    enabled: bool = Field(
        default=False,
        description="Whether `mlflow.models.evaluate` without `evaluators` scans, too.",
    )
    checks: dict[str, dict[str, Any]] | None = Field(
        default=None,
        description="The checks to run: their names, or name -> settings. All where it is not set.",
    )
    skip: tuple[str, ...] = Field(
        default=(), description="Checks not to run, where all others are."
    )
    seed: int = Field(default=0, ge=0, description="Of whatever is drawn by chance.")
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5,
        description="Level of the tests, after the correction for how many there are.",
    )  # fmt: skip
    time_budget_s: float = Field(
        default=600.0, gt=0,
        description="When it is over, checks that are left are skipped; the report names them.",
    )  # fmt: skip
    engine: Literal["local", "ray"] = Field(
        default="local",
        description="Where it runs: `local` is this process; on `ray` each check is a task.",
    )
    ray_address: str | None = Field(
        default=None,
        description="Of `engine: ray`: `ray://host:10001`, or another that `ray.init` knows; that "
        "of `RAY_ADDRESS`, else a Ray that is started on this machine, where it is not set.",
    )
    task: Literal["classification", "regression"] | None = Field(
        default=None, description="What the model predicts; found out where it is not set."
    )
    classes: tuple[Any, ...] | None = Field(
        default=None,
        description="The classes in the order of the model's probabilities; else found out.",
    )
    predictions: str | None = Field(
        default=None, description="The column of the model's answer that holds the predictions."
    )
    reference: str | None = Field(
        default=None,
        description="A file of rows with the same columns that the model learnt from, or of an "
        "earlier time: for drift, known rows, and the suite, whose own it is where none is said.",
    )
    batch_rows: int = Field(
        default=10_000, gt=0, description="So many rows at a time are given to the model."
    )

    suite: str | None = Field(
        default=None, description="A file of validations that the model has to pass."
    )

    @field_validator("checks", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """Names alone mean checks with their defaults."""
        if isinstance(given, str):
            given = [given]
        if isinstance(given, (list, tuple)):
            given = {name: {} for name in given}
        if not isinstance(given, Mapping):
            return given
        return {_known(name): block or {} for name, block in given.items()}

    @field_validator("skip", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("skip")
    @classmethod
    def _known_names(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_known(name) for name in given)

    def names(self) -> tuple[str, ...]:
        """Return the names of the checks to run, sorted."""
        chosen = CHECKS if self.checks is None else self.checks
        return tuple(sorted(name for name in chosen if name not in self.skip))


def _known(name: Any) -> str:
    if name not in CHECKS:
        guess, known = closest(str(name), list(CHECKS)), ", ".join(CHECKS)
        raise ValueError(f"unknown check {name!r}{guess}. Known: {known}")
    return str(name)


def own_block(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the settings of the scan in a configuration, flat or nested under its name.

    Raises:
        ConfigError: It is no mapping, or what stands under the name is none.
    """
    block: Any = config or {}
    if isinstance(block, Mapping):
        block = block.get(NAME, block)
    if not isinstance(block, Mapping):
        raise ConfigError(
            f"{NAME}: a mapping of settings is needed; given {type(block).__name__}"
        )
    return block


def settings_of(suite: Suite) -> ScanSettings:
    """Return what a suite says of the scan.

    Raises:
        ConfigError: As of `scan_settings`.
    """
    return parse_settings(ScanSettings, suite.settings.scan, f"suite {str(suite.path)!r}: scan")


def scan_settings(config: Mapping[str, Any] | None, where: str = NAME) -> ScanSettings:
    """Check and cast a configuration, flat or nested under the evaluator's name.

    Where it names a suite, what that says of the scan is taken in, too: its settings stand behind
    those of the configuration, and the checks that its validations ask about are run.

    Raises:
        ConfigError: A key or a check is unknown, or a value is of the wrong type.
    """
    settings = parse_settings(ScanSettings, own_block(config), where)
    if settings.suite is None:
        return settings
    from mlflow_exec.evaluation.suite.reading import read_suite

    suite = read_suite(settings.suite)
    behind = settings_of(suite)
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    merged = behind.model_copy(update=given)
    if settings.reference is None:
        named = behind.reference or suite.settings.reference
        merged = merged.model_copy(update={"reference": suite.place_of(named)})
    asked = suite.checks()
    if merged.checks is None or not asked:
        return merged
    # The model does not pass by a check that was left out.
    checks = {name: merged.checks.get(name, {}) for name in {*merged.checks, *asked}}
    return merged.model_copy(update={"checks": checks})
