"""Tokens of an OpenID Connect issuer: as a client, as a person, or in exchange for another."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mlflow_exec.auth.base import Bearer, KeptBearer, expiry_of_jwt
from mlflow_exec.auth.files import text_of
from mlflow_exec.auth.oidc_device import device_tokens
from mlflow_exec.auth.oidc_issuer import Issuer, RefusedError
from mlflow_exec.auth.settings import OidcSettings
from mlflow_exec.auth.token_store import Stored, TokenStore
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import MlflowExecError, SignInError

_OF_PERSONS = ("device_code", "refresh_token")
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_DEVICE_SCOPE = "openid offline_access"


class Oidc(KeptBearer):
    """The token of an issuer, until it is about to expire or is refused."""

    def __init__(self, settings: OidcSettings) -> None:
        super().__init__(self._new)
        self._settings = settings
        self._issuer = Issuer(settings)
        scope = settings.scope
        if settings.grant == "device_code" and scope is None:
            scope = _DEVICE_SCOPE
        self._wanted: dict[str, str | None] = {
            "scope": scope, "audience": settings.audience, "resource": settings.resource,
        }  # fmt: skip
        self._store = TokenStore(self._mark()) if settings.grant in _OF_PERSONS else None

    def _new(self, refused: Bearer | None) -> Bearer:
        given = self._settings
        if self._store is not None:
            with self._store.locked():
                return self._of_person(self._store, refused)
        form = {"grant_type": "client_credentials", **self._wanted}
        if given.grant == "token_exchange" and given.subject_token_file is not None:
            subject = text_of(given.subject_token_file, "subject_token_file")
            form |= {
                "grant_type": _EXCHANGE,
                "subject_token": Secret.of(subject, "subject_token_file").reveal(),
                "subject_token_type": given.subject_token_type,
            }
        return self._bearer(self._issuer.ask("token_endpoint", form))

    def _of_person(self, store: TokenStore, refused: Bearer | None) -> Bearer:
        """Take what another process has got meanwhile, else refresh, else ask the person."""
        stored = store.read()
        if stored.token and (stored.expires_at_s or 0) > time.time() + 1:
            found = Bearer.of(stored.token, self._issuer.name, stored.expires_at_s)
            if not any(known is not None and found.is_as(known) for known in (self._kept, refused)):
                return found
        last: RefusedError | None = None
        for refresh_token in self._refresh_tokens(stored):
            try:
                return self._refreshed(store, refresh_token)
            except RefusedError as error:
                if error.code != "invalid_grant":
                    raise
                last = error
                store.write(Stored())
        if last is not None and self._settings.grant != "device_code":
            raise last
        return self._keep(store, device_tokens(self._issuer, self._wanted), "")

    def _refresh_tokens(self, stored: Stored) -> list[str]:
        last = Secret.of(stored.refresh_token, "the last answer").reveal()
        first = self._settings.refresh_token
        return [token for token in (last, first.reveal() if first else "") if token]

    def _refreshed(self, store: TokenStore, refresh_token: str) -> Bearer:
        resource = self._wanted["resource"]
        form = {
            "grant_type": "refresh_token", "refresh_token": refresh_token, "resource": resource,
        }  # fmt: skip
        return self._keep(store, self._issuer.ask("token_endpoint", form), refresh_token)

    def _keep(self, store: TokenStore, answer: Mapping[str, Any], refresh_token: str) -> Bearer:
        # An issuer that does not rotate them gives no other.
        following = answer.get("refresh_token")
        kept = following if isinstance(following, str) and following else refresh_token
        kept = Secret.of(kept, "the issuer").reveal()
        try:
            found = self._bearer(answer)
        except MlflowExecError:
            store.write(Stored(kept))  # the one before may be good no more
            raise
        store.write(Stored(kept, found.secret.reveal(), found.expires_at_s))
        return found

    def _bearer(self, answer: Mapping[str, Any]) -> Bearer:
        name = self._settings.send
        token, kind = answer.get(name), str(answer.get("token_type", "Bearer"))
        if not isinstance(token, str) or not token.isprintable() or not token:
            way = "ask for the scope 'openid'" if name == "id_token" else "correct 'issuer'"
            raise SignInError(f"{self._issuer.name}: its answer holds no {name}; {way}")
        if name == "access_token" and kind.lower() not in ("bearer", "n_a"):
            raise SignInError(f"{self._issuer.name}: it gives tokens of the type {kind[:40]!r}; "
                              f"have the client registered for bearer tokens")  # fmt: skip
        expires_at_s = expiry_of_jwt(token)
        if name == "access_token" and "expires_in" in answer:
            with suppress(TypeError, ValueError):
                # By this machine's clock, whatever the issuer's says.
                expires_at_s = time.time() + float(answer["expires_in"])
        return Bearer.of(token, self._issuer.name, expires_at_s)

    def _mark(self) -> str:
        """Return what tells the tokens of this sign-in from those of others."""
        given = self._settings
        first = given.refresh_token.reveal() if given.refresh_token else ""
        parts = [given.issuer, given.client_id, given.grant, given.send, first, self._wanted]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
