"""The settings of the flows: unknown ones are refused, secrets are never shown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from mlflow_exec.credential_sources import secret_of_file, secret_of_variable
from mlflow_exec.credentials import Secret
from mlflow_exec.settings.fields import Settings


def _words(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _command(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


def _path(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str) and value else value


def _secret(value: Any) -> Any:
    if isinstance(value, str) and value:
        return Secret.of(value, "the setting")
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind == "file":
            return secret_of_file(Path(str(name)).expanduser())
        if kind == "env" and os.environ.get(str(name)):
            return secret_of_variable(str(name), os.environ)
        if kind == "env":
            raise ValueError(f"the environment variable {name} is not set")
    raise ValueError("a text, {env: NAME} or {file: PATH} is needed")


Words = Annotated[list[str], BeforeValidator(_words)]
Command = Annotated[list[str], BeforeValidator(_command), Field(min_length=1)]
FilePath = Annotated[Path, BeforeValidator(_path)]
SecretText = Annotated[Secret, BeforeValidator(_secret)]


class SignInSettings(Settings):
    """What every flow can be told."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True
    )

    hosts: Words = Field(
        default_factory=list,
        description="Hosts that get the credential, `host` or `host:port`; the tracking server's "
        "if none is named.",
    )
    allow_http: bool = Field(
        False, description="Whether it may go over plain http to other machines than this one."
    )

    @classmethod
    def secrets(cls) -> list[str]:
        """Return the names of the settings that hold secrets."""
        return [name for name, field in cls.model_fields.items() if Secret in _parts(field)]


def _parts(field: Any) -> list[Any]:
    found, left = [], [field.annotation]
    while left:
        part = left.pop()
        found.append(part)
        left += getattr(part, "__args__", ())
    return found


class TokenFileSettings(SignInSettings):
    """A bearer token in a file that something else keeps fresh."""

    token_file: FilePath = Field(description="The file; read again for each request.")


class BasicFileSettings(SignInSettings):
    """A user and a password in files, such as those of a mounted Secret."""

    username: str | None = Field(None, description="The user.")
    username_file: FilePath | None = Field(None, description="A file with the user instead.")
    password_file: FilePath = Field(description="The file; read again for each request.")

    @model_validator(mode="after")
    def _one_user(self) -> BasicFileSettings:
        if (self.username is None) == (self.username_file is None):
            raise ValueError("exactly one of 'username' and 'username_file' is needed")
        return self


class ExecSettings(SignInSettings):
    """A bearer token that a command prints."""

    command: Command = Field(
        description="The command, as a list of words, or a text that is split as a shell's; none "
        "of its `$` and `*` means anything."
    )


