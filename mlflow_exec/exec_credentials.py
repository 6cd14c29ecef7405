"""Commands that print credentials: fields of a JSON object, or an ``ExecCredential`` of kubectl.

https://kubernetes.io/docs/reference/config-api/client-authentication.v1/
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from mlflow_exec.credentials import hide
from mlflow_exec.errors import CredentialError

_PATIENCE_S = 60.0
# What kubectl tells its plugins; some of them refuse to run without it.
_INFO = {
    "KUBERNETES_EXEC_INFO": json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
    )
}


def output_of(words: Sequence[str], where: str) -> str:
    """Run a command and return what it prints.

    Args:
        words: The command, not for a shell.
        where: What messages name as the place.

    Raises:
        CredentialError: It cannot be run, takes over a minute, or fails.
    """
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S,
            check=False, text=True, env={**_INFO, **os.environ},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise CredentialError(f"{where}: {type(error).__name__}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise CredentialError(f"{where}: exit code {done.returncode}: {hide(last)[:300]}")
    return done.stdout


def fields_in(text: str, where: str) -> tuple[Mapping[str, Any], float | None]:
    """Return the fields that a command has printed, and the ``time.time()`` at which they expire.

    Raises:
        CredentialError: It is no JSON object, or its time is none.
    """
    try:
        found = json.loads(text)
        status = found.get("status", found)
        expires = status.get("expirationTimestamp")
        return status, (time_s(expires) if expires else None)
    except (ValueError, AttributeError):
        raise CredentialError(f"{where}: it does not print a JSON object") from None


def time_s(text: object) -> float:
    """Return the ``time.time()`` of an ISO 8601 time; without a zone it is UTC.

    Raises:
        ValueError: It is none.
    """
    found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
