"""Create, update, go back, delete: what all targets do alike with a release.

A name that has a deployment gets the next revision, one that has none the first. Where a revision
does not become ready the one before is applied again, unless the setting ``rollback`` is false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import mlflow
from mlflow import MlflowClient

from mlflow_exec import registry
from mlflow_exec.credentials import hide
from mlflow_exec.errors import (
    ConfigError,
    DeploymentNotFoundError,
    MlflowExecError,
    RolloutError,
)
from mlflow_exec.releases import Release, Revision, Rollout, RolloutState, check_name
from mlflow_exec.runs import models
from mlflow_exec.runs.gating import Gate, judged
from mlflow_exec.runs.job_sign_in import sign_in_of_deployment
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.tracking import plain_environment, target_tracking_uri
from mlflow_exec.settings import TargetSettings, cast_options, expand_file, parse_settings
from mlflow_exec.targets.base import ReleasePlan, Target
from mlflow_exec.templates import load_patch

WHERE = "-C"

CONNECTION = ("ca_cert", "kubeconfig", "token_file", "verify_tls")
"""The settings that say how this machine reaches a target; no revision keeps them."""

_OF_A_CALL = ("gate", "gate_data", "render", "wait")
# Of these an update changes what it names.
_KEPT_INSIDE = ("batch", "env", "gateway", "resources", "secrets")


@dataclass(frozen=True)
class Place:
    """A target with its settings, and what was given of them."""

    target: Target
    settings: TargetSettings
    given: Mapping[str, Any]


def place(target_uri: str, options: Mapping[str, Any] | None) -> Place:
    """Return the target that a URI names.

    Args:
        target_uri: Such as ``k8s://context/namespace``.
        options: Its settings, values as texts or as they are.

    Raises:
        ConfigError: The target, a setting or a value is not known.
    """
    found = registry.target(_name_in(target_uri))
    given = expand_file(cast_options(options or {}, WHERE), WHERE)
    if isinstance(given.get("patch"), str):  # kept as what it says: the file is on this machine
        given["patch"] = load_patch(given["patch"])
    settings = parse_settings(registry.load(found.settings), given, WHERE)
    target = registry.load(found.target, found.extra)(settings, target_uri)
    return Place(target, settings, given)


def _name_in(target_uri: str) -> str:
    return target_uri.split(":", 1)[0].split("+", 1)[0]


@contextmanager
def planned(
    place: Place, name: str, model: str | models.Pinned, number: int
) -> Iterator[ReleasePlan]:
    """Give the plan of a release; the model's files that it holds are there as long as this holds.

    Args:
        place: The target.
        name: The deployment.
        model: A URI, or what one meant before.
        number: Of the revision.

    Raises:
        ConfigError: The model or a setting cannot be honoured; nothing was touched.
    """
    check_name(name)
    settings, target = place.settings, place.target
    pin = models.pinned(model, MlflowClient()) if isinstance(model, str) else models.same(model)
    local = pin.pinned_uri.startswith("file:")
    reached = target_tracking_uri(
        settings.tracking_uri, mlflow.get_tracking_uri(), same_machine=target.shares_this_machine()
    )
    tracking_uri = None if local else reached
    whole = settings.model_source == "package" or (
        settings.model_source == "auto" and tracking_uri is None
    )
    if settings.model_source == "tracking" and tracking_uri is None:
        raise ConfigError(
            f"model_source: tracking: the target cannot download {pin.pinned_uri!r} from this "
            f"machine's store; start a tracking server that it can reach, or choose 'package'"
        )
    limit_bytes = target.package_limit_bytes()
    with models.prepared(pin, whole=whole, limit_bytes=limit_bytes) as found:
        release = Release(
            name, number, found, settings, kept_settings(place.given), now(),
            None if whole else tracking_uri,
            {} if whole else plain_environment(),
            {} if whole else sign_in_of_deployment(
                settings, mlflow.get_tracking_uri(), pin.pinned_uri
            ),
        )  # fmt: skip
        yield target.plan(release)


def kept_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that belong to a revision, not to one call or one machine."""
    return {key: value for key, value in given.items() if key not in (*_OF_A_CALL, *CONNECTION)}


