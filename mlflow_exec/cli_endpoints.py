"""``mlflow-exec endpoints``: one address over several deployments."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from mlflow_exec.cli_output import (
    emit,
    output_option,
    parsed,
    settings_option,
    table,
    target_option,
)
from mlflow_exec.errors import ConfigError
from mlflow_exec.releases import Revision, Rollout

_name = click.option("--name", "-n", required=True, help="The endpoint.")
_ROUTES = (
    click.option(
        "--weight", "-w", "weights", metavar="DEPLOYMENT=SHARE", multiple=True,
        help="A deployment and its share of the requests, in proportion to all shares; 0 is none.",
    ),
    click.option(
        "--shadow", "-s", "shadows", metavar="DEPLOYMENT=PERCENT", multiple=True,
        help="A deployment that gets a copy of so many percent of the requests, to be compared.",
    ),
    click.option(
        "--sticky", metavar="HEADER",
        help="Requests with the same value of this header go to the same deployment.",
    ),
)  # fmt: skip
_REMOVE = click.option(
    "--remove", metavar="DEPLOYMENT", multiple=True, help="A deployment to take out."
)


def _routes_options(*further: Callable[[Any], Any]) -> Callable[[Callable[..., None]], Any]:
    """Give a command the options of routes, and what they and ``-C`` say as ``config``."""

    def decorate(command: Callable[..., None]) -> Any:
        @wraps(command)
        def collected(
            options: tuple[str, ...],
            weights: tuple[str, ...],
            shadows: tuple[str, ...],
            sticky: str | None,
            remove: tuple[str, ...] = (),
            **given: Any,
        ) -> None:
            config = _config(options, weights, shadows, sticky, remove)
            command(config=config, **given)

        found: Any = collected
        added: list[Callable[[Any], Any]] = [*_ROUTES, *further, settings_option]
        for option in reversed(added):
            found = option(found)
        return found

    return decorate


@click.group("endpoints")
def endpoints() -> None:
    """One address over several deployments: weights, sticky keys, shadows."""


def _config(
    options: tuple[str, ...],
    weights: tuple[str, ...],
    shadows: tuple[str, ...],
    sticky: str | None,
    remove: tuple[str, ...],
) -> dict[str, Any]:
    config: dict[str, Any] = dict(parsed(options))
    for key, items in (("weights", weights), ("shadows", shadows)):
        shares: dict[str, Any] = dict.fromkeys(remove)
        for variant, share in map(_share, items):
            if variant in shares:
                raise ConfigError(f"--weight, --shadow, --remove: {variant!r} is given twice")
            shares[variant] = share
        if shares:
            config[key] = shares
    if sticky is not None:
        config["sticky_header"] = sticky or None
    return config


def _share(item: str) -> tuple[str, str]:
    name, equals, share = item.partition("=")
    if not equals:
        raise ConfigError(f"--weight, --shadow: DEPLOYMENT=NUMBER is needed; given {name!r}")
    return name, share


def _shown(rollout: Rollout, output: str, **more: Any) -> None:
    from mlflow_exec.plugins.deployments import shown_endpoint

    data = {**shown_endpoint(rollout), **more}
    lines = [f"{key:<14}{_text(value)}" for key, value in data.items() if value]
    emit(data, output, "\n".join(lines))


def _text(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())


@endpoints.command("create")
@target_option
@_name
@_routes_options()
@output_option
def create(target: str, name: str, config: dict[str, Any], output: str) -> None:
    """Make an endpoint under a new name, and return when it answers."""
    from mlflow_exec.runs import endpoints as flow
    from mlflow_exec.runs.progress import Progress

    _shown(flow.create(flow.place(target, config), name, Progress()), output)


@endpoints.command("update")
@target_option
@_name
@_routes_options(_REMOVE)
@output_option
def update(target: str, name: str, config: dict[str, Any], output: str) -> None:
    """Change shares or settings; what is not given stays. Routes change without a restart."""
    from mlflow_exec.runs import endpoints as flow
    from mlflow_exec.runs.progress import Progress

    _shown(flow.update(target, flow.place(target, config), name, Progress()), output)


@endpoints.command("revisions")
@target_option
@_name
@settings_option
@output_option
def revisions(target: str, name: str, options: tuple[str, ...], output: str) -> None:
    """Show the revisions that are kept of an endpoint, the oldest first."""
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs import endpoints as flow

    found = flow.revisions(deploy.place(target, parsed(options)).target, name)
    rows = [_row(revision) for revision in found]
    keys = ("revision", "applied_at", "weights", "shadows", "settings", "rolled_back_to")
    emit([revision.to_data() for revision in found], output, table(rows, keys))


def _row(revision: Revision) -> dict[str, Any]:
    routes = revision.routes or {}
    shown = {"weights": routes.get("weights"), "shadows": routes.get("shadows"),
             "settings": dict(revision.settings)}  # fmt: skip
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in shown.items()}
    return {**revision.to_data(), "revision": revision.number, **texts}


@endpoints.command("rollback")
@target_option
@_name
@click.option("--to", type=int, help="The revision; the one before the newest if not given.")
@settings_option
@output_option
def rollback(
    target: str, name: str, to: int | None, options: tuple[str, ...], output: str
) -> None:
    """Go back to the routes and settings of an earlier revision."""
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs import endpoints as flow
    from mlflow_exec.runs.progress import Progress

    place = deploy.place(target, parsed(options))
    _shown(flow.rollback(target, place, name, to, Progress()), output)


@endpoints.command("delete")
@target_option
@_name
@settings_option
@output_option
def delete(target: str, name: str, options: tuple[str, ...], output: str) -> None:
    """Remove an endpoint, and not the deployments behind it; one that is gone is no error."""
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs import endpoints as flow

    flow.delete(deploy.place(target, parsed(options)), name)
    emit({"deleted": name}, output, f"{name} is deleted")


@endpoints.command("get")
@target_option
@_name
@settings_option
@output_option
def get(target: str, name: str, options: tuple[str, ...], output: str) -> None:
    """Show how an endpoint is, and what one of its routers has counted."""
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs import endpoints as flow

    there = deploy.place(target, parsed(options)).target
    rollout = flow.endpoint(there, name)
    _shown(rollout, output, counts=flow.counts(there, name))


@endpoints.command("list")
@target_option
@settings_option
@output_option
def list_(target: str, options: tuple[str, ...], output: str) -> None:
    """Show all endpoints of mlflow-exec there."""
    from mlflow_exec.plugins.deployments import shown_endpoint
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs import endpoints as flow

    found = flow.endpoints(deploy.place(target, parsed(options)).target)
    rows = [shown_endpoint(rollout) for rollout in found]
    text = [{**row, "weights": _text(row["weights"]), "shadows": _text(row["shadows"])}
            for row in rows]  # fmt: skip
    emit(rows, output, table(text, ("name", "state", "replicas", "revision", "weights", "shadows")))


@endpoints.command("render")
@target_option
@_name
@_routes_options(_REMOVE)
@output_option
def render(target: str, name: str, config: dict[str, Any], output: str) -> None:
    """Print what `create` or `update` would send; sends nothing."""
    from mlflow_exec.runs import endpoints as flow

    plan = flow.rendered(target, flow.place(target, config), name)
    data = {"objects": [dict(item) for item in plan.revision.objects]}
    emit(data, output, plan.to_yaml().rstrip())
