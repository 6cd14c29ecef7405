"""Reading a configuration: files, checks, and what is wrong with it in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mlflow_exec.credentials import looks_secret, without_credentials
from mlflow_exec.errors import ConfigError
from mlflow_exec.settings.fields import Settings

S = TypeVar("S", bound=Settings)


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a backend configuration from a YAML or JSON file.

    Raises:
        ConfigError: The file cannot be read, or does not hold a mapping.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {str(path)!r}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"config file {str(path)!r}: a mapping of settings is needed; "
            f"given {type(data).__name__}"
        )
    return data


def expand_file(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a configuration with the file that its key ``file`` names read; other keys win.

    Raises:
        ConfigError: The file cannot be read.
    """
    given = dict(config)
    if "file" not in given:
        return given
    path = given.pop("file")
    if not isinstance(path, str):
        raise ConfigError(f"{where}: file: a path is needed; given {path!r}")
    return load_config(path) | given


def cast_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings that texts of a command line mean, as a configuration file holds them.

    Dots lead into a setting (``resources.cpu``); what begins as a JSON object or array, or is
    ``null``, is read as JSON. Numbers and words stay texts, and are cast by their setting.

    Raises:
        ConfigError: A value is no JSON, or two keys contradict.
    """
    result: dict[str, Any] = {}
    for key, value in options.items():
        *outer, last = key.split(".")
        place = result
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{where}: {key}: {part!r} is given twice")
        if last in place:
            raise ConfigError(f"{where}: {key}: it is given twice")
        place[last] = _from_json(key, value, where)
    return result


def _from_json(key: str, value: Any, where: str) -> Any:
    if not isinstance(value, str) or not (value == "null" or value.lstrip()[:1] in ("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        shown = "" if looks_secret(key) else f"; given {without_credentials(_shown(value))}"
        raise ConfigError(f"{where}: {key}: not valid JSON: {error}{shown}") from error


def parse_settings(cls: type[S], config: Mapping[str, Any], where: str) -> S:
    """Check and cast a configuration.

    Args:
        cls: The settings class.
        config: What the user gave; ``{"file": PATH}`` is read first and the other keys win.
        where: What the messages name as the place, such as ``--backend-config``.

    Raises:
        ConfigError: A key is unknown, a value is of the wrong type, or values contradict.
    """
    try:
        return cls.model_validate(expand_file(config, where))
    except ValidationError as error:
        raise ConfigError("\n".join(_sentences(cls, error, where))) from None


def _sentences(cls: type[Settings], error: ValidationError, where: str) -> list[str]:
    return [_sentence(cls, dict(item), where) for item in error.errors()]


def _sentence(cls: type[Settings], item: dict[str, Any], where: str) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = known_keys(_model_at(cls, location[:-1]))
        guess = closest(location[-1], known)
        return f"{where}: unknown setting {key!r}{guess}. Known: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{where}: {key}: it is needed"  # what is given there is all the rest
    message = item["msg"].removeprefix("Value error, ")
    message = message.replace("valid tuple", "valid list").replace("Tuple should", "List should")
    given = _shown(item["input"])
    if not key or any(looks_secret(part) for part in [*location, given]):
        return f"{where}: {key + ': ' if key else ''}{message}"
    return f"{where}: {key}: {message}; given {without_credentials(given)}"


def closest(given: str, known: Sequence[str]) -> str:
    """Return `` (did you mean …?)`` for a name that is not known; empty where none is close."""
    close = get_close_matches(given, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def known_keys(cls: type[Settings]) -> list[str]:
    """Return the keys that a settings class accepts, sorted, as users write them."""
    return sorted(field.alias or name for name, field in cls.model_fields.items())


def _model_at(cls: type[Settings], location: list[str]) -> type[Settings]:
    for part in location:
        field = cls.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, Settings)]
        if nested:
            cls = nested[0]
    return cls


def json_schema(cls: type[Settings]) -> dict[str, Any]:
    """Return the JSON Schema of a settings class, with the keys as users write them."""
    return cls.model_json_schema(by_alias=True)
