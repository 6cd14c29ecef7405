"""The generated page of the settings of sign-ins; ``generate.py`` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlflow_exec import registry
from mlflow_exec.auth.flows import FLOWS
from mlflow_exec.auth.settings import SignInSettings
from mlflow_exec.settings import Settings

Table = Callable[[type[Settings], set[str] | None], Iterator[str]]


def page(table: Table) -> str:
    """Return the page.

    Args:
        table: Yields the lines of a table of some settings of a class; of all if None.
    """
    shared = set(SignInSettings.model_fields)
    lines = [
        "# Settings of sign-ins",
        "",
        "Written by `make docs` from `mlflow_exec/auth/settings.py`. In `~/.mlflow-exec/auth.yaml` "
        "they stand beside `flow`; as a variable `client_id` is `MLFLOW_EXEC_AUTH_CLIENT_ID`. A "
        "**secret** is a text, `{file: PATH}` or `{env: NAME}`, and as a variable with `_FILE` "
        "behind the path of a file. What they are for: [sign-in](sign-in.md).",
        "",
        "## Every flow",
        "",
        *table(SignInSettings, None),
    ]
    for entry in FLOWS:
        cls: type[SignInSettings] = registry.load(entry.settings)
        extra = f" `pip install 'mlflow-exec[{entry.extra}]'`." if entry.extra else ""
        title = entry.title[0].upper() + entry.title[1:]
        lines += ["", f"## `{entry.name}`", "", f"{title}.{extra}", ""]
        own = set(cls.model_fields) - shared
        lines += [*table(cls, own)] if own else ["It has no settings of its own."]
    return "\n".join(lines) + "\n"
