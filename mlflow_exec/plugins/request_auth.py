"""The request-auth provider of mlflow-exec: MLFLOW_TRACKING_AUTH=mlflow-exec.

MLflow imports this with its first request, and asks it for each one.
"""

from __future__ import annotations

import os
from typing import Any

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

from mlflow_exec.auth.locks import ProcessLock

_NAME = "mlflow-exec"


class ExecRequestAuthProvider(RequestAuthProvider):  # type: ignore[misc]
    """Signs requests by the flow that is configured."""

    _lock = ProcessLock()
    _made: tuple[Any, Any] | None = None

    def get_name(self) -> str:
        """Return the name that MLFLOW_TRACKING_AUTH is compared with."""
        return _NAME

    def get_auth(self) -> Any:
        """Return what signs a request; the same as long as the configuration is.

        Raises:
            MlflowException: The configuration is wrong, or there is none.
        """
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

        from mlflow_exec.auth.reading import find_sign_ins, given_by
        from mlflow_exec.auth.request_auth import RequestAuth
        from mlflow_exec.errors import MlflowExecError

        given = given_by(os.environ)
        made = self._made
        if made is None or made[0] != given:
            with self._lock:
                made = self._made
                if made is not None and made[0] == given:
                    return made[1]
                try:
                    sign_ins = find_sign_ins()
                except MlflowExecError as error:
                    text = f"MLFLOW_TRACKING_AUTH={_NAME}: {error}"
                    raise MlflowException(text, error_code=INVALID_PARAMETER_VALUE) from error
                made = type(self)._made = (given, RequestAuth(sign_ins, mlflow.get_tracking_uri))
        return made[1]

