"""What is deployed beside what could be: rendering, differences, aliases that move."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient

from mlflow_exec.errors import ConfigError
from mlflow_exec.releases import Revision
from mlflow_exec.runs import models
from mlflow_exec.runs.deploy import (
    CONNECTION,
    deployment,
    find,
    of_model,
    place,
    planned,
    same_model,
    update,
    with_earlier,
)
from mlflow_exec.runs.gating import Gate
from mlflow_exec.runs.progress import Progress
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.templates import to_yaml


@contextmanager
def rendered(
    target_uri: str, name: str, model_uri: str | None, options: Mapping[str, Any]
) -> Iterator[ReleasePlan]:
    """Give what `create` or, where there is one, `update` would send."""
    place_ = place(target_uri, options)
    found = find(place_.target, name)
    newest = of_model(found).revision if found else None
    if newest is not None:
        place_ = with_earlier(target_uri, place_, newest.settings)
    number = newest.number + 1 if newest else 1
    model = model_uri or (same_model(newest) if newest else None)
    if model is None:
        raise ConfigError(f"model_uri: it is needed: there is no deployment {name!r} yet")
    with planned(place_, name, model, number) as plan:
        yield plan


def difference(
    target_uri: str,
    name: str,
    from_: int | None,
    to: int | None,
    model_uri: str | None,
    options: Mapping[str, Any],
) -> list[str]:
    """Return the lines of a unified difference between two revisions.

    Args:
        target_uri: The target.
        name: The deployment.
        from_: A revision; None for the one before ``to``, or for the newest where something is
            rendered.
        to: A revision; None for the newest, or for what ``model_uri`` and ``options`` would make.
        model_uri: The model to render; None for the newest revision's.
        options: The settings to render with.

    Raises:
        ConfigError: A revision is not kept, or both forms are asked for.
    """
    reach = {key: value for key, value in options.items() if key in CONNECTION}
    kept = place(target_uri, reach).target.revisions(name)
    if model_uri or len(options) > len(reach):
        if to is not None:
            raise ConfigError("diff: '--to' names a revision; leave it out with '-m' or '-C'")
        before = _of_number(kept, from_ or kept[-1].number)
        with rendered(target_uri, name, model_uri, options) as plan:
            after = plan.revision
    else:
        after = _of_number(kept, to or kept[-1].number)
        earlier = [r for r in kept if r.number < after.number]
        if from_ is None and not earlier:
            raise ConfigError(f"diff: {name}: revision {after.number} is the first that is kept")
        before = _of_number(kept, from_ or earlier[-1].number)
    old, new = (to_yaml(revision.objects).splitlines() for revision in (before, after))
    old_name, new_name = (f"{name} revision {revision.number}" for revision in (before, after))
    return list(difflib.unified_diff(old, new, old_name, new_name, lineterm=""))


def _of_number(kept: Sequence[Revision], number: int) -> Revision:
    for revision in kept:
        if revision.number == number:
            return revision
    numbers = ", ".join(str(r.number) for r in kept)
    raise ConfigError(f"revision {number} is not kept; kept: {numbers}")


def follow(
    target_uri: str, name: str, options: Mapping[str, Any], progress: Progress, gate: Gate
) -> str | None:
    """Apply a deployment's model again if its alias means another version than then.

    Args:
        target_uri: The target.
        name: The deployment.
        options: How the target is reached, and its gate.
        progress: Told of how it goes.
        gate: Judges the new version, where the options name a suite.

    Returns:
        The version that was applied; None where nothing was to be done.

    Raises:
        RolloutError: It did not become ready; it is not tried again by the next call.
        GateError: It fails the suite; the one before serves on.
        ConfigError: The deployment's model names no alias.
    """
    place_ = place(target_uri, options)
    deployment(place_.target, name)
    kept = place_.target.revisions(name)
    newest = kept[-1]
    if "@" not in newest.model_uri:
        raise ConfigError(
            f"follow: {name} serves {newest.model_uri!r}, which never means another version; "
            f"deploy an alias, such as models:/name@champion"
        )
    wanted = models.pinned(newest.model_uri, MlflowClient()).pinned_uri
    if wanted == newest.pinned_uri:
        return None
    if newest.rolled_back_to is not None and kept[-2].pinned_uri == wanted:
        progress.changed(f"{name}: {wanted} was taken back before, and is not tried again")
        return None
    update(target_uri, place_, name, newest.model_uri, progress, gate)
    return wanted
