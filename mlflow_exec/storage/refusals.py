"""What the answer of a system of objects means, whichever SDK has asked."""

from __future__ import annotations

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

_KINDS: dict[int, type[ClusterError]] = {
    401: AccessDeniedError, 403: AccessDeniedError, 404: NotFoundError, 410: NotFoundError,
    408: UnreachableError, 409: ConflictError, 412: ConflictError, 425: UnreachableError,
    429: UnreachableError,
}  # fmt: skip


def refusal(
    text: str, status: int | None, credential: Credential, *, reason: str = ""
) -> ClusterError:
    """Return the error for what a system has said.

    Args:
        text: Where, and what was said.
        status: The code of HTTP; None where no answer came.
        credential: What was asked with.
        reason: The machine-readable one.
    """
    if status is None or status >= 500:
        return UnreachableError(text, status=status, reason=reason)
    kind = _KINDS.get(status, RejectedError)
    if kind is AccessDeniedError:
        text += f"; asked with the credential from {credential.source}"
    return kind(text, status=status, reason=reason)
