"""The values of the job's secrets: read where the job runs, since an order only refers to them."""

from __future__ import annotations

import os
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from .job_order import SecretSource, SetupError
from .masking import passwords_in

# A user's name is no secret by itself, and often a word that is everywhere in a log.
_TRACKING = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_NOT_MASKED = ("MLFLOW_TRACKING_USERNAME",)
_FILE_LIMIT_BYTES = 1024 * 1024


def resolve(
    sources: Mapping[str, SecretSource], environ: Mapping[str, str]
) -> Tuple[Dict[str, str], Optional[SetupError]]:
    """Return the values that can be had, by variable, and what ends the job if one cannot.

    Args:
        sources: Where each is.
        environ: The environment of the first step.
    """
    values: Dict[str, str] = {}
    trouble: Optional[SetupError] = None
    for name, source in sources.items():
        try:
            values[name] = _value(name, source, environ)
        except SetupError as error:
            trouble = trouble or error
    return values, trouble


def to_mask(secret_names: Iterable[str], environ: Mapping[str, str]) -> List[str]:
    """Return every value that must not be in the output.

    Args:
        secret_names: The variables that are secrets.
        environ: With the values that were resolved.
    """
    names = {*secret_names, *_TRACKING} - set(_NOT_MASKED)
    values = [environ[name] for name in sorted(names) if environ.get(name)]
    # Such as an index of packages with a user and a password.
    return values + [word for text in environ.values() for word in _of_url(text)]


def _of_url(text: str) -> List[str]:
    return passwords_in(text) if "://" in text and "@" in text else []


def _value(name: str, source: SecretSource, environ: Mapping[str, str]) -> str:
    if source.env is not None:
        if source.env not in environ:
            raise _missing(
                f"secrets.{name}: where the job runs, the environment has no variable "
                f"{source.env!r}.",
                "Set it in the environment in which the cluster's nodes are started.",
            )
        return environ[source.env]
    path = os.path.expanduser(source.file or "")
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise _missing(
            f"secrets.{name}: where the job runs, the file {path!r} cannot be read: "
            f"{error.strerror}.",
            "Mount or write it on every node that runs jobs, readable for their user.",
        ) from None
    if len(data) > _FILE_LIMIT_BYTES or b"\0" in data:
        raise _missing(f"secrets.{name}: the file {path!r} holds no value of a variable.")
    return os.fsdecode(data).rstrip("\r\n")


def _missing(message: str, hint: str = "") -> SetupError:
    return SetupError("invalid_config", message, hint)
