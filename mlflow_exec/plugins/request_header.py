"""The request-header provider: tells a server which job asks. It signs nothing.

MLflow sends what it gets to every server that it asks, so nothing of it is a secret; it joins equal
headers of two providers, and fails where one is its own, so all of ours have a name of their own.
"""

from __future__ import annotations

import os
import re

from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider

from mlflow_exec.surroundings import facts

_PREFIX = "X-MLflow-Exec-"
_LIMIT_CHARS = 200
_NOT_SENDABLE = re.compile(r"[^\x21-\x7e]")


class ExecRequestHeaders(RequestHeaderProvider):  # type: ignore[misc]
    """Headers such as ``X-MLflow-Exec-K8s-Pod``, for a server's log."""

    def in_context(self) -> bool:
        """Whether there is anything to tell."""
        return bool(facts())

    def request_headers(self) -> dict[str, str]:
        """Return the headers."""
        found = facts()
        if os.environ.get("MLFLOW_RUN_ID"):
            found["run"] = os.environ["MLFLOW_RUN_ID"]
        return {_header(name): _sendable(value) for name, value in found.items()}


def _header(name: str) -> str:
    return _PREFIX + "-".join(word.capitalize() for word in re.split(r"[._]", name))


def _sendable(value: str) -> str:
    return _NOT_SENDABLE.sub("?", value)[:_LIMIT_CHARS]