def now() -> str:
    """Return the time as revisions keep it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def find(target: Target, name: str) -> Rollout | None:
    """Return how a deployment is; None if there is none."""
    try:
        return target.get(name)
    except DeploymentNotFoundError:
        return None


def create(
    place: Place, name: str, model_uri: str, progress: Progress, gate: Gate
) -> Rollout:
    """Deploy a model under a name that has no deployment.

    Raises:
        ConfigError: There is one already, or a setting cannot be honoured.
        GateError: The model fails the suite of the setting `gate`; the target was not asked.
        RolloutError: It did not become ready.
    """
    check_name(name)
    model = judged(place.settings, model_uri, gate, progress)
    if find(place.target, name) is not None:
        raise ConfigError(
            f"name: there is a deployment {name!r}; 'update' gives it another model or settings"
        )
    with planned(place, name, model, 1) as plan:
        return apply(place, plan, progress, None)


def update(
    target_uri: str, place: Place, name: str, model_uri: str | None, progress: Progress, gate: Gate
) -> Rollout:
    """Apply the next revision of a deployment.

    Settings that are not given stay as they are; without a model it keeps the one it has.

    Raises:
        DeploymentNotFoundError: There is none.
        ConfigError: A setting cannot be honoured.
        GateError: The model fails the suite of the setting `gate`; nothing was changed.
        RolloutError: It did not become ready.
    """
    model = judged(place.settings, model_uri, gate, progress) if model_uri else None
    here = deployment(place.target, name)
    newest = newest_of(here)
    place = with_earlier(target_uri, place, newest.settings)
    model = model or judged(place.settings, same_model(newest), gate, progress)
    with planned(place, name, model, newest.number + 1) as plan:
        return apply(place, plan, progress, here.serving)


def same_model(revision: Revision) -> models.Pinned:
    """Return the model of a revision, as it was pinned."""
    return models.Pinned(revision.model_uri, revision.pinned_uri, revision.model_version)


def with_earlier(target_uri: str, place_: Place, earlier: Mapping[str, Any]) -> Place:
    """Return a target with the settings that it was given, over those of an earlier revision.

    Those inside of ``resources``, ``env``, ``secrets`` and ``batch`` are kept one by one, too;
    ``null`` takes one away.
    """
    settings = {**earlier, **place_.given}
    for key in _KEPT_INSIDE:
        old, new = earlier.get(key), place_.given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            both = {**old, **new}
            settings[key] = {name: value for name, value in both.items() if value is not None}
    found = place(target_uri, {k: v for k, v in settings.items() if v is not None})
    found.target.reuse(place_.target)
    return found


def deployment(target: Target, name: str) -> Rollout:
    """Return how a model's deployment is.

    Raises:
        DeploymentNotFoundError: There is none; an endpoint is not one.
    """
    return of_model(target.get(name))


def of_model(rollout: Rollout) -> Rollout:
    """Return a rollout, if it is that of a model's deployment.

    Raises:
        DeploymentNotFoundError: It is that of an endpoint.
    """
    if rollout.revision is not None:
        _refuse_endpoint(rollout.revision)
    return rollout


def _refuse_endpoint(revision: Revision) -> None:
    if revision.routes is not None:
        raise DeploymentNotFoundError(
            f"{revision.name}: it is an endpoint, and no deployment of a model; see "
            f"'mlflow-exec endpoints'"
        )


def revisions(target: Target, name: str) -> list[Revision]:
    """Return the revisions that are kept of a model's deployment, the oldest first.

    Raises:
        DeploymentNotFoundError: There is none; an endpoint is not one.
    """
    kept = target.revisions(name)
    for revision in kept[-1:]:
        _refuse_endpoint(revision)
    return kept


def deployments(target: Target) -> list[Rollout]:
    """Return all deployments of models there."""
    return [r for r in target.rollouts() if not (r.revision and r.revision.routes is not None)]


def newest_of(rollout: Rollout) -> Revision:
    """Return the newest revision.

    Raises:
        RolloutError: Its record cannot be read.
    """
    if rollout.revision is None:
        raise RolloutError(
            f"{rollout.name}: its record cannot be read; delete it and create it anew"
        )
    return rollout.revision


def rollback(
    target_uri: str, place: Place, name: str, to: int | None, progress: Progress
) -> Rollout:
    """Go back to an earlier revision, by a new one that repeats it.

    Args:
        target_uri: The target.
        place: The same, with the settings of this call.
        name: The deployment.
        to: The revision's number; None for the last one that is another than the newest, and was
            not itself taken back.
        progress: Told of how it goes.

    Raises:
        ConfigError: There is no such revision (any more).
        RolloutError: It did not become ready.
    """
    if place.settings.gate is not None:
        raise ConfigError(
            "gate: a way back repeats a revision that was applied before, without a gate; leave it "
            "out, or 'update' to the model of that revision"
        )
    deployment(place.target, name)
    newest, earlier = way_back(place.target, name, to)
    place = with_earlier(target_uri, place, newest.settings)
    plan = place.target.repeat(earlier, newest.number + 1, now())
    return apply(place, plan, progress, None)


def way_back(target: Target, name: str, to: int | None) -> tuple[Revision, Revision]:
    """Return the newest revision, and the one that `rollback` leads to.

    Raises:
        ConfigError: There is no such revision (any more).
    """
    kept = target.revisions(name)
    earlier = [r for r in kept[:-1] if r.number == to] if to is not None else ways_back(kept)
    if not earlier:
        numbers = ", ".join(str(r.number) for r in kept)
        what = "an earlier revision" if to is None else f"revision {to}"
        raise ConfigError(f"rollback: {name}: {what} is not kept; kept: {numbers}")
    return kept[-1], earlier[-1]


def ways_back(kept: Sequence[Revision]) -> list[Revision]:
    """Return the revisions that are another than the newest, and were not taken back themselves."""
    newest = kept[-1].rolled_back_to or kept[-1].number
    return [
        revision
        for revision, later in pairwise(kept)
        if (revision.rolled_back_to or revision.number) != newest and later.rolled_back_to is None
    ]


def apply(
    place: Place, plan: ReleasePlan, progress: Progress, before: int | None
) -> Rollout:
    """Apply a plan and wait until it is ready.

    Args:
        place: The target.
        plan: What to apply.
        progress: Told of how it goes.
        before: The revision to go back to where this one fails; None to leave it there.

    Raises:
        RolloutError: It did not become ready.
    """
    target, settings, revision = place.target, place.settings, plan.revision
    if settings.render == "only":
        raise ConfigError(
            "render: only: nothing was sent; 'render' of mlflow-exec prints what would be"
        )
    with progress.hearing():
        for warning in target.check(plan).warnings:
            progress.say(warning)
        target.apply(plan)
        progress.say(_applied(revision))
        if not settings.wait:
            return target.get(revision.name)
        rollout = target.wait(
            revision.name, revision.number, settings.timeout_s,
            lambda seen: progress.changed(describe(seen)),
        )  # fmt: skip
    if rollout.state is RolloutState.READY:
        return rollout
    raise RolloutError(_failed(place, rollout, revision, progress, before))


def _failed(
    place: Place, rollout: Rollout, revision: Revision, progress: Progress, before: int | None
) -> str:
    """Go back if that is wanted and possible; returns the sentences of the error."""
    newest = rollout.revision
    if newest is not None and newest.number > revision.number:
        return f"{revision.name}: revision {newest.number} was applied by somebody else meanwhile"
    why = str(rollout.failure) if rollout.failure else rollout.message or "no reason is told"
    if rollout.failure is None:
        why = f"not ready after timeout_s ({place.settings.timeout_s:g} s): {why}"
    text = f"{revision.name}: revision {revision.number} did not become ready: {hide(why)}"
    other = "another model" if revision.routes is None else "other routes"
    earlier = [r for r in place.target.revisions(revision.name) if r.number == before]
    if not (place.settings.rollback and earlier):
        return f"{text}\nIt was left there; 'delete' removes it, 'update' gives it {other}."
    progress.say(f"going back to revision {before}")
    plan = place.target.repeat(earlier[-1], revision.number + 1, now())
    try:
        place.target.apply(plan)
        back = place.target.wait(revision.name, revision.number + 1, place.settings.timeout_s)
    except MlflowExecError as error:
        return f"{text}\nGoing back to revision {before} failed: {error}"
    state = "serves" if back.state is RolloutState.READY else f"is {back.state.value}"
    return f"{text}\nRevision {before} {state} again, as revision {revision.number + 1}."


def _applied(revision: Revision) -> str:
    what = revision.pinned_uri
    if revision.routes is not None:
        what = "requests go to " + shares(revision.routes["weights"])
    elif what != revision.model_uri:
        what = f"{revision.model_uri}, which is {what}"
    return f"{revision.name}: revision {revision.number} is applied: {what}"


def shares(weights: Mapping[str, float]) -> str:
    """Return weights for people."""
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def describe(rollout: Rollout) -> str:
    """Return one line for people."""
    line = f"{rollout.name}: {rollout.state.value}"
    if rollout.replicas:
        line += f", {rollout.ready} of {rollout.replicas} replicas"
    first = (rollout.message or "").strip().splitlines()
    return f"{line}: {first[-1][:200]}" if first else line
