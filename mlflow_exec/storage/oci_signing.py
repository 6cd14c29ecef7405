"""Whose requests to Oracle Cloud are: a user by a key, or what this runs on by what it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oci
from oci.auth import signers

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import CredentialError
from mlflow_exec.uris import Location

DELEGATION_TOKEN = "DELEGATION_TOKEN_PATH"
"""The variable that names the file of a delegation token, as of the plugin before this one."""
_DELEGATION_TOKEN_FILE = "/opt/spark/delegation-secrets/delegation.jwt"
_BY_KEY = ("api_key", "security_token")


def identity(location: Location, credential: Credential) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of a client, and its further arguments.

    Raises:
        CredentialError: There is no identity, or it is not complete.
    """
    kind = (credential.get("principal") or "").lower()
    region = credential.get("region")
    others: dict[str, Any] = {}
    try:
        if kind in ("", "api_key") and credential.get("private_key"):
            config = _given(credential, region)
        elif not kind and credential.is_whole:
            raise ValueError("it has neither private_key nor principal")
        elif kind in _BY_KEY or not (kind or _delegation_token().exists()):
            config, others = _of_file()
        else:
            config, others = {}, {"signer": _signer(kind or "delegation_token")}
        if region:
            config["region"] = region
        if "signer" not in others:
            oci.config.validate_config(config)
    except CredentialError:
        raise
    except Exception as error:  # of as many kinds as there are identities
        said = " ".join(str(error).split()).partition(", please follow")[0]
        raise CredentialError(
            f"{location}: no identity at Oracle Cloud: {said or type(error).__name__}; asked for "
            f"{kind or 'api_key'!r} with the credential from {credential.source}; give "
            f"~/.oci/config, or OCIFS_IAM_TYPE, one of {', '.join([*_BY_KEY, *_SIGNERS])}"
        ) from error
    return config, others


def _given(credential: Credential, region: str | None) -> dict[str, Any]:
    found = {
        "user": credential.get("user"), "tenancy": credential.get("account"),
        "fingerprint": credential.get("key_id"), "key_content": credential.get("private_key"),
        "pass_phrase": credential.get("password"), "region": region,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _of_file() -> tuple[dict[str, Any], dict[str, Any]]:
    path = os.environ.get("OCI_CLI_CONFIG_FILE") or os.environ.get("OCI_CONFIG_FILE")
    profile = os.environ.get("OCI_CLI_PROFILE") or os.environ.get("OCI_CONFIG_PROFILE")
    config = oci.config.from_file(
        path or oci.config.DEFAULT_LOCATION, profile or oci.config.DEFAULT_PROFILE
    )
    token = config.get("security_token_file")
    if not token:
        return config, {}
    key = oci.signer.load_private_key_from_file(config["key_file"], config.get("pass_phrase"))
    text = Path(token).expanduser().read_text(encoding="utf-8").strip()
    return config, {"signer": signers.SecurityTokenSigner(text, key)}


def _signer(kind: str) -> Any:
    if kind not in _SIGNERS:
        raise ValueError("it is of no kind that is known")
    return _SIGNERS[kind]()


def _delegated() -> Any:
    token = _delegation_token().read_text(encoding="utf-8").strip()
    return signers.InstancePrincipalsDelegationTokenSigner(delegation_token=token)


def _delegation_token() -> Path:
    return Path(os.environ.get(DELEGATION_TOKEN) or _DELEGATION_TOKEN_FILE)


_SIGNERS: dict[str, Callable[[], Any]] = {
    "delegation_token": _delegated,
    "instance_obo_user": _delegated,
    "instance_principal": lambda: signers.InstancePrincipalsSecurityTokenSigner(),
    "oke_workload_identity": lambda: signers.get_oke_workload_identity_resource_principal_signer(),
    "resource_principal": lambda: signers.get_resource_principals_signer(),
}
