"""Endpoints: one address over several deployments, and what all targets do alike with them.

To a target an endpoint is one more deployment, of a router. So its revisions, its way back and its
removal are those of `mlflow_exec.runs.deploy`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from mlflow_exec.errors import (
    ConfigError,
    DeploymentNotFoundError,
    MlflowExecError,
    RolloutError,
)
from mlflow_exec.releases import EndpointRelease, Revision, Rollout, check_name
from mlflow_exec.runs import deploy
from mlflow_exec.runs.gating import Gate
from mlflow_exec.runs.progress import Progress
from mlflow_exec.settings import Routing, cast_options, expand_file, parse_settings
from mlflow_exec.targets.base import ReleasePlan, Target

ROUTES = tuple(Routing.model_fields)
_KEPT_INSIDE = ("weights", "shadows")


@dataclass(frozen=True)
class EndpointPlace:
    """A target with its settings, and what was given of the routes.

    Attributes:
        place: The target.
        routes: Fields of `Routing`, in part.
    """

    place: deploy.Place
    routes: Mapping[str, Any]


def place(target_uri: str, options: Mapping[str, Any] | None) -> EndpointPlace:
    """Return the target that a URI names.

    Args:
        target_uri: Such as ``k8s://context/namespace``.
        options: Its settings and the fields of `Routing`, values as texts or as they are.

    Raises:
        ConfigError: The target, a setting or a value is not known, or has no effect here.
    """
    given = expand_file(cast_options(options or {}, deploy.WHERE), deploy.WHERE)
    routes = {key: value for key, value in given.items() if key in ROUTES}
    found = deploy.place(target_uri, {k: v for k, v in given.items() if k not in ROUTES})
    for key in sorted(found.settings.only_of_models & given.keys()):
        raise ConfigError(
            f"-C: {key}: it is of models, and has no effect on an endpoint; give it to the "
            f"deployments"
        )
    return EndpointPlace(found, routes)


def endpoint(target: Target, name: str) -> Rollout:
    """Return how an endpoint is.

    Raises:
        DeploymentNotFoundError: There is none; a deployment is not one.
    """
    return _of_endpoint(target.get(name))


def _of_endpoint(rollout: Rollout) -> Rollout:
    if rollout.revision is not None:
        _refuse_deployment(rollout.revision)
    return rollout


def _refuse_deployment(revision: Revision) -> None:
    if revision.routes is None:
        raise DeploymentNotFoundError(
            f"{revision.name}: it is a deployment, and no endpoint; see 'mlflow deployments get'"
        )


def revisions(target: Target, name: str) -> list[Revision]:
    """Return the revisions that are kept of an endpoint, the oldest first.

    Raises:
        DeploymentNotFoundError: There is none; a deployment is not one.
    """
    kept = target.revisions(name)
    for revision in kept[-1:]:
        _refuse_deployment(revision)
    return kept


def endpoints(target: Target) -> list[Rollout]:
    """Return all endpoints of mlflow-exec there."""
    return [r for r in target.rollouts() if r.revision and r.revision.routes is not None]


def variants(target: Target, name: str) -> set[str]:
    """Return the deployments that get requests of an endpoint, or could.

    Raises:
        DeploymentNotFoundError: There is no such endpoint.
    """
    routes = deploy.newest_of(endpoint(target, name)).routes or {}
    return {*routes["weights"], *routes["shadows"]}


def create(here: EndpointPlace, name: str, progress: Progress) -> Rollout:
    """Make an endpoint under a name that is free.

    Raises:
        ConfigError: It is not free, a variant is not there, or a setting cannot be honoured.
        RolloutError: It did not become ready.
    """
    check_name(name)
    if deploy.find(here.place.target, name) is not None:
        raise ConfigError(
            f"name: there is a deployment or an endpoint {name!r}; 'update' changes an endpoint"
        )
    plan = planned(here, name, 1)
    return deploy.apply(here.place, plan, progress, None)


def update(target_uri: str, here: EndpointPlace, name: str, progress: Progress) -> Rollout:
    """Change the routes or the settings of an endpoint; what is not given stays.

    Weights and shadows are changed one by one; ``null`` takes one away. A shadow that gets a weight
    is none any more.

    Raises:
        DeploymentNotFoundError: There is none.
        ConfigError: A variant is not there, or a setting cannot be honoured.
        RolloutError: It did not become ready.
    """
    before = endpoint(here.place.target, name)
    place_, plan = _next(target_uri, here, before)
    return deploy.apply(place_, plan, progress, before.serving)


def rollback(
    target_uri: str, place_: deploy.Place, name: str, to: int | None, progress: Progress
) -> Rollout:
    """Go back to the routes and settings of an earlier revision, by a new one that repeats it.

    Raises:
        DeploymentNotFoundError: There is no such endpoint.
        ConfigError: There is no such revision (any more), or it has a variant that is gone.
        RolloutError: It did not become ready.
    """
    endpoint(place_.target, name)
    newest, earlier = deploy.way_back(place_.target, name, to)
    _check_variants(place_.target, Routing(**(earlier.routes or {})))
    place_ = deploy.with_earlier(target_uri, place_, newest.settings)
    plan = place_.target.repeat(earlier, newest.number + 1, deploy.now())
    return deploy.apply(place_, plan, progress, None)


def rendered(target_uri: str, here: EndpointPlace, name: str) -> ReleasePlan:
    """Return what `create` or, where there is one, `update` would send."""
    before = deploy.find(here.place.target, name)
    if before is None:
        return planned(here, name, 1)
    return _next(target_uri, here, _of_endpoint(before))[1]


def _next(
    target_uri: str, here: EndpointPlace, before: Rollout, coming: str | None = None
) -> tuple[deploy.Place, ReleasePlan]:
    """Return what changes an endpoint as it was given; `coming` as for `planned`."""
    newest = deploy.newest_of(before)
    routes = _merged(before.name, newest.routes or {}, here.routes)
    place_ = deploy.with_earlier(target_uri, here.place, newest.settings)
    number = newest.number + 1
    return place_, planned(EndpointPlace(place_, routes), before.name, number, coming)


def _merged(
    name: str, earlier: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return routes that were changed in part.

    Raises:
        ConfigError: What is given are no routes, or takes away what is not there.
    """
    routes = {**earlier, **given}
    for key in _KEPT_INSIDE:
        new, old = given.get(key, {}), earlier.get(key, {})
        if new is not None and not isinstance(new, Mapping):
            raise ConfigError(f"{deploy.WHERE}: {key}: a mapping is needed; given {new!r}")
        both = {**({} if new is None else old), **(new or {})}
        routes[key] = {variant: share for variant, share in both.items() if share is not None}
    there = {*earlier.get("weights", {}), *earlier.get("shadows", {})}
    for key in _KEPT_INSIDE:
        for variant, share in (given.get(key) or {}).items():
            if share is None and variant not in there:
                raise ConfigError(f"{name}: {variant!r} is no variant of it, to be taken out")
    # Who answers now needs no copies any more.
    weights = parse_settings(Routing, {"weights": routes["weights"]}, deploy.WHERE).weights
    wanted = given.get("shadows") or {}
    shadows = routes["shadows"].items()
    routes["shadows"] = {v: percent for v, percent in shadows if v in wanted or not weights.get(v)}
    return routes


