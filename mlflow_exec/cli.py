"""``mlflow-exec``: look at, follow and stop jobs by their run, from any machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from mlflow_exec import __version__, registry
from mlflow_exec.cli_deployments import deployments
from mlflow_exec.cli_endpoints import endpoints
from mlflow_exec.cli_output import emit, errors, output_option
from mlflow_exec.cli_scan import scan
from mlflow_exec.cli_serve import serve
from mlflow_exec.errors import ConfigError
from mlflow_exec.settings import json_schema, load_config

F = TypeVar("F", bound=Callable[..., Any])

_config = click.option(
    "--backend-config", "-c", "config", metavar="FILE|JSON", default=None,
    help="Backend settings: a JSON or YAML file, or a JSON string.",
)  # fmt: skip
_run_id = click.argument("run_id")
_BACKENDS = click.Choice([b.name for b in registry.BACKENDS])
_backend = click.argument("backend", type=_BACKENDS)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlflow-exec")
def cli() -> None:
    """Run MLflow projects and serve models on the clusters you already have.

    Jobs are found by their run on the tracking server of MLFLOW_TRACKING_URI.
    """


cli.add_command(deployments)
cli.add_command(endpoints)
cli.add_command(scan)
cli.add_command(serve)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors are one sentence on stderr and exit code 1.

    Args:
        arguments: What follows the program's name; those of this process if None.
    """
    # MLflow prints links to stdout when it ends a run; stdout is for the result.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with errors():
        cli(arguments)


def parse_config(text: str | None) -> dict[str, Any]:
    """Read the value of ``--backend-config``: a file's path, or JSON.

    Raises:
        ConfigError: It is neither.
    """
    if not text:
        return {}
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"--backend-config: not valid JSON: {error}") from error
        return dict(data)
    return load_config(text)


def _attached(run_id: str, config: str | None) -> Any:
    from mlflow_exec.runs.attach import attach

    return attach(run_id, config=parse_config(config))


def _status_data(submitted: Any) -> dict[str, Any]:
    status = submitted.status()
    failure = submitted.failure if status.state.is_final else status.failure
    return {
        "run_id": submitted.run_id,
        "handle": str(submitted.handle),
        "state": status.state.value,
        "message": status.message,
        "failure": asdict(failure) if failure else None,
    }


def _status_text(data: dict[str, Any]) -> str:
    lines = [f"run     {data['run_id']}", f"job     {data['handle']}", f"state   {data['state']}"]
    if data["message"]:
        lines.append(f"        {data['message']}")
    failure = data["failure"]
    if failure:
        lines += [f"reason  {failure['category'].value}: {failure['message']}"]
        lines += [f"        {failure['hint']}"] if failure["hint"] else []
    return "\n".join(lines)


@cli.command()
@_run_id
@_config
@output_option
def status(run_id: str, config: str | None, output: str) -> None:
    """Show where a run's job is, and why it failed."""
    data = _status_data(_attached(run_id, config))
    emit(data, output, _status_text(data))


@cli.command()
@_run_id
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@_config
@output_option
def logs(run_id: str, follow: bool, config: str | None, output: str) -> None:
    """Print a job's output: from the run where it is kept, else from the cluster.

    With --output json each piece is one line: {"log": "…"}.
    """
    for piece in _attached(run_id, config).logs(follow=follow):
        if output == "json":
            click.echo(json.dumps({"log": piece}, ensure_ascii=False))
        else:
            click.echo(piece, nl=False)


@cli.command()
@_run_id
@_config
@output_option
def attach(run_id: str, config: str | None, output: str) -> None:
    """Follow a job to its end, as `mlflow run` does; exit with 0 if it succeeded, else 1.

    Ctrl-C leaves the job running.
    """
    from mlflow_exec.plugins.project_backend import follow
    from mlflow_exec.runs.progress import Progress

    submitted = _attached(run_id, config)
    if output == "json":
        submitted.wait()
        data = _status_data(submitted)
        emit(data, output, "")
        sys.exit(0 if data["state"] == "SUCCEEDED" else 1)
    follow(submitted, Progress(), detach=True)


