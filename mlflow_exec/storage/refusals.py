"""What the answer of a system of objects means, whichever SDK has asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import hide
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    MlflowExecError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.kept import Object

_NO_RANGE = 416
_KINDS: dict[int, type[ClusterError]] = {
    401: AccessDeniedError, 403: AccessDeniedError, 404: NotFoundError, 410: NotFoundError,
    408: UnreachableError, 409: ConflictError, 412: ConflictError, 425: UnreachableError,
    429: UnreachableError, 501: RejectedError, 507: RejectedError,
}  # fmt: skip


@contextmanager
def told_by(tell: Callable[[str, Exception], ClusterError], what: str) -> Iterator[None]:
    """Turn whatever an SDK raises into an error of ours, without secrets; those of ours pass.

    Args:
        tell: Returns the error for an exception of that SDK.
        what: What is asked for, for its message.
    """
    try:
        yield
    except MlflowExecError:
        raise
    except Exception as error:
        told = tell(what, error)
        told.args = (hide(str(told)),)
        if hide(str(error)) != str(error):  # a traceback would show it, such as in a signed URL
            raise told from None
        raise told from error


def kind_of(status: int | None) -> type[ClusterError]:
    """Return the kind of error for the code of an answer; None where no answer came."""
    if status is None:
        return UnreachableError
    return _KINDS.get(status, UnreachableError if status >= 500 else RejectedError)


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
    kind = kind_of(status)
    if kind is AccessDeniedError:
        text += f"; asked with the credential from {credential.source}"
    return kind(text, status=status, reason=reason)


def nothing_of(error: RejectedError, found: Object | None) -> tuple[bytes, Object]:
    """Return what was read of an empty object, of which no range can be asked for; else raise."""
    if error.status != _NO_RANGE or found is None or found.size_bytes:
        raise error
    return b"", found
