"""What an MLflow server opens for its clients: places that its operator has named, and no others.

Clients store artifact URIs, and the server opens them with its own rights. MLflow checks the hosts
of its own schemes only, and takes any place of ours as the source of a model version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from mlflow_exec.errors import LocationError
from mlflow_exec.uris import Location

# mlflow/server of 3.5 to 3.17: what `mlflow server` exports to its workers.
_ROOTS = ("_MLFLOW_SERVER_ARTIFACT_ROOT", "_MLFLOW_SERVER_ARTIFACT_DESTINATION")
ALLOWED = "MLFLOW_EXEC_ALLOWED_LOCATIONS"
"""URIs of further places, between white space."""


def is_server(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process serves MLflow's clients, or works for one that does.

    Known by what ``mlflow server`` exports; who runs MLflow's app otherwise has to export it, too.
    """
    return any(environment.get(name) for name in _ROOTS)


def check_in_server(location: Location, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse in a server what its operator has not named; allow everything elsewhere.

    Raises:
        LocationError: It holds a password, or lies outside of what is named.
    """
    if not is_server(environment):
        return
    if location.password is not None:
        raise LocationError(
            f"{str(location)!r}: a server opens no URI with a password in it; write ?cred=NAME"
        )
    who = (location.user, location.cred)
    named = list(_named(environment))
    if not any(place.contains(location) and (place.user, place.cred) == who for place in named):
        raise LocationError(
            f"{str(location)!r}: lies outside of the artifact root and destination of this server; "
            f"its operator allows further places by {ALLOWED}"
        )


def _named(environment: Mapping[str, str]) -> Iterator[Location]:
    texts = [environment.get(name, "") for name in _ROOTS]
    for text in [*filter(None, texts), *environment.get(ALLOWED, "").split()]:
        try:
            yield Location.parse(text)
        except LocationError:
            if text in texts:
                continue  # one of MLflow's own
            raise
