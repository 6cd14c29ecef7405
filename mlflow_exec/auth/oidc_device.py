"""Signing in as a person: who confirms a code in a browser, on any machine.

https://www.rfc-editor.org/rfc/rfc8628
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from mlflow_exec.auth.oidc_issuer import Issuer, RefusedError
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import SignInError

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_LONGEST_S = 1800.0
_INTERVAL_S = 5.0


def device_tokens(issuer: Issuer, wanted: Mapping[str, str | None]) -> Mapping[str, Any]:
    """Tell the person on stderr what to do, and return the issuer's answer when that is done.

    Raises:
        RefusedError: Nobody confirmed in time, or who was asked has refused.
        SignInError: The issuer's answer is none.
    """
    answer = issuer.ask("device_authorization_endpoint", wanted)
    code, shown = answer.get("device_code"), answer.get("user_code")
    url = answer.get("verification_uri_complete") or answer.get("verification_uri")
    texts = (code, shown, url)
    if not all(isinstance(text, str) and text and text.isprintable() for text in texts):
        raise SignInError(f"{issuer.name}: its answer holds no code to confirm; correct 'issuer'")
    lives_s = min(_number(answer.get("expires_in"), _LONGEST_S), _LONGEST_S)
    interval_s = _number(answer.get("interval"), _INTERVAL_S)
    print(
        f"mlflow-exec: to sign in, open {url} and confirm the code {shown} "
        f"(within {lives_s / 60:.0f} min)", file=sys.stderr, flush=True,
    )  # fmt: skip
    form = {
        "grant_type": _GRANT, "device_code": Secret.of(str(code), "the issuer").reveal(),
        "resource": wanted["resource"],
    }  # fmt: skip
    until = time.monotonic() + lives_s
    while time.monotonic() < until:
        time.sleep(interval_s)
        try:
            return issuer.ask("token_endpoint", form)
        except RefusedError as error:
            if error.code == "slow_down":
                interval_s += _INTERVAL_S
            elif error.code != "authorization_pending":
                raise
    raise RefusedError(f"{issuer.name}: nobody confirmed {shown} in time; sign in again",
                       "expired_token")  # fmt: skip


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and value >= 0 else otherwise
