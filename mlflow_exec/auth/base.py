"""What a flow gives: a credential that can be put on a request, and another one when it must."""

from __future__ import annotations

import base64
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from requests import PreparedRequest

from mlflow_exec.auth.locks import ProcessLock
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import CredentialError, MlflowExecError

HEADER = "Authorization"
# A token is got anew so long before it expires: in the last fifth of its life, within limits.
# Issuers count in whole seconds.
_EARLIER_S = (2.0, 60.0)
_EARLIER_PART = 0.2
# By a clock that is wrong here each may seem to have expired already.
_AT_LEAST_S = 1.0
_AGAIN_S = 5.0
_FOREVER_S = 1e9


class Credential(ABC):
    """What is sent with a request.

    Attributes:
        source: Where it comes from, for people.
        expires_at_s: The ``time.time()`` at which it expires; None where that is not known.
    """

    source: str
    expires_at_s: float | None = None

    @abstractmethod
    def put(self, request: PreparedRequest) -> None:
        """Put it on a request.

        Raises:
            MlflowExecError: It cannot be made for this request.
        """


@dataclass(frozen=True)
class Bearer(Credential):
    """A bearer token.

    Attributes:
        secret: The token.
        source: Where it comes from, for people.
        expires_at_s: The ``time.time()`` at which it expires; None where that is not known.
        renew_at_s: The same, from which on it is better to get another one.
    """

    secret: Secret
    source: str
    expires_at_s: float | None = None
    renew_at_s: float | None = None

    @classmethod
    def of(cls, token: str, source: str, expires_at_s: float | None = None) -> Bearer:
        """Wrap a token that was got just now.

        Raises:
            CredentialError: It is none. As a header it would be refused with its value shown.
        """
        if not (token and token.isascii() and token.isprintable()) or " " in token:
            raise CredentialError(f"{source}: what it gives is no token; one word is needed")
        now_s = time.time()
        if expires_at_s is None or not expires_at_s < now_s + _FOREVER_S:
            return cls(Secret.of(token, source), source)
        least_s, most_s = _EARLIER_S
        earlier_s = min(most_s, max(least_s, (expires_at_s - now_s) * _EARLIER_PART))
        renew_at_s = max(expires_at_s - earlier_s, now_s + _AT_LEAST_S)
        return cls(Secret.of(token, source), source, expires_at_s, renew_at_s)

    def put(self, request: PreparedRequest) -> None:
        """Put it on a request."""
        request.headers[HEADER] = f"Bearer {self.secret.reveal()}"

    def is_as(self, other: Bearer) -> bool:
        """Whether it is the same token."""
        return self.secret.reveal() == other.secret.reveal()


class Flow(ABC):
    """Where credentials come from; used by many threads at once, and after a fork."""

    @abstractmethod
    def credential(self) -> Credential:
        """Return what is to be sent now.

        Raises:
            MlflowExecError: There is none; the sentence says why.
        """

    @abstractmethod
    def instead_of(self, refused: Credential) -> Credential | None:
        """Return another credential than one that was refused; None where there is no other.

        Raises:
            MlflowExecError: It could not be looked for.
        """


class KeptBearer(Flow):
    """A token that is kept until it is about to expire, and got once for all threads.

    Args:
        get: Gets a token that is not the one it is given.
    """

    def __init__(self, get: Callable[[Bearer | None], Bearer]) -> None:
        self._get = get
        self._kept: Bearer | None = None
        self._lock = ProcessLock()

    def credential(self) -> Bearer:
        """Return the kept token, or a new one where that is due.

        While one thread gets a new one, others go on with one that has not expired; so they do
        where none can be got.
        """
        kept = self._kept
        if kept is not None and not _is_over(kept.renew_at_s):
            return kept
        usable = kept is not None and not _is_over(kept.expires_at_s)
        if not self._lock.acquire(blocking=not usable):
            assert kept is not None
            return kept
        try:
            if self._kept is not kept and self._kept is not None:
                return self._kept
            self._kept = self._get(None)
            return self._kept
        except MlflowExecError:
            if not usable or kept is None:
                raise
            # Not with each request: who does not answer now takes its time to say so.
            again_s = min(time.time() + _AGAIN_S, kept.expires_at_s or 0)
            self._kept = replace(kept, renew_at_s=again_s)
            return kept
        finally:
            self._lock.release()

    def instead_of(self, refused: Credential) -> Bearer | None:
        """Return a token that another thread has got meanwhile, or a new one."""
        assert isinstance(refused, Bearer)
        with self._lock:
            if self._kept is None or self._kept.is_as(refused):
                self._kept = self._get(refused)
            return None if self._kept.is_as(refused) else self._kept


def _is_over(at_s: float | None) -> bool:
    return at_s is not None and time.time() >= at_s


def expiry_of_jwt(token: str) -> float | None:
    """Return the ``time.time()`` at which a token says that it expires; None if it does not tell.

    Its signature is not looked at: it is told to people, and decides when another one is got.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, TypeError, KeyError):
        return None
