"""How requests to the tracking server are signed, and whether a credential is to be had."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import mlflow
from mlflow.tracking.request_auth import registry as providers

from mlflow_exec.auth.reading import PROVIDER, VARIABLE, SignIn, find_sign_ins
from mlflow_exec.auth.request_auth import RequestAuth
from mlflow_exec.credentials import hide
from mlflow_exec.errors import MlflowExecError
from mlflow_exec.reports import Finding
from mlflow_exec.settings.reading import closest

_CHOICE = "MLFLOW_TRACKING_AUTH"
_SIGV4 = "MLFLOW_TRACKING_AWS_SIGV4"


def diagnose_sign_in() -> Iterator[Finding]:
    """Yield which flow is used, from where it is configured, for which hosts, and what it gives."""
    name = os.environ.get(_CHOICE)
    if not name:
        if os.environ.get(VARIABLE):
            yield Finding(
                False, "sign-in", f"{VARIABLE} names a flow, and MLflow does not ask for it",
                f"Set {_CHOICE}={PROVIDER}.",
            )  # fmt: skip
        return
    if os.environ.get(_SIGV4, "").lower() in ("1", "true"):
        yield Finding(
            False, "sign-in", f"{_SIGV4} is set, and MLflow then does not look at {_CHOICE}",
            f"Unset one of the two; {_CHOICE} is {name!r}.",
        )  # fmt: skip
        return
    known = sorted(item.get_name() for item in providers._request_auth_provider_registry)
    if name not in known:
        yield Finding(
            False, "sign-in",
            f"{_CHOICE}: no provider is registered as {name!r}, and MLflow sends its requests "
            f"without a credential{closest(name, known)}",
            f"Known: {', '.join(known)}.",
        )  # fmt: skip
    elif name != PROVIDER:
        yield Finding(True, "sign-in", f"{name}, which is no provider of mlflow-exec")
    else:
        yield from _of_ours()


def _of_ours() -> Iterator[Finding]:
    try:
        sign_ins = find_sign_ins()
        auth = RequestAuth(sign_ins, mlflow.get_tracking_uri)
        tracking = auth.tracking()
        used = None if tracking is None else auth.sign_in_for(tracking)
    except MlflowExecError as error:
        yield Finding(False, "sign-in", hide(str(error)))
        return
    for item in sign_ins:
        hosts = ", ".join(item.hosts) or f"the tracking server ({tracking})"
        yield Finding(True, "sign-in", f"{item.entry.name} from {item.source}, for {hosts}")
    if used is not None and tracking is not None:
        yield _credential(used)
    else:
        where = tracking or "no server over HTTP"
        yield Finding(
            False, "sign-in", f"no credential is for the tracking server: it is {where}",
            "Set MLFLOW_TRACKING_URI, or name the host.",
        )  # fmt: skip


def _credential(sign_in: SignIn) -> Finding:
    try:
        found = sign_in.flow().credential()
    except MlflowExecError as error:
        return Finding(False, "credential", hide(str(error)))
    if found.expires_at_s is None:
        return Finding(True, "credential", f"from {found.source}; it does not tell when it expires")
    at = datetime.fromtimestamp(found.expires_at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    left_s = found.expires_at_s - time.time()
    if left_s <= 0:
        way = "Renew it, or compare this machine's clock with the issuer's."
        return Finding(False, "credential", f"from {found.source}; it has expired at {at}", way)
    return Finding(True, "credential", f"from {found.source}; it expires at {at}, {_in(left_s)}")


def _in(left_s: float) -> str:
    if left_s < 120:
        return f"in {left_s:.0f} s"
    return f"in {left_s / 60:.0f} min" if left_s < 7200 else f"in {left_s / 3600:.0f} h"
