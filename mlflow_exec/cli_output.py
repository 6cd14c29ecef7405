"""What the commands' results have in common: text, or JSON for programs."""

from __future__ import annotations

import json
from typing import Any

import click

output_option = click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="How to print the result.",
)  # fmt: skip


def emit(data: Any, output: str, text: str) -> None:
    """Print a result, as ``--output`` says."""
    if output == "json":
        text = json.dumps(data, indent=2, default=str, ensure_ascii=False)
    click.echo(text)
