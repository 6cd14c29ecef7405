"""Serve's one document of all applications: how ours are put into it without touching others. Pure.

A PUT deletes every declarative application that it does not name, and resets what it leaves out
(``python/ray/serve/_private/controller.py`` of 2.60, ``apply_config``). So each write carries what
was read: every other application exactly as it was submitted, and the options beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_exec.errors import ClusterError, ConflictError

Json = Mapping[str, Any]

# What a running instance does not change, but a PUT without it would reset or warn of.
_CARRIED = ("proxy_location", "http_options", "grpc_options", "target_capacity")


def is_running(details: Json) -> bool:
    """Whether there is an instance of Serve: without one the document has its defaults in it."""
    return bool((details.get("controller_info") or {}).get("node_id"))


def declared(details: Json) -> dict[str, Json]:
    """Return the applications that the document holds, as they were submitted, by name."""
    found: dict[str, Json] = {}
    for name, application in (details.get("applications") or {}).items():
        config = application.get("deployed_app_config")
        stays = application.get("status") != "DELETING"
        if config and stays and application.get("source", "declarative") == "declarative":
            found[name] = config
    return found


def in_the_making(details: Json, but: str) -> list[str]:
    """Return the applications that Serve is building, but one: a write would begin that anew.

    (``apply_app_config`` in ``python/ray/serve/_private/application_state.py`` of 2.60.)
    """
    return [
        name
        for name, application in (details.get("applications") or {}).items()
        if name != but
        and application.get("status") == "DEPLOYING"
        and not application.get("deployments")
    ]


def with_application(details: Json, application: Json, start: Json) -> dict[str, Any]:
    """Return the document with one application added or exchanged.

    Args:
        details: What is there, as Serve tells it.
        application: Ours.
        start: The options of an instance that is started by this; nothing else needs them.

    Raises:
        ConflictError: Another application has the name or the route.
        ClusterError: The document cannot be written back as it was.
    """
    name, route = application["name"], application.get("route_prefix")
    others = dict(details.get("applications") or {})
    here = others.pop(name, None)
    if here is not None and here.get("source", "declarative") != "declarative":
        raise ConflictError(f"name: Serve has an application {name!r} that was deployed by Python")
    for other, found in others.items():
        if found.get("route_prefix") == route and found.get("status") != "DELETING":
            raise ConflictError(
                f"route_prefix: application {other!r} of this Serve has {route!r}; choose another"
            )
    applications = {**declared(details), name: application}
    return _document(details, applications, start)


def without_application(details: Json, name: str) -> dict[str, Any]:
    """Return the document without one application.

    Raises:
        ClusterError: The document cannot be written back as it was.
    """
    applications = {key: value for key, value in declared(details).items() if key != name}
    return _document(details, applications, {})


def _document(details: Json, applications: Mapping[str, Json], start: Json) -> dict[str, Any]:
    if "<redacted>" in json.dumps(applications):
        raise ClusterError(
            "Serve hides the variables of its applications from this client, and writing them back "
            "hidden would destroy them; nothing was changed"
        )
    options: Json = start
    if is_running(details):
        options = {key: details[key] for key in _CARRIED if details.get(key) is not None}
    return {**options, "applications": list(applications.values())}
