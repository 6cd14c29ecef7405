"""MLflow's request-auth provider inside a job: sends the token that is in a file now.

``token_file.py`` puts it where the entry point's Python finds it, so that nothing needs to be
installed there. The token goes to the tracking server and to no other host.
"""

from __future__ import annotations

import os
import urllib.parse
from typing import Any, Callable, Tuple

NAME = "mlflow-exec-token-file"
FILE_VARIABLE = "MLFLOW_EXEC_TOKEN_FILE"


class TokenFileProvider:
    """What MLflow calls; `mlflow.tracking.request_auth` has the class that this looks like."""

    def get_name(self) -> str:
        """Return the name that MLFLOW_TRACKING_AUTH is compared with."""
        return NAME

    def get_auth(self) -> Callable[[Any], Any]:
        """Return what signs a request."""
        return _sign


def _sign(request: Any) -> Any:
    if _place(request.url) == _place(os.environ.get("MLFLOW_TRACKING_URI", "")):
        with open(os.environ[FILE_VARIABLE], encoding="utf-8") as file:
            request.headers["Authorization"] = "Bearer " + file.read().strip()
    return request


def _place(url: str) -> Tuple[str, str, int]:
    parts = urllib.parse.urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or usual
