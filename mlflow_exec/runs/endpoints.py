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

from mlflow_exec.errors import ConfigError, DeploymentNotFoundError, MlflowExecError
from mlflow_exec.releases import EndpointRelease, Rollout, check_name
from mlflow_exec.runs import deploy
from mlflow_exec.runs.progress import Progress
from mlflow_exec.settings import Routing, cast_options, expand_file, parse_settings
from mlflow_exec.targets.base import ReleasePlan, Target

ROUTES = tuple(Routing.model_fields)
_KEPT_INSIDE = ("weights", "shadows")
# Of a deployment alone; where it runs and what it needs there its endpoint's router needs, too.
_OF_ONE = {
    "gateway", "ingress_class", "ingress_host", "max_ongoing_requests", "max_queued_requests",
    "max_replicas", "num_replicas", "resources", "route_prefix",
}  # fmt: skip


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
    found = target.get(name)
    if found.revision is not None and found.revision.routes is None:
        raise DeploymentNotFoundError(
            f"{name}: it is a deployment, and no endpoint; see 'mlflow deployments get'"
        )
    return found


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


def check_free(target: Target, name: str) -> None:
    """Refuse a name by which no endpoint is, and none can be made.

    Raises:
        ConfigError: It cannot be used.
        DeploymentNotFoundError: It is that of a deployment.
    """
    check_name(name)
    if deploy.find(target, name) is not None:
        endpoint(target, name)


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
    plan, place_, serving = _next(target_uri, here, name)
    return deploy.apply(place_, plan, progress, serving)


def rendered(target_uri: str, here: EndpointPlace, name: str) -> ReleasePlan:
    """Return what `create` or, where there is one, `update` would send."""
    if deploy.find(here.place.target, name) is None:
        return planned(here, name, 1)
    return _next(target_uri, here, name)[0]


def _next(
    target_uri: str, here: EndpointPlace, name: str
) -> tuple[ReleasePlan, deploy.Place, int | None]:
    before = endpoint(here.place.target, name)
    newest = deploy.newest_of(before)
    routes = _merged(newest.routes or {}, here.routes)
    place_ = deploy.with_earlier(target_uri, here.place, newest.settings)
    plan = planned(EndpointPlace(place_, routes), name, newest.number + 1)
    return plan, place_, before.serving


def _merged(earlier: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return routes that were changed in part."""
    routes = {**earlier, **given}
    for key in _KEPT_INSIDE:
        new = given.get(key, {})
        both = {**({} if new is None else earlier.get(key, {})), **(new or {})}
        routes[key] = {variant: share for variant, share in both.items() if share is not None}
    # Who answers now needs no copies any more.
    weights = parse_settings(Routing, {"weights": routes["weights"]}, deploy.WHERE).weights
    wanted = given.get("shadows") or {}
    shadows = routes["shadows"].items()
    routes["shadows"] = {v: percent for v, percent in shadows if v in wanted or not weights.get(v)}
    return routes


def planned(here: EndpointPlace, name: str, number: int) -> ReleasePlan:
    """Return the plan of a revision of an endpoint.

    Raises:
        ConfigError: A variant is not there, or a setting cannot be honoured.
    """
    check_name(name)
    routing = parse_settings(Routing, here.routes, deploy.WHERE)
    _check_variants(here.place.target, name, routing)
    settings, given = here.place.settings, deploy.kept_settings(here.place.given)
    release = EndpointRelease(name, number, routing, settings, given, deploy.now())
    return here.place.target.plan_endpoint(release)


def _check_variants(target: Target, name: str, routing: Routing) -> None:
    there = {rollout.name for rollout in deploy.deployments(target)}
    for variant in [*routing.weights, *routing.shadows]:
        if variant not in there:
            close = get_close_matches(variant, there, 1)
            way_on = f"did you mean {close[0]!r}?" if close else "deploy it first"
            raise ConfigError(f"weights, shadows: there is no deployment {variant!r}; {way_on}")


def delete(place_: deploy.Place, name: str) -> None:
    """Remove an endpoint, and not its variants; idempotent.

    Raises:
        DeploymentNotFoundError: It is a deployment of a model.
        ClusterError: Something is left.
    """
    check_free(place_.target, name)
    place_.target.delete(name)


def delete_deployment(place_: deploy.Place, name: str) -> None:
    """Remove a deployment of a model; idempotent.

    Raises:
        DeploymentNotFoundError: It is an endpoint.
        ConfigError: An endpoint sends it requests.
        ClusterError: Something is left.
    """
    check_name(name)
    target = place_.target
    if deploy.find(target, name) is not None:
        deploy.deployment(target, name)
        for found in endpoints(target):
            routes = found.revision.routes if found.revision else None
            if routes and (routes["weights"].get(name) or name in routes["shadows"]):
                raise ConfigError(
                    f"{name}: endpoint {found.name!r} sends it requests; take it out first: "
                    f"mlflow-exec endpoints update -n {found.name} --remove {name}"
                )
    target.delete(name)


def add_variant(target_uri: str, here: deploy.Place, name: str, variant: str) -> Rollout:
    """Add a deployment to an endpoint, without a share of its requests.

    Where there is no endpoint it is made, with this deployment for all requests.

    Raises:
        ConfigError: The name is that of a deployment, or cannot be used.
        RolloutError: The endpoint did not become ready.
    """
    progress = Progress()
    if deploy.find(here.target, name) is None:
        without = {*here.settings.only_of_models, *_OF_ONE}
        shared = {key: value for key, value in here.given.items() if key not in without}
        made = place(target_uri, {**shared, "weights": {variant: 100}})
        return create(made, name, progress)
    if variant in variants(here.target, name):
        return endpoint(here.target, name)
    reach = {key: value for key, value in here.given.items() if key in deploy.CONNECTION}
    return update(target_uri, place(target_uri, {**reach, "weights": {variant: 0}}), name, progress)


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
    reach = {key: value for key, value in here.given.items() if key in deploy.CONNECTION}
    if without:
        update(target_uri, place(target_uri, {**reach, **without}), name, Progress())


def counts(target: Target, name: str) -> Mapping[str, Any]:
    """Return what one of the routers of an endpoint has counted; empty where none answers."""
    with suppress(MlflowExecError, ValueError):
        answer = target.request(name, "/routes", None, {}, timeout_s=10)
        found: dict[str, Any] = json.loads(answer.body)
        return {key: found[key] for key in ("answers", "shadows") if key in found}
    return {}
