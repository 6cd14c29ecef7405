"""Reading a suite: YAML whose mistakes are told with their line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.suite.parsing import parsed
from mlflow_exec.evaluation.suite.settings import KINDS, NAME_RULE, SuiteSettings, Validation
from mlflow_exec.settings import parse_settings
from mlflow_exec.settings.reading import closest

if TYPE_CHECKING:
    from mlflow_exec.evaluation.settings import ScanSettings


@dataclass(frozen=True)
class Suite:
    """A suite that was read.

    Attributes:
        path: The file.
        settings: What stands beside the validations.
        validations: By their names, in the order of the file.
    """

    path: Path
    settings: SuiteSettings
    validations: Mapping[str, Validation]

    def place_of(self, file: str | None) -> str | None:
        """Return where a file is that the suite names: beside it, if the path is relative."""
        return None if file is None else str(self.path.parent / Path(file).expanduser())

    def checks(self) -> set[str] | None:
        """Return the checks of the scan whose results are asked for; None for all of them."""
        asked = {name for v in self.validations.values() for name in v.checks()}
        return None if "" in asked else asked


def read_suite(path: str | Path) -> Suite:
    """Read a suite.

    Raises:
        ConfigError: The file cannot be read, or something in it is wrong; the message has the line.
    """
    place = Path(path).expanduser()
    where = f"suite {str(path)!r}"
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: it cannot be read: {error}") from error
    given, lines = parsed(text, where)
    if not isinstance(given, dict):
        raise ConfigError(
            f"{where}: a mapping with 'validations' is needed; given {type(given).__name__}"
        )
    blocks = given.get("validations")
    if not isinstance(blocks, dict) or not blocks:
        raise ConfigError(
            f"{where}: validations: a mapping of at least one name to its settings is needed; "
            f"given {type(blocks).__name__ if blocks is not None else 'none'}"
        )
    rest = {key: value for key, value in given.items() if key != "validations"}
    settings = parse_settings(SuiteSettings, rest, where)
    validations = {}
    for name, block in blocks.items():
        line = f"{where}, line {lines['validations', name]}: {name}"
        validations[name] = _validation(name, block, line, settings)
    return Suite(place, settings, validations)


def suite_of(settings: ScanSettings) -> Suite | None:
    """Return the suite that the settings of a scan name; None where they name none."""
    return read_suite(settings.suite) if settings.suite else None


def _validation(name: str, block: Any, where: str, suite: SuiteSettings) -> Validation:
    if not NAME_RULE.fullmatch(name):
        raise ConfigError(
            f"{where}: a name of 200 letters, digits, '_', '-' and '.' at most is needed"
        )
    if not isinstance(block, dict):
        raise ConfigError(
            f"{where}: a mapping of settings is needed; given {type(block).__name__}"
        )
    kind = block.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        given = f"unknown kind {kind!r}{closest(str(kind), list(KINDS))}"
        what = "kind: it is needed" if "kind" not in block else given
        raise ConfigError(f"{where}: {what}. Known: {', '.join(KINDS)}")
    found = parse_settings(KINDS[kind], block, where)
    for slice_name in found.slice_names():
        if slice_name not in suite.slices:
            known = ", ".join(suite.slices) or "none; name them under 'slices'"
            guess = closest(slice_name, list(suite.slices))
            raise ConfigError(f"{where}: unknown slice {slice_name!r}{guess}. Known: {known}")
    return found
