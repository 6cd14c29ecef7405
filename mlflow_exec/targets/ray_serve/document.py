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
from mlflow_exec.releases import Revision
from mlflow_exec.targets.ray_serve.status import (
    api_of,
    is_ours,
    revisions_in,
    submitted,
    user_config,
)

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
        if config and stays and api_of(application) == "declarative":
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


def refuse_taken(details: Json, application: Json) -> None:
    """Refuse an application whose place is taken.

    Raises:
        ConflictError: Another application has the name or the route.
    """
    name, route = application["name"], application.get("route_prefix")
    for other, found in (details.get("applications") or {}).items():
        if found.get("status") == "DELETING":
            continue
        if other == name and not is_ours(found):
            raise ConflictError(
                f"name: Serve has an application {name!r} that is not of mlflow-exec; choose "
                f"another name"
            )
        if other != name and found.get("route_prefix") == route:
            raise ConflictError(
                f"route_prefix: application {other!r} of this Serve has {route!r}; choose another"
            )


def next_application(details: Json, revision: Revision, limit: int) -> dict[str, Any]:
    """Return the application to send: the planned one, with the revisions so far.

    Args:
        details: What Serve tells of all applications.
        revision: The one to send.
        limit: So many revisions are kept.

    Raises:
        ConflictError: The name is somebody else's, or somebody has applied a revision meanwhile.
    """
    here = (details.get("applications") or {}).get(revision.name) or {}
    refuse_taken(details, revision.objects[0])
    before = submitted(here) if here.get("status") != "DELETING" else {}
    history = list(user_config(before).get("history") or ())
    kept = revisions_in(before)
    newest = kept[-1] if kept else None
    if newest is not None and newest.number < revision.number:
        history.append(newest.to_data())
    elif newest is not None and newest.to_data() != revision.to_data():
        raise ConflictError(
            f"{revision.name}: somebody else has applied revision {newest.number} meanwhile; "
            f"look at it by 'mlflow deployments get', then apply yours again"
        )
    application: dict[str, Any] = dict(revision.objects[0])
    others = max(limit - 1, 1)  # one at least to go back to
    config = {"revision": revision.to_data(), "history": history[-others:]}
    application["deployments"] = [{**application["deployments"][0], "user_config": config}]
    return application


def with_application(details: Json, application: Json, start: Json) -> dict[str, Any]:
    """Return the document with one application added or exchanged.

    Args:
        details: What is there, as Serve tells it.
        application: Ours.
        start: The options of an instance that is started by this; nothing else needs them.

    Raises:
        ClusterError: The document cannot be written back as it was.
    """
    return _document(details, {**declared(details), application["name"]: application}, start)


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
