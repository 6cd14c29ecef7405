"""What commands have in common: their options, and results as text, or as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mlflow_exec.credentials import hide
from mlflow_exec.errors import ConfigError, MlflowExecError

output_option = click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="How to print the result.",
)  # fmt: skip
target_option = click.option(
    "--target", "-t", required=True, metavar="URI",
    help="ray-serve, ray-serve://host:8265, k8s, k8s://context/namespace.",
)  # fmt: skip
settings_option = click.option(
    "--config", "-C", "options", metavar="NAME=VALUE", multiple=True, help="A setting."
)


def emit(data: Any, output: str, text: str) -> None:
    """Print a result, as ``--output`` says."""
    if output == "json":
        text = json.dumps(data, indent=2, default=str, ensure_ascii=False)
    click.echo(text)


@contextmanager
def errors(exit_code: int = 1) -> Iterator[None]:
    """Print an error as one sentence on stderr, and exit."""
    try:
        yield
    except MlflowExecError as error:
        click.echo(f"mlflow-exec: {hide(str(error))}", err=True)
    except Exception as error:
        # MLflow's own errors are sentences too; importing MLflow for their class costs seconds.
        if not type(error).__module__.startswith("mlflow."):
            raise
        click.echo(f"mlflow-exec: {hide(str(error))}", err=True)
    else:
        return
    sys.exit(exit_code)


def parsed(options: tuple[str, ...]) -> dict[str, str]:
    """Return what ``-C NAME=VALUE`` gives.

    Raises:
        ConfigError: One has no value, or is given twice.
    """
    result: dict[str, str] = {}
    for item in options:
        name, equals, value = item.partition("=")
        if not equals or name in result:
            what = "NAME=VALUE is needed" if not equals else "it is given twice"
            raise ConfigError(f"-C: {what}; given {name!r}")
        result[name] = value
    return result


def table(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    """Return rows as text, the keys as the head of the columns."""
    cells = [[str("" if row[key] is None else row[key]) for key in keys] for row in rows]
    cells.insert(0, [key.upper().replace("_", " ") for key in keys])
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
