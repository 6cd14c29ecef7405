"""Puts credentials on requests: to their own hosts only, and once more after a refusal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from requests import PreparedRequest, Response
from requests.auth import AuthBase
from requests.exceptions import UnrewindableBodyError
from requests.utils import rewind_body

from mlflow_exec.auth.base import Credential
from mlflow_exec.auth.hosts import Place
from mlflow_exec.auth.reading import SignIn
from mlflow_exec.errors import ConfigError

_LOG = logging.getLogger(__name__)
_UNAUTHORIZED = 401
# Where another credential did not help either, none is asked for again so soon.
_IN_VAIN_S = 30.0


class RequestAuth(AuthBase):
    """The sign-ins of a process, for requests of any thread.

    Args:
        sign_ins: Those that are configured.
        tracking_uri: Tells the tracking URI as it is at the time.
    """

    def __init__(self, sign_ins: Sequence[SignIn], tracking_uri: Callable[[], str]) -> None:
        self._sign_ins = sign_ins
        self._tracking_uri = tracking_uri
        self._told: set[str] = set()
        self._in_vain_s: dict[int, float] = {}

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Sign a request, where it goes to a host that a credential is for.

        Raises:
            MlflowExecError: It goes to the tracking server and cannot be signed.
        """
        place = Place.of(str(request.url))
        sign_in = self.sign_in_for(place)
        if sign_in is None:
            self._goes_without(place)
            return request
        if not sign_in.may_go(place):
            raise ConfigError(
                f"sign-in: {place} is asked over plain http, where everybody on the way reads the "
                f"credential; use https, or set 'allow_http' if the way is safe"
            )
        credential = sign_in.flow().credential()
        credential.put(request)
        request.hooks["response"].append(_Once(self, sign_in, credential))
        return request

    def tracking(self) -> Place | None:
        """Return where the tracking server is; None where it is no server."""
        try:
            return Place.of(self._tracking_uri())
        except ConfigError:
            return None

    def sign_in_for(self, place: Place) -> SignIn | None:
        """Return whose credential requests to a place get; None where they get none."""
        tracking = self.tracking()
        named = [item for item in self._sign_ins if item.is_for(place, tracking)]
        # host:port wins over host.
        exact = [item for item in named if str(place) in item.hosts]
        return next(iter([*exact, *named]), None)

    def _goes_without(self, place: Place) -> None:
        tracking = self.tracking()
        hosts = [host for item in self._sign_ins for host in item.hosts]
        meant = ", ".join(hosts or [str(tracking)])
        if tracking is not None and (place.host, place.port) == (tracking.host, tracking.port):
            raise ConfigError(
                f"sign-in: no credential is configured for the tracking server {place}, only for "
                f"{meant}; add it in {self._sign_ins[0].source}"
            )
        if str(place) not in self._told:
            self._told.add(str(place))
            _LOG.warning(
                "sign-in: requests to %s go without a credential, which is for %s; name the host "
                "in 'hosts' if it may have it", place, meant,
            )  # fmt: skip

    def other(self, sign_in: SignIn, refused: Credential, url: str) -> Credential | None:
        """Return another credential for a request that was refused; None where there is none."""
        place = Place.of(url)
        if self.sign_in_for(place) is not sign_in or not sign_in.may_go(place):
            return None  # a redirect has led elsewhere
        found = None
        if time.monotonic() >= self._in_vain_s.get(id(sign_in), 0.0):
            found = sign_in.flow().instead_of(refused)
        if found is None:
            expired = refused.expires_at_s is not None and refused.expires_at_s <= time.time()
            _LOG.warning(
                "sign-in: %s refuses the credential from %s (401)%s", place, refused.source,
                "; it has expired" if expired else "",
            )  # fmt: skip
        return found

    def was_in_vain(self, sign_in: SignIn) -> None:
        """Note that another credential was refused, too."""
        self._in_vain_s[id(sign_in)] = time.monotonic() + _IN_VAIN_S


class _Once:
    """Answers a 401 with the same request and another credential, once."""

    def __init__(self, auth: RequestAuth, sign_in: SignIn, used: Credential) -> None:
        self._auth = auth
        self._sign_in = sign_in
        self._used = used
        self._done = False

    def __call__(self, response: Response, **options: Any) -> Response:
        if response.status_code != _UNAUTHORIZED or self._done:
            return response
        self._done = True
        request = response.request.copy()
        if not _rewound(request):
            return response
        credential = self._auth.other(self._sign_in, self._used, str(response.request.url))
        if credential is None:
            return response
        _ = response.content  # so that the connection can be used again
        response.close()
        credential.put(request)
        again: Response = response.connection.send(request, **options)
        again.history.append(response)
        again.request = request
        if again.status_code == _UNAUTHORIZED:
            self._auth.was_in_vain(self._sign_in)
        return again


def _rewound(request: PreparedRequest) -> bool:
    """Set the body back to where it began; False where that is not possible."""
    body = request.body
    if body is None or isinstance(body, str | bytes):
        return True
    if not isinstance(request._body_position, int):
        return False
    try:
        rewind_body(request)
    except UnrewindableBodyError:
        return False
    return True
