"""Tokens of Microsoft Entra, by azure-identity.

https://learn.microsoft.com/en-us/python/api/overview/azure/identity-readme
"""

from __future__ import annotations

import logging
from typing import Any

import azure.identity
from azure.core.exceptions import AzureError, ServiceRequestError

from mlflow_exec.auth.base import Bearer, KeptBearer
from mlflow_exec.auth.settings import AzureSettings
from mlflow_exec.credentials import hide
from mlflow_exec.errors import ConfigError, SignInError, UnreachableError

_LIMIT_CHARS = 300


class Azure(KeptBearer):
    """A token for one scope, until it is about to expire or is refused."""

    def __init__(self, settings: AzureSettings) -> None:
        super().__init__(self._fetch)
        self._settings = settings
        self._chain: Any = None
        # It warns of each link of the chain that there is nothing for; the error says it all.
        logging.getLogger("azure.identity").setLevel(logging.ERROR)

    def _fetch(self, refused: Bearer | None) -> Bearer:
        try:
            if self._chain is None or refused is not None:  # which keeps what was refused
                self._chain = self._made()
            found = self._chain.get_token(self._settings.scope)
        except AzureError as error:
            causes = (error, error.__cause__, error.__context__)
            if any(isinstance(cause, ServiceRequestError) for cause in causes):
                text = f"azure: no answer: {_told(error)}; try again later"
                raise UnreachableError(text) from error
            raise SignInError(
                f"azure: no token for {self._settings.scope}: {_told(error)}; sign in by az login, "
                f"or correct the settings"
            ) from error
        except ValueError as error:
            raise ConfigError(f"azure: {_told(error)}") from error
        source = "azure: client secret" if self._settings.client_secret else "azure: its own chain"
        return Bearer.of(found.token, source, float(found.expires_on))

    def _made(self) -> Any:
        given = self._settings
        authority: dict[str, Any] = {}
        if given.authority:  # which is trusted because it is named here
            authority = {"authority": given.authority, "disable_instance_discovery": True}
        if given.client_secret is not None:
            return azure.identity.ClientSecretCredential(
                given.tenant_id, given.client_id, given.client_secret.reveal(), **authority
            )
        own = {"managed_identity_client_id": given.client_id} if given.client_id else {}
        return azure.identity.DefaultAzureCredential(**own, **authority)


def _told(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error)
    return hide(" ".join(text.split()))[:_LIMIT_CHARS]
