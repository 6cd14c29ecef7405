"""Hands an application to YARN so that it is there once, however often that is tried.

YARN itself gives the ids, so an application is found again by its tag. Two that look at the same
moment may both submit: then the application that YARN took first counts, and the others are ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.skein import SkeinDriver
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.jobs import JOB_NAME, job_name
from mlflow_exec.runtime.end import INFRA_RETRIES_VARIABLE
from mlflow_exec.schedulers.yarn.recovery import refuse_young
from mlflow_exec.schedulers.yarn.status import ENDED
from mlflow_exec.schedulers.yarn.watch import is_job, place_in_time

_log = logging.getLogger(__name__)
_PRIORITY = "priority"

Json = Mapping[str, Any]


def submitted(manager: ResourceManager, name: str, user: str) -> list[Json]:
    """Return the applications of a job, the one that counts first.

    Raises:
        ConflictError: There is one of that name that is not of this run.
        AccessDeniedError: The job is another user's.
    """
    found = repeated(lambda: _listed(manager, name))
    others = [r for r in found if is_job(r, name) and r.get("user") != user]
    if others:
        raise AccessDeniedError(
            f"YARN {manager.url}: the job {name!r} is already there, as {others[0].get('id')} of "
            f"{others[0].get('user')!r}; only that user can look after it"
        )
    foreign = [r for r in found if not is_job(r, name)]
    if foreign:
        raise ConflictError(
            f"YARN {manager.url}: an application with the tag {name!r} exists "
            f"({foreign[0].get('id')}, of {foreign[0].get('user')!r}) and is not of this run",
            status=409,
        )
    return sorted(found, key=place_in_time)


def _listed(manager: ResourceManager, name: str) -> list[Json]:
    """Return the applications with a tag.

    Raises:
        UnreachableError: There is none, and YARN may not have found it again after a restart.
    """
    found: list[Json] = [*manager.apps(tag=name)]
    if not found:
        refuse_young(manager)
    return found


def submit_once(
    manager: ResourceManager,
    driver: Callable[[], SkeinDriver],
    application: Json,
    name: str,
    user: str,
    forget: Callable[[str], None],
) -> str:
    """Submit, unless it was submitted before; return the application's id.

    Args:
        manager: The cluster's.
        driver: Returns what submits.
        application: By skein's specification.
        name: The job's.
        user: Whose it is.
        forget: Told the id of each application that was ended, as it came later than another one.

    Raises:
        ConflictError: There is one of that name, of another run or user.
        UnreachableError: YARN may have taken it, and does not say so.
        RejectedError: YARN refuses it.
    """
    earlier = submitted(manager, name, user)
    if earlier:
        return _settle(manager, name, user, str(earlier[0]["id"]), forget)
    specification = {key: value for key, value in application.items() if key != _PRIORITY}
    client = driver()
    try:
        new = client.submit(specification)
    except UnreachableError:
        found = submitted(manager, name, user)  # perhaps its answer was lost
        if not found:
            raise
        new = str(found[0]["id"])
    chosen = _settle(manager, name, user, new, forget)
    if application.get(_PRIORITY) is not None:
        _prioritise(manager, chosen, int(application[_PRIORITY]))
    return chosen


def lives(manager: ResourceManager, name: str, user: str) -> bool:
    """Whether an application of a job has not ended."""
    return any(str(r.get("state")) not in ENDED for r in submitted(manager, name, user))


def withdraw(manager: ResourceManager, name: str, user: str) -> None:
    """End the applications of a job that is not to be; none is no error.

    Raises:
        ClusterError: That cannot be asked for.
    """
    for record in submitted(manager, name, user):
        if str(record.get("state")) not in ENDED:
            manager.kill(str(record["id"]))


def _settle(
    manager: ResourceManager, name: str, user: str, known: str, forget: Callable[[str], None]
) -> str:
    """End and forget all applications of a job but the one that counts; return that one's id.

    Args are those of `submit_once`; ``known`` is one that is there.
    """
    try:
        first, *later = [str(r["id"]) for r in submitted(manager, name, user)] or [known]
    except ClusterError:
        return known  # it was accepted; whoever submits it again finds it
    for application_id in later:
        # One that has ended keeps its result.
        repeated(partial(manager.kill, application_id))
        forget(application_id)
    return first


def _prioritise(manager: ResourceManager, application_id: str, priority: int) -> None:
    """Set the priority that skein's specification does not have.

    Raises:
        ClusterError: YARN refuses it; the application is ended then.
    """
    try:
        repeated(lambda: manager.set_priority(application_id, priority))
        given = repeated(lambda: manager.app(application_id)).get("priority")
        if given != priority:
            _log.warning(
                "priority: YARN gave %s; more than yarn.cluster.max-application-priority is not "
                "to be had", given,
            )  # fmt: skip
    except ClusterError as error:
        if str(repeated(lambda: manager.app(application_id)).get("state")) in ENDED:
            return
        repeated(lambda: manager.kill(application_id))
        raise RejectedError(f"priority: {priority} was not accepted: {error}") from error


def again(earlier: str, objects: Sequence[Json], count: int) -> tuple[str, dict[str, Any]]:
    """Return the name and the application with which a job goes on; see `submit_again`.

    Raises:
        RejectedError: What was kept is no application of that job.
    """
    match = JOB_NAME.match(earlier)
    application = deepcopy(dict(objects[0])) if len(objects) == 1 else {}
    tags = [str(tag) for tag in application.get("tags") or ()]
    if match is None or f"mlflow-{match.group(1)}" not in tags:
        raise RejectedError(f"{earlier}: the manifest on its run is not that of a job of this run")
    name = job_name(match.group(1), int(match.group(2)) + 1)
    application["tags"] = [tag for tag in tags if not JOB_NAME.match(tag)] + [name]
    if JOB_NAME.match(str(application.get("name"))):
        application["name"] = name
    master = application["master"]
    master["env"] = {**(master.get("env") or {}), INFRA_RETRIES_VARIABLE: str(count)}
    return name, application
