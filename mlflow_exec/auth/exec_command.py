"""A token that a command prints: an ``ExecCredential`` of kubectl, a JSON object, or just it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow_exec.auth.base import Bearer, KeptBearer, expiry_of_jwt
from mlflow_exec.auth.settings import ExecSettings
from mlflow_exec.errors import CredentialError
from mlflow_exec.exec_credentials import fields_in, output_of

_NAMES = ("token", "access_token", "accessToken", "id_token")


class ExecCommand(KeptBearer):
    """The token that a command prints, until it expires or is refused."""

    def __init__(self, settings: ExecSettings) -> None:
        self._words = settings.command
        super().__init__(self._run)

    def _run(self, _: Bearer | None) -> Bearer:
        source = f"exec: {self._words[0]}"
        printed = output_of(self._words, source)
        if len(printed.split()) == 1 and not printed.lstrip().startswith(("{", "[", '"')):
            token = printed.strip()
            return Bearer.of(token, source, expiry_of_jwt(token))
        fields, expires_at_s = fields_in(printed, source)
        for name in _NAMES:
            found = fields.get(name)
            if isinstance(found, str) and found.strip():
                expires_at_s = expires_at_s or _lives_until_s(fields) or expiry_of_jwt(found)
                return Bearer.of(found.strip(), source, expires_at_s)
        raise CredentialError(f"{source}: it prints no token; looked for {', '.join(_NAMES)}")


def _lives_until_s(fields: Mapping[str, Any]) -> float | None:
    lives_s = fields.get("expires_in")
    return time.time() + float(lives_s) if isinstance(lives_s, int | float) else None
