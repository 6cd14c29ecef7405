"""Requests signed as those to Oracle's cloud, for a server behind its API gateway.

https://docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm
"""

from __future__ import annotations

import configparser
import time
from pathlib import Path
from typing import Any

import oci
import oci.auth.signers
from requests import PreparedRequest

from mlflow_exec.auth.base import Credential, Flow, expiry_of_jwt
from mlflow_exec.auth.files import text_of
from mlflow_exec.auth.locks import ProcessLock
from mlflow_exec.auth.settings import OciSettings
from mlflow_exec.credentials import hide
from mlflow_exec.errors import CredentialError, MlflowExecError, SignInError

# Of an earlier signature; a second one is of its own time and body.
_SIGNED = ("date", "x-content-sha256", "authorization")
_KEPT_S = 300.0
_LIMIT_CHARS = 300


class Signature(Credential):
    """What signs each request by itself."""

    def __init__(self, signer: Any, source: str, expires_at_s: float | None) -> None:
        self._signer = signer
        self.source = source
        self.expires_at_s = expires_at_s
        self.made_at_s = time.monotonic()

    def put(self, request: PreparedRequest) -> None:
        """Sign a request with its body."""
        for name in _SIGNED:
            request.headers.pop(name, None)
        try:
            self._signer(request)
        except Exception as error:  # each kind of signer has errors of its own
            raise SignInError(f"oci: the request cannot be signed: {_told(error)}") from error


class OciSigner(Flow):
    """The signer of a principal; made anew every few minutes, for its files may have changed."""

    def __init__(self, settings: OciSettings) -> None:
        self._settings = settings
        self._made: Signature | None = None
        self._lock = ProcessLock()

    def credential(self) -> Signature:
        """Return the signer."""
        with self._lock:
            made = self._made
            if made is None or time.monotonic() > made.made_at_s + _KEPT_S:
                made = self._made = self._make()
            return made

    def instead_of(self, refused: Credential) -> Signature:
        """Return one of what is in the files now; a signature is good only for its time, too."""
        with self._lock:
            if self._made is None or self._made is refused:
                self._made = self._make()
            return self._made

    def _make(self) -> Signature:
        kind = self._settings.principal
        try:
            if kind in ("user", "session"):
                return self._of_file()
            signers = oci.auth.signers
            make = {
                "instance": signers.InstancePrincipalsSecurityTokenSigner,
                "resource": signers.get_resource_principals_signer,
                "workload": signers.get_oke_workload_identity_resource_principal_signer,
            }[kind]
            return Signature(make(), f"oci: {kind} principal", None)
        except MlflowExecError:
            raise
        except (oci.exceptions.ClientError, configparser.Error) as error:
            raise CredentialError(f"oci: {_told(error)}; correct 'config_file'") from error
        except Exception as error:  # each kind of signer has errors of its own
            raise SignInError(f"oci: no {kind} principal: {_told(error)}") from error

    def _of_file(self) -> Signature:
        given = self._settings
        file = str(given.config_file or Path.home() / ".oci" / "config")
        source = f"oci: profile {given.profile} of {file}"
        config = oci.config.from_file(file, given.profile)
        if given.principal == "user":
            return Signature(oci.Signer.from_config(config), source, None)
        if not config.get("security_token_file"):
            raise CredentialError(f"{source}: it has no security_token_file; run oci session "
                                  f"authenticate")  # fmt: skip
        token = text_of(Path(config["security_token_file"]).expanduser(), "security_token_file")
        key = oci.signer.load_private_key_from_file(config["key_file"], config.get("pass_phrase"))
        signer = oci.auth.signers.SecurityTokenSigner(token, key)
        return Signature(signer, source, expiry_of_jwt(token))


def _told(error: Exception) -> str:
    return hide(" ".join(str(error).split()))[:_LIMIT_CHARS] or type(error).__name__