def planned(
    here: EndpointPlace, name: str, number: int, coming: str | None = None
) -> ReleasePlan:
    """Return the plan of a revision of an endpoint.

    Args:
        here: The target, and all of the routes.
        name: The endpoint.
        number: Of the revision.
        coming: A variant that will be there before this is applied.

    Raises:
        ConfigError: A variant is not there, or a setting cannot be honoured.
    """
    check_name(name)
    routing = parse_settings(Routing, here.routes, deploy.WHERE)
    _check_variants(here.place.target, routing, coming)
    settings, given = here.place.settings, deploy.kept_settings(here.place.given)
    release = EndpointRelease(name, number, routing, settings, given, deploy.now())
    return here.place.target.plan_endpoint(release)


def _check_variants(target: Target, routing: Routing, coming: str | None = None) -> None:
    there = {rollout.name for rollout in deploy.deployments(target)}
    for variant in [*routing.weights, *routing.shadows]:
        if variant not in there and variant != coming:
            close = get_close_matches(variant, there, 1)
            way_on = f"did you mean {close[0]!r}? Else deploy it" if close else "deploy it"
            raise ConfigError(
                f"weights, shadows: there is no deployment {variant!r}; {way_on} first, or take it "
                f"out of the endpoint by --remove"
            )


def delete(place_: deploy.Place, name: str) -> None:
    """Remove an endpoint, and not its variants; idempotent.

    Raises:
        DeploymentNotFoundError: It is a deployment of a model.
        ClusterError: Something is left.
    """
    check_name(name)
    if (found := deploy.find(place_.target, name)) is not None:
        _of_endpoint(found)
    place_.target.delete(name)


