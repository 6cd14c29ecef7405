"""``mlflow-exec serve``: one model on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click

from mlflow_exec.errors import ConfigError
from mlflow_exec.scoring.options import OptionsError, ScoringOptions

_HELP = {
    "name": "The model's name in metrics.",
    "model_version": "The version that answers, for metrics.",
    "token_file": "A file with the accepted bearer tokens, one per line, read again when changed.",
    "token_env": "The name of a variable with the accepted bearer tokens.",
    "max_request_bytes": "Larger bodies are refused with 413.",
    "timeout_s": "A request that takes longer gets MLflow's 504.",
    "max_concurrent": "How many predictions may run at a time.",
    "batch_max_rows": "Put waiting requests together up to so many rows; 0: never.",
    "batch_wait_ms": "How long a batch that is not full waits while the model is busy.",
    "warmup": "Predict on the model's input example before the port opens.",
    "drain_s": "How long requests may go on after the order to stop.",
}


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for each of the runtime's options but the model."""
    chosen: list[Field[Any]] = [field for field in fields(ScoringOptions) if field.name in _HELP]
    for field in reversed(chosen):
        flag = "--" + field.name.replace("_", "-")
        has_default = field.default not in (None, "")
        command = click.option(
            f"{flag}/--no-{field.name}" if field.type == "bool" else flag,
            type={"int": int, "float": float, "bool": bool}.get(str(field.type), str),
            default=field.default, show_default=has_default, help=_HELP[field.name],
        )(command)  # fmt: skip
    return command


@click.command()
@click.option("--model-uri", "-m", required=True, help="A path, models:/…, runs:/… or another URI.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", "-p", type=int, default=5000, show_default=True, help="0: a free one.")
@click.option(
    "--env-manager", type=click.Choice(["local", "uv", "virtualenv", "conda"]), default="local",
    show_default=True, help="local: this Python environment, which has to have what the model "
    "needs; the others: one that is made for the model, or was before.",
)  # fmt: skip
@_options
def serve(model_uri: str, host: str, port: int, env_manager: str, **options: Any) -> None:
    """Serve a model as `mlflow models serve` does, many times faster.

    Same paths, same answers. The port opens when the model has predicted on its input example.
    """
    try:
        chosen = ScoringOptions(model_uri, **options)
        if env_manager != "local":
            from mlflow_exec.runs.serving import serve_in_environment

            serve_in_environment(env_manager, chosen, host, port)
        from mlflow_exec.scoring.server import run

        run(chosen, host, port)
    except (OptionsError, RuntimeError) as error:
        raise ConfigError(str(error)) from error
