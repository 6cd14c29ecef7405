"""Applications in Serve's one document, by its REST interface.

Each write reads the document, changes one entry, writes it back, and looks whether that is what
stands there; on one machine the writers take turns by a lock, and among machines who lost repeats
it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.errors import ConflictError
from mlflow_exec.releases import Revision
from mlflow_exec.targets.ray_serve.document import (
    declared,
    in_the_making,
    next_application,
    with_application,
    without_application,
)
from mlflow_exec.targets.ray_serve.status import user_config
from mlflow_exec.targets.ray_serve.turns import turn
from mlflow_exec.targets.ray_serve.writing import TRIES, Writer, start_options

_LOG = logging.getLogger(__name__)

_POLL_S = 0.5
# So long a write waits for another application's environment and code; then that begins anew.
_BUILDING_S = 300.0


class DeclarativeWriter(Writer):
    """Changes the document."""

    def write(self, revision: Revision) -> None:
        """See `Writer`."""

        def change(details: Mapping[str, Any]) -> dict[str, Any] | None:
            ours = next_application(details, revision, self.revision_limit)
            stands = declared(details).get(revision.name)
            # Not as a whole: an older Ray keeps only the keys that it knows.
            if stands and user_config(stands).get("revision") == revision.to_data():
                _tell_unknown(self.client, ours, stands)
                return None
            return with_application(details, ours, start_options(self.client))

        self._change(revision.name, change)

    def remove(self, name: str) -> None:
        """See `Writer`."""

        def change(details: Mapping[str, Any]) -> dict[str, Any] | None:
            return without_application(details, name) if name in declared(details) else None

        self._change(name, change)

    def _change(
        self, name: str, change: Callable[[Mapping[str, Any]], dict[str, Any] | None]
    ) -> None:
        """Write a changed document until what is wanted stands there, which ``change`` tells."""
        client = self.client
        for attempt in range(TRIES):
            with turn(client.address):
                details = client.applications()
                if change(details) is None:
                    return
                document = change(_settled(client, name, details))
                if document is not None:
                    client.put_applications(document)
            # Another machine may have read before this was written, and writes what it read.
            time.sleep(random.uniform(0.3, 0.6) * (attempt + 1))
        raise ConflictError(
            f"Ray {client.address}: others change Serve's applications all the time; "
            f"{TRIES} tries were overwritten; try again, or set 'api' to 'imperative'"
        )


def _settled(client: ServeClient, name: str, details: dict[str, Any]) -> dict[str, Any]:
    """Return the document, once Serve builds no other application, or it takes too long."""
    end_s = time.monotonic() + _BUILDING_S
    told: list[str] = []
    while (others := in_the_making(details, name)) and time.monotonic() < end_s:
        if others != told:
            told = others
            _LOG.info("waiting until Serve has built %s", ", ".join(others))
        time.sleep(_POLL_S)
        details = client.applications()
    return details


def _tell_unknown(client: ServeClient, sent: Mapping[str, Any], stands: Mapping[str, Any]) -> None:
    """Tell what this Ray has passed over of an application."""
    (ours,), (theirs,) = sent["deployments"], stands["deployments"]
    tell_passed_over(client, (set(sent) - set(stands)) | (set(ours) - set(theirs)))


def tell_passed_over(client: ServeClient, unknown: set[str]) -> None:
    """Warn of keys that the cluster's Ray does not know, if there are any."""
    if unknown:
        _LOG.warning(
            "Ray %s does not know %s of the application, and passes over it%s", client.address,
            ", ".join(sorted(unknown)),
            ": old replicas go before new ones come" if "max_surge_percent" in unknown else "",
        )  # fmt: skip
