"""How the Hub of Hugging Face is asked by its client, and what its answers mean."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import huggingface_hub as hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import _http, build_hf_headers, get_session, hf_raise_for_status

from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import ClusterError, RejectedError, UnreachableError
from mlflow_exec.storage.objects import Objects
from mlflow_exec.storage.ranges import taken
from mlflow_exec.storage.refusals import refusal, told_by

_TIMEOUT_S = 120.0


class HubObjects(Objects):
    """What is kept in one place of the Hub."""

    def __init__(self, credential: Credential, where: str) -> None:
        """Keep what is asked by, and what the place is called in errors."""
        self._where = where
        self._credential = credential
        is_whole = credential.is_whole
        usual = constants._HF_DEFAULT_ENDPOINT if is_whole else constants.ENDPOINT
        self._endpoint = (credential.get("endpoint") or usual).rstrip("/")
        # None has its client look where it has put one, and in variables; False does not.
        self._token = credential.get("token") or (False if is_whole else None)
        self._api = hub.HfApi(endpoint=self._endpoint, token=self._token)

    def close(self) -> None:
        """See `Objects`; other stores have the connections, too."""

    def _range(self, key: str, url: str, start: int, end: int) -> tuple[bytes, dict[str, str]]:
        """Return a range, and the headers of all answers on the way to it, in lower case."""
        headers = {
            **build_hf_headers(token=self._token),
            "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity",
        }  # fmt: skip
        # Its client shows the token to no other host that it is sent on to.
        asked = get_session().stream("GET", url, headers=headers, follow_redirects=True)
        with self._asked(key), asked as told:
            hf_raise_for_status(told)
            passed: dict[str, str] = {}
            for answer in (*told.history, told):
                passed.update(answer.headers)
            is_all = told.status_code != 206
            return taken(told.iter_raw(), start, end, is_all=is_all), passed

    def _asked(self, what: str) -> AbstractContextManager[None]:
        """Turn what the client says into errors of ours."""
        return told_by(self._told, what)

    def _told(self, what: str, error: BaseException) -> ClusterError:
        where = f"{self._where}: {what}" if what else self._where
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__  # of which file it is, it says
        if isinstance(error, errors.HfHubHTTPError):
            status, headers = error.response.status_code, error.response.headers
            said = error.server_message or str(error).partition("\n")[0]
            text = f"{where}: {status}: {' '.join(said.split())} (request {error.request_id})"
            reason = headers.get("X-Error-Code", "")
            if status in (409, 412):  # somebody else has committed meanwhile
                return UnreachableError(text, status=status, reason=reason)
            return refusal(text, status, self._credential, reason=reason)
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, (errors.HTTPError, OSError)):
            refused = tls_refusal(
                where, cast(Exception, error),
                way_to_trust="set SSL_CERT_FILE to a file with its authority",
                way_to_plain="HF_ENDPOINT says whether it speaks TLS: http:// or https://",
            )  # fmt: skip
            return refused or UnreachableError(f"{where}: no answer: {said}")
        return RejectedError(f"{where}: {said}")


def _client() -> Any:
    made = _http.default_client_factory()
    made.timeout = _TIMEOUT_S
    return made


# Its own waits for ever for a server that has gone; one that somebody has set stays.
if _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory:
    hub.set_client_factory(_client)