@cli.command()
@_run_id
@_config
@output_option
def cancel(run_id: str, config: str | None, output: str) -> None:
    """Stop a job, leave nothing of it running, and end its run as KILLED.

    A finished job keeps its result.
    """
    submitted = _attached(run_id, config)
    submitted.cancel()
    data = _status_data(submitted)
    emit(data, output, _status_text(data))


@cli.command("list")
@click.option("--experiment-name", metavar="NAME", help="Only this experiment's runs.")
@click.option("--experiment-id", metavar="ID", help="Only this experiment's runs.")
@click.option("--open", "only_open", is_flag=True, help="Only runs that have not ended.")
@click.option("--limit", default=50, show_default=True, help="At most this many, newest first.")
@output_option
def list_(
    experiment_name: str | None,
    experiment_id: str | None,
    only_open: bool,
    limit: int,
    output: str,
) -> None:
    """List submitted runs with their state and reason, as the runs themselves say."""
    from mlflow_exec.runs.listing import submitted_runs

    rows = submitted_runs(experiment_name, experiment_id, only_open=only_open, limit=limit)
    widths = (32, 8, 10)
    lines = [f"{'RUN':<32}  {'BACKEND':<8}  {'STATE':<10}  REASON"]
    for row in rows:
        cells = (row["run_id"], row["backend"], row["state"])
        left = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{left}  {(row['failure'] or '')[:100]}".rstrip())
    emit(rows, output, "\n".join(lines))


@cli.command()
@click.option("--backend", "-b", default=None, type=_BACKENDS, help="Only runs of this one.")
@_config
@click.option("--namespace", metavar="NAME", help="Only jobs of this namespace of Kubernetes.")
@click.option("--watch", is_flag=True, help="Go on, pass after pass, until it is stopped.")
@click.option("--interval-s", default=30.0, show_default=True, help="Between two passes.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@output_option
def reconcile(
    backend: str | None,
    config: str | None,
    namespace: str | None,
    watch: bool,
    interval_s: float,
    dry_run: bool,
    output: str,
) -> None:
    """End the runs whose jobs have ended while nobody looked.

    Looks at every submitted run of the tracking server that has no end, or whose job was not kept
    at its end. The clusters are listed once, not asked job by job. A job that its cluster does not
    know for half a minute is lost.
    A job of another cluster than those configured here is left alone.
    Exits with 1 if something could not be asked. With --output json each run is one line.
    """
    import mlflow

    from mlflow_exec.runs.reconcile import Reconciler

    if config and backend is None:
        raise ConfigError("--backend-config: say by --backend which backend's settings they are")
    if namespace:
        if backend not in (None, "k8s"):
            raise ConfigError(f"--namespace: jobs of {backend!r} are in none")
        backend = "k8s"
    names = [backend] if backend else [item.name for item in registry.BACKENDS]
    configs = {name: parse_config(config) for name in names}
    client = mlflow.MlflowClient(mlflow.get_tracking_uri())
    reconciler = Reconciler(client, configs, namespace=namespace, dry_run=dry_run)
    outcomes = reconciler.forever(interval_s) if watch else reconciler.once()
    unknown = False
    for item in outcomes:
        unknown |= item.action == "unknown"
        if output == "json":
            click.echo(json.dumps(asdict(item), ensure_ascii=False))
        elif item.action not in ("open", "unkept"):
            click.echo(f"{item.run_id}  {item.action:<8}  {item.detail or item.state}")
    sys.exit(1 if unknown else 0)


@cli.command()
@click.argument("uri", metavar="URI|reconciler")
@click.option("--backend", "-b", default=None, help="k8s, ray or yarn; none for the reconciler.")
@_config
@click.option("--entry-point", "-e", default="main", show_default=True)
@click.option("--version", "-v", "version", default=None, help="Of a git project.")
@click.option("--param-list", "-P", "parameters", multiple=True, metavar="NAME=VALUE")
@click.option(
    "--env-manager", type=click.Choice(["local", "virtualenv", "uv", "conda"]), default=None
)
@output_option
def render(
    uri: str,
    backend: str | None,
    config: str | None,
    entry_point: str,
    version: str | None,
    parameters: tuple[str, ...],
    env_manager: str | None,
    output: str,
) -> None:
    """Print what `mlflow run` with the same arguments would create; nothing is created.

    `mlflow-exec render reconciler -c FILE` prints what runs `mlflow-exec reconcile` in a cluster,
    for `kubectl apply -f -`. A project folder of that name is ./reconciler.
    """
    from mlflow_exec.runs.rendering import rendered

    if backend is None:
        if uri != "reconciler":
            raise click.UsageError("Missing option '--backend' / '-b'.")
        if parameters or version or env_manager or entry_point != "main":
            raise click.UsageError("render reconciler: the options of a project do not apply.")
        return _render_reconciler(config, output)
    pairs = [item.partition("=") for item in parameters]
    for name, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"-P: NAME=VALUE is needed; given {name!r}")
    given = {name: value for name, _, value in pairs}
    settings = {**parse_config(config), "ENV_MANAGER": env_manager}
    plan, found = rendered(backend, uri, entry_point, version, given, settings)
    comments = "".join(
        f"# {key}: {json.dumps(item.value, ensure_ascii=False)} ({item.where})\n"
        for key, item in sorted(found.items())
    )
    shown = {key: asdict(item) for key, item in found.items()}
    emit(
        {"objects": list(plan.objects), "settings": shown},
        output,
        comments + plan.to_yaml().rstrip(),
    )


