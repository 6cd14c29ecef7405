"""``python -m mlflow_exec.scoring --model-uri URI``: serve one model."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields, replace

from mlflow_exec.scoring.options import ENVIRONMENT_VARIABLE, OptionsError, ScoringOptions
from mlflow_exec.scoring.server import run


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        run(chosen(parsed), parsed.host, parsed.port)
    except (OptionsError, RuntimeError) as error:
        print(f"mlflow_exec.scoring: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: one flag for each option."""
    made = argparse.ArgumentParser(prog="python -m mlflow_exec.scoring", description=__doc__)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=8000)
    for field in fields(ScoringOptions):
        flag = "--" + field.name.replace("_", "-")
        if field.name == "warmup":
            made.add_argument("--no-warmup", dest="warmup", action="store_false", default=None)
        else:
            type_ = {"int": int, "float": float}.get(str(field.type), str)
            made.add_argument(flag, type=type_, default=None)
    return made


def chosen(parsed: argparse.Namespace) -> ScoringOptions:
    """Return the options of the command line over those of the environment.

    Raises:
        OptionsError: A value is wrong, or no model is named.
    """
    names = [field.name for field in fields(ScoringOptions)]
    given = {n: getattr(parsed, n) for n in names if getattr(parsed, n) is not None}
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return replace(ScoringOptions.from_environment(), **given)
    return ScoringOptions(**{"model_uri": "", **given})


if __name__ == "__main__":
    sys.exit(main())