class OidcSettings(SignInSettings):
    """A token of an OpenID Connect issuer."""

    issuer: str = Field(
        description="The issuer's URL, as it calls itself; the rest is read from its "
        "`/.well-known/openid-configuration`."
    )
    client_id: str = Field(description="The client, as it is registered there.")
    client_secret: SecretText | None = Field(None, description="The client's secret.")
    assertion_file: FilePath | None = Field(
        None, description="A file with a JWT that stands for the client in place of a secret, such "
        "as a projected token of Kubernetes; read again each time.",
    )
    grant: Literal[
        "client_credentials", "device_code", "refresh_token", "token_exchange"
    ] = Field(
        "client_credentials",
        description="As the client itself; as a person, who confirms once in a browser; by a "
        "refresh token that is there; by a token of somebody else (RFC 8693).",
    )
    scope: str | None = Field(
        None, description="Scopes between blanks; with `device_code` `openid offline_access` if "
        "null.",
    )
    audience: str | None = Field(None, description="For whom the token is, as some issuers want.")
    resource: str | None = Field(None, description="The same by a URI (RFC 8707).")
    refresh_token: SecretText | None = Field(
        None, description="With `refresh_token`: the first one; those that follow are kept in "
        "`~/.mlflow-exec/tokens`.",
    )
    subject_token_file: FilePath | None = Field(
        None, description="With `token_exchange`: a file with the token that is exchanged; read "
        "again each time.",
    )
    subject_token_type: str = Field(
        "urn:ietf:params:oauth:token-type:jwt", description="With `token_exchange`: its type."
    )
    send: Literal["access_token", "id_token"] = Field(
        "access_token", description="Which of the tokens is sent to MLflow's server."
    )
    ca_cert: FilePath | None = Field(
        None, description="A PEM file with the authority of the issuer's certificate."
    )
    patience_s: float = Field(
        20, ge=0, description="How long an issuer that does not answer is asked again."
    )

    @model_validator(mode="after")
    def _check(self) -> OidcSettings:
        by_itself = self.client_secret is not None or self.assertion_file is not None
        if self.client_secret is not None and self.assertion_file is not None:
            raise ValueError("'client_secret' or 'assertion_file', not both")
        if self.grant == "client_credentials" and not by_itself:
            raise ValueError("client_credentials: 'client_secret' or 'assertion_file' is needed")
        if self.grant == "client_credentials" and self.send == "id_token":
            raise ValueError("client_credentials: there is nobody an id_token would be of")
        for grant, name in (
            ("refresh_token", "refresh_token"), ("token_exchange", "subject_token_file"),
        ):  # fmt: skip
            if (getattr(self, name) is not None) != (self.grant == grant):
                raise ValueError(f"{name!r} belongs to the grant {grant!r}, which needs it")
        return self


class GoogleIapSettings(SignInSettings):
    """A Google id token, for the Identity-Aware Proxy or Cloud Run."""

    audience: str = Field(
        description="Of IAP the OAuth client's id, `….apps.googleusercontent.com`; of Cloud Run "
        "the service's URL."
    )
    credentials_file: FilePath | None = Field(
        None, description="A service account's key; if null that of "
        "`GOOGLE_APPLICATION_CREDENTIALS`, else the metadata server's service account.",
    )


class AzureSettings(SignInSettings):
    """A token of Microsoft Entra, by the chain of azure-identity."""

    scope: str = Field(description="`api://<application>/.default`.")
    tenant_id: str | None = Field(None, description="With `client_secret`.")
    client_id: str | None = Field(
        None, description="With `client_secret`, or of the managed or workload identity."
    )
    client_secret: SecretText | None = Field(
        None, description="The application's secret; if null azure-identity's own chain: "
        "variables, workload identity, managed identity, the Azure CLI.",
    )
    authority: str | None = Field(
        None, description="The host of another cloud's Entra; that of the public one if null."
    )

    @model_validator(mode="after")
    def _check(self) -> AzureSettings:
        if self.client_secret is not None and not (self.tenant_id and self.client_id):
            raise ValueError("'client_secret' needs 'tenant_id' and 'client_id'")
        return self


class OciSettings(SignInSettings):
    """Requests that are signed as those to Oracle's cloud."""

    principal: Literal["user", "session", "instance", "resource", "workload"] = Field(
        "user",
        description="A user's API key, or the session of `oci session authenticate`, of the "
        "configuration file; the machine, the function or job, the pod in OKE.",
    )
    config_file: FilePath | None = Field(None, description="`~/.oci/config` if null.")
    profile: str = Field("DEFAULT", description="The part of it.")


class KerberosSettings(SignInSettings):
    """A Kerberos ticket (SPNEGO): of the ticket cache, or of a keytab."""

    principal: str | None = Field(None, description="Who signs in; that of the cache if null.")
    keytab: FilePath | None = Field(
        None, description="A file with the key of `principal`; tickets of it stay in memory."
    )
    service: str | None = Field(
        None, description="The server's name in Kerberos, `HTTP@host`, where the host is not that "
        "of the URL.",
    )

    @model_validator(mode="after")
    def _check(self) -> KerberosSettings:
        if self.keytab is not None and self.principal is None:
            raise ValueError("'keytab' needs 'principal'")
        if self.service is not None and "@" not in self.service:
            raise ValueError(f"service: HTTP@host is needed; given {self.service!r}")
        return self