def _render_reconciler(config: str | None, output: str) -> None:
    from mlflow_exec.runs.rendering import rendered_reconciler
    from mlflow_exec.templates import to_yaml

    objects = rendered_reconciler(parse_config(config))
    emit({"objects": objects}, output, to_yaml(objects).rstrip())


@cli.command()
@_backend
@output_option
def schema(backend: str, output: str) -> None:
    """Print the JSON Schema of a backend's configuration; it is JSON with either output."""
    settings = registry.load(registry.backend(backend).settings)
    click.echo(json.dumps(json_schema(settings), indent=2))


@cli.command()
@click.argument("what", required=False, metavar="[BACKEND | URI]")
@click.option("--target", "-t", metavar="URI", help="A deployment target instead of a backend.")
@_config
@output_option
def doctor(what: str | None, target: str | None, config: str | None, output: str) -> None:
    """Say what is installed, which cluster is reached as whom, and what is missing.

    Given is a backend, all of them where none is, or the URI of an artifact location: then
    a small file is written, listed, read and removed there. Exits with 1 if something is missing.
    """
    from mlflow_exec.runs.diagnosis import diagnose, diagnose_target
    from mlflow_exec.runs.diagnosis_artifacts import diagnose_location

    if target and what:
        raise click.UsageError("a backend or '--target' / '-t', not both.")
    given = parse_config(config)
    if what and ":" in what:
        findings = list(diagnose_location(what))
    else:
        backend = registry.backend(what).name if what else None
        findings = list(diagnose_target(target, given) if target else diagnose(backend, given))
    lines = []
    for item in findings:
        lines.append(f"{'ok     ' if item.ok else 'MISSING'} {item.subject}: {item.detail}")
        lines += [f"        {item.way_on}"] if item.way_on else []
    emit([asdict(item) for item in findings], output, "\n".join(lines))
    sys.exit(0 if all(item.ok for item in findings) else 1)


@cli.group()
def ray() -> None:
    """Look at or stop the Ray that was started on this machine."""


@ray.command("stop")
@output_option
def ray_stop(output: str) -> None:
    """Stop the Ray that `mlflow run --backend ray` started, and no other."""
    from mlflow_exec.clients import ray_embedded

    stopped = ray_embedded.stop()
    emit({"stopped": stopped}, output, "stopped" if stopped else "no Ray of ours is running")


@ray.command("status")
@output_option
def ray_status(output: str) -> None:
    """Show the Ray that was started on this machine."""
    from mlflow_exec.clients import ray_embedded

    found = ray_embedded.status()
    data = asdict(found) if found else None
    emit(data, output, f"{found.address} (pid {found.pid})" if found else "none is running")
