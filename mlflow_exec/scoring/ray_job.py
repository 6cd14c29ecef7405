"""What a Ray job of ours does: puts an application on Serve by its Python interface, or removes it.

Serve keeps such an application out of the one document that its REST interface knows, so that no
writer of that document can undo it. The job needs Ray and nothing of the model's: replicas get an
environment of their own.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import context
from ray.serve.api import _run
from ray.serve.deployment import Application

from mlflow_exec.scoring.ray_orders import ORDER, PASSED_OVER, REFUSED

_POLL_S = 0.2
# A job that holds the turn of an application starts nothing and waits for nothing.
_TURN_S = 60.0


def run(order: Mapping[str, Any]) -> None:
    """Do what was ordered, and return when Serve's controller has taken note of it.

    Args:
        order: Either ``remove``, the name of an application; or ``application``, as it would stand
            in Serve's document, ``version``, which tells replicas that may stay from those that may
            not, and ``before``, the revision that is to stand there until now, or null.
    """
    turn = _take_turn(order.get("remove") or order["application"]["name"])
    try:
        _change(order)
    finally:
        ray.kill(turn)


def _change(order: Mapping[str, Any]) -> None:
    if "remove" in order:
        here = _application(order["remove"])
        if here and _revision_in(here) is None:
            sys.exit(f"{REFUSED}the application of that name is not of mlflow-exec")
        serve.delete(order["remove"], _blocking=False)
        return
    application = order["application"]
    _check_before(application, order["before"])
    module, _, builder = application["import_path"].partition(":")
    built = getattr(import_module(module), builder)(application["args"])
    (settings,) = application["deployments"]
    own = {**settings, "ray_actor_options": _actor(settings, application["runtime_env"])}
    deployment = built._bound_deployment
    deployment = deployment.options(**_known(deployment.options, own, ("name",)))
    deployment = deployment.options(version=order["version"], _internal=True)
    # The public way waits until the replicas are ready, which is the client's to watch.
    more = _known(_run, application, ("import_path", "runtime_env", "args", "deployments"))
    _run(Application(deployment), _blocking=False, **more)


class _Turn:
    """Has a name that nobody else can have at the same time; goes with the job that made it."""


def _take_turn(name: str) -> Any:
    """Wait until no other job of ours changes this application, and keep them waiting from now on.

    Between look and change another one would not be seen.
    """
    if not ray.is_initialized():
        ray.init(namespace="serve")
    options = {"name": f"turn-{name}", "namespace": "mlflow-exec", "num_cpus": 0}
    begun_s = time.monotonic()
    said = False
    while True:
        try:
            return ray.remote(_Turn).options(**options).remote()
        except ValueError:  # Ray's word for a name that is taken
            if time.monotonic() > begun_s + _TURN_S:
                sys.exit(f"{REFUSED}others change it all the time")
        if not said:
            print("mlflow-exec waits: another job changes this application", flush=True)
            said = True
        time.sleep(_POLL_S)


def _check_before(application: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """End the job where somebody else has applied a revision since the client looked."""
    (settings,) = application["deployments"]
    here = _application(application["name"])
    if here.get("status") == "DELETING":
        return
    stands = _revision_in(here)
    if stands is None and here.get("deployments"):
        sys.exit(f"{REFUSED}the application of that name is not of mlflow-exec")
    if not here and before is not None:
        sys.exit(f"{REFUSED}it was deleted by somebody else meanwhile")
    if stands is not None and stands not in (before, settings["user_config"]["revision"]):
        sys.exit(f"{REFUSED}revision {stands['number']} was applied by somebody else meanwhile")


def _application(name: str) -> Mapping[str, Any]:
    """Return what Serve tells of an application; nothing where there is none."""
    details = context._get_global_client().get_serve_details()
    return (details.get("applications") or {}).get(name) or {}


def _revision_in(application: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the revision of ours that an application holds; None where it is not ours."""
    for deployment in (application.get("deployments") or {}).values():
        config = (deployment.get("deployment_config") or {}).get("user_config") or {}
        if isinstance(config, Mapping) and config.get("revision"):
            found: Mapping[str, Any] = config["revision"]
            return found
    return None


def _actor(settings: Mapping[str, Any], runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of replicas, with the application's environment below their own."""
    actor = dict(settings.get("ray_actor_options") or {})
    own = actor.get("runtime_env") or {}
    actor["runtime_env"] = {**runtime_env, **own}
    variables = {**(runtime_env.get("env_vars") or {}), **(own.get("env_vars") or {})}
    if variables:
        actor["runtime_env"]["env_vars"] = variables
    return actor


def _known(
    call: Callable[..., Any], given: Mapping[str, Any], used: tuple[str, ...]
) -> dict[str, Any]:
    """Return the keywords that this Ray knows; tells of the others, but those used elsewhere."""
    parameters = inspect.signature(call).parameters
    rest = {key: value for key, value in given.items() if key not in used}
    if unknown := sorted(set(rest) - set(parameters)):
        print(PASSED_OVER + ", ".join(unknown), flush=True)
    return {key: value for key, value in rest.items() if key in parameters}


def _order(folder: str) -> dict[str, Any]:
    for place in sys.path:
        path = Path(place) / folder / ORDER
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
    sys.exit(f"{REFUSED}its order did not come along: no {folder} on Python's path")


if __name__ == "__main__":
    run(_order(sys.argv[1]))
