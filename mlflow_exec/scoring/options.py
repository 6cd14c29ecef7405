"""What can be chosen about a scoring server, as one JSON object that travels with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

ENVIRONMENT_VARIABLE = "MLFLOW_EXEC_SCORING"
"""The variable that `ScoringOptions.from_environment` reads."""

_MEBIBYTE = 1024 * 1024


class OptionsError(ValueError):
    """The options are wrong; the message is a sentence that names the option."""


@dataclass(frozen=True)
class ScoringOptions:
    """How one model is served.

    Attributes:
        model_uri: A path or any URI that MLflow loads models from.
        name: The model's name in metrics and in the Open Inference Protocol; empty: ``model``.
        model_version: The version that answers, for metrics; empty where there is none.
        token_file: A file with the accepted bearer tokens, one per line, read again when it
            changes.
        token_env: The name of an environment variable with the accepted bearer tokens.
        max_request_bytes: Larger bodies are refused with 413.
        timeout_s: A request that is not answered in this time gets MLflow's 504.
        max_concurrent: How many predictions may run at a time, each in a thread.
        batch_max_rows: Requests that wait for the model are put together up to so many rows;
            0: never. Only for models that treat each row by itself.
        batch_wait_ms: How long a batch that is not full waits for more while the model is busy.
        warmup: Whether the model predicts on its input example before it is ready.
        drain_s: How long requests may go on after the order to stop, beyond their `timeout_s`.
    """

    model_uri: str
    name: str = ""
    model_version: str = ""
    token_file: str | None = None
    token_env: str | None = None
    max_request_bytes: int = 100 * _MEBIBYTE
    timeout_s: float = 60.0
    max_concurrent: int = 16
    batch_max_rows: int = 0
    batch_wait_ms: float = 0.0
    warmup: bool = True
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name), str(field.type))
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise OptionsError(
                    f"scoring option {name}: must be at least {least}; "
                    f"given: {getattr(self, name)!r}"
                )
        if not self.model_uri:
            raise OptionsError("scoring option model_uri: is empty; give a path or a models:/ URI")

    @property
    def stop_s(self) -> float:
        """So long after the order to stop, what is still under way is given up."""
        return self.timeout_s + self.drain_s

    @classmethod
    def from_json(cls, text: str) -> ScoringOptions:
        """Read what `to_json` wrote; what is left out has its default.

        Raises:
            OptionsError: It is no JSON object, or has an unknown key or a wrong value.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise OptionsError(f"scoring options: not valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise OptionsError(
                f"scoring options: must be a JSON object; given: a {type(data).__name__}"
            )
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise OptionsError(
                f"scoring options: unknown {', '.join(unknown)}; known are {', '.join(known)}"
            )
        if "model_uri" not in data:
            raise OptionsError("scoring option model_uri: is missing; give a path or a URI")
        return cls(**data)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> ScoringOptions:
        """Read the JSON in ``MLFLOW_EXEC_SCORING``.

        Raises:
            OptionsError: The variable is not set, or is not what `from_json` reads.
        """
        text = (os.environ if environ is None else environ).get(ENVIRONMENT_VARIABLE)
        if not text:
            raise OptionsError(
                f'{ENVIRONMENT_VARIABLE}: is not set; set it to JSON such as {{"model_uri": "…"}}'
            )
        return cls.from_json(text)

    def to_json(self) -> str:
        """Return the options as one line of JSON; there are no secrets in it."""
        return json.dumps(asdict(self))


_LEAST = {
    "max_request_bytes": 1, "timeout_s": 0.001, "max_concurrent": 1, "batch_max_rows": 0,
    "batch_wait_ms": 0, "drain_s": 0,
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "str | None": (str, type(None)), "int": (int,), "float": (int, float),
    "bool": (bool,),
}  # fmt: skip


def _check(name: str, value: Any, annotation: str) -> None:
    allowed = _TYPES[annotation]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise OptionsError(f"scoring option {name}: must be {annotation}; given: {value!r}")
