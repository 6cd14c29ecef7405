"""Google's id tokens: of a service account's key, or of the machine's own service account.

https://cloud.google.com/iap/docs/authentication-howto
"""

from __future__ import annotations

from typing import Any

import google.auth.exceptions
from google.auth.transport.requests import Request
from google.oauth2 import id_token, service_account

from mlflow_exec.auth.base import Bearer, KeptBearer, expiry_of_jwt
from mlflow_exec.auth.settings import GoogleIapSettings
from mlflow_exec.credentials import hide
from mlflow_exec.errors import CredentialError, SignInError, UnreachableError

_LIMIT_CHARS = 300
_NO_KEY = "it is no service account's key"


class GoogleIap(KeptBearer):
    """An id token for one audience, until it is about to expire or is refused."""

    def __init__(self, settings: GoogleIapSettings) -> None:
        super().__init__(self._fetch)
        self._settings = settings

    def _fetch(self, _: Bearer | None) -> Bearer:
        file = self._settings.credentials_file
        where = f"google-iap: {file}" if file else "google-iap"
        request = Request()
        try:
            found = self._credentials(request)
            found.refresh(request)
        except google.auth.exceptions.TransportError as error:
            text = f"{where}: no answer: {_told(error)}; try again later"
            raise UnreachableError(text) from error
        except google.auth.exceptions.MalformedError:  # whose text may hold a part of the key
            raise CredentialError(f"{where}: {_NO_KEY}; correct 'credentials_file'") from None
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise CredentialError(
                f"{where}: there are no credentials of a service account: {_told(error)}; set "
                f"'credentials_file'"
            ) from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise SignInError(
                f"{where}: no id token for {self._settings.audience}: {_told(error)}; correct "
                f"'audience' or the key"
            ) from error
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else _NO_KEY
            raise CredentialError(f"{where}: {why}; correct 'credentials_file'") from None
        token = str(found.token)
        source = f"google-iap: {getattr(found, 'service_account_email', '') or 'metadata server'}"
        return Bearer.of(token, source, expiry_of_jwt(token))

    def _credentials(self, request: Any) -> Any:
        audience, file = self._settings.audience, self._settings.credentials_file
        if file is None:
            return id_token.fetch_id_token_credentials(audience, request)
        return service_account.IDTokenCredentials.from_service_account_file(
            str(file), target_audience=audience
        )


def _told(error: Exception) -> str:
    return hide(" ".join(str(error.args[0] if error.args else error).split()))[:_LIMIT_CHARS]
