"""What is installed for a model: its own requirements, the user's further ones, and the runtime's.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow_exec.errors import ConfigError

_SERVER = ("uvicorn>=0.30", "httptools>=0.6", "uvloop>=0.19", "prometheus-client>=0.20")
SCORING_REQUIREMENTS = (*_SERVER, "orjson>=3.10")
"""The scoring runtime's own, where it brings its server; mlflow is the model's."""

ROUTER_REQUIREMENTS = (*_SERVER, "aiohttp>=3.10")
"""Those of the router of an endpoint, where it asks by HTTP."""

_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)")
_FILE_OPTIONS = ("-r", "-c", "-e", "--requirement", "--constraint", "--editable")


def merged_requirements(
    own: Sequence[str], model: Sequence[str], further: Sequence[str], *, has_files: bool = False
) -> list[str]:
    """Return the lines to install; those of a package replace those of the sources before.

    Args:
        own: What the scoring runtime likes to have.
        model: The lines of the model's ``requirements.txt``.
        further: The setting ``requirements``.
        has_files: Whether the files that lines name are there where it is installed.

    Raises:
        ConfigError: A line names a file, which is not there where it is installed.
    """
    found: dict[str, list[str]] = {}
    for source in (own, model, further):
        found |= _by_package(source, has_files)
    return [text for texts in found.values() for text in texts]


def _by_package(lines: Sequence[str], has_files: bool) -> dict[str, list[str]]:
    """Return the lines of each package: with markers there may be several."""
    found: dict[str, list[str]] = {}
    for line in lines:
        text = line.split(" #", 1)[0].strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith(_FILE_OPTIONS) and not has_files:
            raise ConfigError(
                f"requirements: {text!r} names a file, which is not there where it is installed; "
                f"write its lines into 'requirements'"
            )
        match = _NAME.match(text)
        key = re.sub(r"[-_.]+", "-", match.group(1)).lower() if match else text
        found.setdefault(key, []).append(text)
    return found
