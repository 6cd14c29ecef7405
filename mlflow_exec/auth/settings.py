"""The settings of the flows: unknown ones are refused, secrets are never shown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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