def delete_deployment(place_: deploy.Place, name: str) -> None:
    """Remove a deployment of a model; idempotent.

    Raises:
        DeploymentNotFoundError: It is an endpoint.
        ConfigError: It is a variant of an endpoint.
        ClusterError: Something is left.
    """
    check_name(name)
    target = place_.target
    if (here := deploy.find(target, name)) is not None:
        deploy.of_model(here)
        for found in endpoints(target):
            routes = found.revision.routes if found.revision else None
            if routes and name in {*routes["weights"], *routes["shadows"]}:
                raise ConfigError(
                    f"{name}: it is a variant of endpoint {found.name!r}; take it out first: "
                    f"mlflow-exec endpoints update -n {found.name} --remove {name}"
                )
    target.delete(name)


def create_variant(
    target_uri: str,
    here: deploy.Place,
    endpoint_name: str,
    name: str,
    model_uri: str,
    progress: Progress,
    gate: Gate,
) -> Rollout:
    """Deploy a model, and add it to an endpoint, without a share of its requests.

    Where there is no endpoint it is made, with this deployment for all requests.

    Raises:
        ConfigError: The endpoint cannot be made or changed; nothing was deployed.
        GateError: The model fails the suite of the setting `gate`; nothing was deployed.
        RolloutError: The deployment did not become ready, or the endpoint afterwards.
    """
    if endpoint_name == name:
        raise ConfigError(f"endpoint: {name!r} is the deployment's own name; choose another")
    _planned_with(target_uri, here, endpoint_name, name)
    rollout = deploy.create(here, name, model_uri, progress, gate)
    try:
        place_, plan, serving = _planned_with(target_uri, here, endpoint_name, name)
        deploy.apply(place_, plan, progress, serving)
    except MlflowExecError as error:
        raise RolloutError(f"{name} is deployed, but not a variant yet: {error}") from error
    return rollout


def _planned_with(
    target_uri: str, here: deploy.Place, name: str, variant: str
) -> tuple[deploy.Place, ReleasePlan, int | None]:
    """Return what adds a variant that will be there to an endpoint, or makes one of it."""
    check_name(name)
    before = deploy.find(here.target, name)
    if before is None:
        without = here.settings.only_of_models | here.settings.only_of_one
        shared = {key: value for key, value in here.given.items() if key not in without}
        made = place(target_uri, {**shared, "weights": {variant: 100}})
        return made.place, planned(made, name, 1, variant), None
    routes = deploy.newest_of(_of_endpoint(before)).routes or {}
    is_there = variant in {*routes["weights"], *routes["shadows"]}
    added = {} if is_there else {"weights": {variant: 0}}
    found = place(target_uri, {**_reach(here), **added})
    return *_next(target_uri, found, before, variant), before.serving


def _reach(here: deploy.Place) -> dict[str, Any]:
    """Return the settings by which a target is reached."""
    return {key: value for key, value in here.given.items() if key in deploy.CONNECTION}


def remove_variant(target_uri: str, here: deploy.Place, name: str, variant: str) -> None:
    """Take a deployment out of an endpoint, if it is in it.

    Raises:
        DeploymentNotFoundError: There is no such endpoint.
        ConfigError: Nobody else would answer.
    """
    routes = deploy.newest_of(endpoint(here.target, name)).routes or {}
    without: dict[str, Any] = {
        key: {variant: None} for key in _KEPT_INSIDE if variant in routes[key]
    }
    if without:
        update(target_uri, place(target_uri, {**_reach(here), **without}), name, Progress())


def counts(target: Target, name: str) -> Mapping[str, Any]:
    """Return what one of the routers of an endpoint has counted; empty where none answers."""
    with suppress(MlflowExecError, ValueError, KeyError, TypeError):
        answer = target.request(name, "/routes", None, {}, timeout_s=10)
        found: dict[str, Any] = json.loads(answer.body)["counts"]
        return found
    return {}
