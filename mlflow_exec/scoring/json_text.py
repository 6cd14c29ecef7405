"""JSON in and out with the standard library's results, by orjson where these are the same."""

from __future__ import annotations

import json
from contextlib import suppress
from types import ModuleType
from typing import Any

from mlflow.utils.proto_json_utils import NumpyEncoder

_quick_json: ModuleType = json
with suppress(ImportError):  # without it slower, and the same otherwise
    import orjson as _quick_json

loads_exactly = json.loads
"""The standard library's own, for what is handed to the model as it is."""

TOO_LARGE = 2.0**53
"""From here on a number may not be what the text says: orjson reads an integer of more than 64
bits as a float, and not every integer is a float."""


def loads(body: bytes) -> Any:
    """Parse a body; whatever the two parsers see differently is an error here.

    orjson refuses NaN, Infinity, lone surrogates, other encodings than UTF-8 and numbers beyond
    a double. It reads integers of more than 64 bits as floats: see `TOO_LARGE`.

    Raises:
        ValueError: It is not JSON, or not for both parsers.
    """
    return _quick_json.loads(body)


# `json.dump`, which MLflow calls, never uses the C encoder; `encode` writes the same text by it.
dumps = NumpyEncoder().encode
"""Write JSON as MLflow's scoring server does."""
