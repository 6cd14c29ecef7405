"""``mlflow-exec deployments``: the verbs of `mlflow deployments`, and those it lacks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from mlflow_exec.cli_output import (
    emit,
    output_option,
    parsed,
    settings_option,
    table,
    target_option,
)
from mlflow_exec.errors import MlflowExecError
from mlflow_exec.releases import Revision, Rollout

F = TypeVar("F", bound=Callable[..., Any])

_name = click.option("--name", "-n", required=True, help="The deployment.")
_model = click.option("--model-uri", "-m", metavar="URI", help="The model.")


@click.group("deployments")
def deployments() -> None:
    """Serve models: revisions, differences, ways back; see also `mlflow deployments`."""


def _shown(rollout: Rollout, output: str) -> None:
    from mlflow_exec.plugins.deployments import shown

    data = shown(rollout)
    lines = [f"{key:<14}{value}" for key, value in data.items() if value not in (None, "")]
    emit(data, output, "\n".join(lines))


@deployments.command("create")
@target_option
@_name
@click.option("--model-uri", "-m", metavar="URI", required=True, help="The model.")
@click.option(
    "--endpoint", metavar="NAME",
    help="Make it a variant of this endpoint, without requests unless it is the only one.",
)  # fmt: skip
@settings_option
@output_option
def create(
    target: str,
    name: str,
    model_uri: str,
    endpoint: str | None,
    options: tuple[str, ...],
    output: str,
) -> None:
    """Serve a model under a new name, and return when it answers."""
    from mlflow_exec.plugins.gate import Gate
    from mlflow_exec.runs import deploy, endpoints
    from mlflow_exec.runs.progress import Progress

    place, progress, gate = deploy.place(target, parsed(options)), Progress(), Gate()
    if endpoint:
        rollout = endpoints.create_variant(
            target, place, endpoint, name, model_uri, progress, gate
        )
    else:
        rollout = deploy.create(place, name, model_uri, progress, gate)
    _shown(rollout, output)


@deployments.command("update")
@target_option
@_name
@_model
@settings_option
@output_option
def update(
    target: str, name: str, model_uri: str | None, options: tuple[str, ...], output: str
) -> None:
    """Serve another model or by other settings; what is not given stays."""
    from mlflow_exec.plugins.gate import Gate
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs.progress import Progress

    place = deploy.place(target, parsed(options))
    _shown(deploy.update(target, place, name, model_uri, Progress(), Gate()), output)


@deployments.command("rollback")
@target_option
@_name
@click.option("--to", type=int, help="The revision; the one before the newest if not given.")
@settings_option
@output_option
def rollback(
    target: str, name: str, to: int | None, options: tuple[str, ...], output: str
) -> None:
    """Go back to an earlier revision, by a new one that repeats it."""
    from mlflow_exec.runs import deploy
    from mlflow_exec.runs.progress import Progress

    place = deploy.place(target, parsed(options))
    _shown(deploy.rollback(target, place, name, to, Progress()), output)


@deployments.command("delete")
@target_option
@_name
@settings_option
@output_option
def delete(target: str, name: str, options: tuple[str, ...], output: str) -> None:
    """Remove a deployment and return when nothing of it is left; one that is gone is no error."""
    from mlflow_exec.runs import deploy, endpoints

    endpoints.delete_deployment(deploy.place(target, parsed(options)), name)
    emit({"deleted": name}, output, f"{name} is deleted")


@deployments.command("get")
@target_option
@_name
@settings_option
@output_option
def get(target: str, name: str, options: tuple[str, ...], output: str) -> None:
    """Show how a deployment is, and why it does not become ready."""
    from mlflow_exec.runs import deploy

    _shown(deploy.deployment(deploy.place(target, parsed(options)).target, name), output)


@deployments.command("list")
@target_option
@settings_option
@output_option
def list_(target: str, options: tuple[str, ...], output: str) -> None:
    """Show all deployments of mlflow-exec there."""
    from mlflow_exec.plugins.deployments import shown
    from mlflow_exec.runs import deploy

    place = deploy.place(target, parsed(options))
    rows = [shown(rollout) for rollout in deploy.deployments(place.target)]
    keys = ("name", "state", "replicas", "revision", "pinned_uri")
    emit(rows, output, table(rows, keys))


@deployments.command("revisions")
@target_option
@_name
@settings_option
@output_option
def revisions(target: str, name: str, options: tuple[str, ...], output: str) -> None:
    """Show the revisions that are kept of a deployment, the oldest first."""
    from mlflow_exec.runs import deploy

    found = deploy.revisions(deploy.place(target, parsed(options)).target, name)
    rows = [_row(revision) for revision in found]
    keys = ("revision", "applied_at", "pinned_uri", "settings", "rolled_back_to")
    emit([revision.to_data() for revision in found], output, table(rows, keys))


def _row(revision: Revision) -> dict[str, Any]:
    settings = json.dumps(dict(revision.settings), ensure_ascii=False)
    return {**revision.to_data(), "revision": revision.number, "settings": settings}


@deployments.command("render")
@target_option
@_name
@_model
@settings_option
@output_option
def render(
    target: str, name: str, model_uri: str | None, options: tuple[str, ...], output: str
) -> None:
    """Print what `create` or `update` would send; sends nothing."""
    from mlflow_exec.runs import deployed

    with deployed.rendered(target, name, model_uri, parsed(options)) as plan:
        data = {"objects": [dict(item) for item in plan.revision.objects]}
        emit(data, output, plan.to_yaml().rstrip())


@deployments.command("diff")
@target_option
@_name
@click.option("--from", "from_", type=int, help="A revision; the one before if not given.")
@click.option("--to", type=int, help="A revision; the newest if not given.")
@_model
@settings_option
@output_option
def diff(
    target: str,
    name: str,
    from_: int | None,
    to: int | None,
    model_uri: str | None,
    options: tuple[str, ...],
    output: str,
) -> None:
    """Show what is different between two revisions.

    With a model or settings: between the newest and what `update` would send.
    """
    from mlflow_exec.runs import deployed

    lines = deployed.difference(target, name, from_, to, model_uri, parsed(options))
    if lines or output == "json":
        emit({"diff": lines}, output, "\n".join(lines))


@deployments.command("follow")
@target_option
@_name
@settings_option
@click.option("--interval", "interval_s", default=30.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Look once, and return.")
@output_option
def follow(
    target: str, name: str, options: tuple[str, ...], interval_s: float, once: bool, output: str
) -> None:
    """Apply a deployment's model anew whenever its alias moves.

    A version that did not become ready is not tried again until the alias moves on, or the settings
    change; nor is one that fails the suite of `-C gate=FILE`. What cannot be asked now is asked
    again.
    """
    from mlflow.exceptions import MlflowException

    from mlflow_exec.plugins.gate import Gate
    from mlflow_exec.runs import deployed
    from mlflow_exec.runs.progress import Progress

    progress, gate = Progress(), Gate()
    given = parsed(options)
    while True:
        try:
            moved = deployed.follow(target, name, given, progress, gate)
            data: Mapping[str, Any] = {"name": name, "pinned_uri": moved}
            if moved or output == "json":
                emit(data, output, f"{name}: {moved}")
        except (MlflowExecError, MlflowException) as error:
            if once:
                raise
            progress.changed(str(error))
        if once:
            return
        time.sleep(interval_s)
