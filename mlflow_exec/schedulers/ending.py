"""The line by which the job's first step tells how it ended, read from logs and messages.

Written by ``runtime/entry.py`` as the last line of the log on every end that it saw. It lets a
scheduler name the category where the system itself only knows an exit code.
"""

from __future__ import annotations

import json

from mlflow_exec.jobs import Failure, FailureCategory
from mlflow_exec.runtime.end import END_LINE_PREFIX


def parse_ending(text: str) -> tuple[Failure | None, int | None] | None:
    """Find the ending in the tail of a log, or in a termination message that is only its JSON.

    Returns:
        The failure (None after success) and the entry point's exit code; None if there is none.
    """
    mark = END_LINE_PREFIX
    candidates = [line.partition(mark)[2] for line in reversed(text.splitlines()) if mark in line]
    for candidate in [*candidates[:1], text]:
        try:
            data = json.loads(candidate)
            exit_code = data["exit_code"]
            if data["state"] == "SUCCEEDED":
                return None, exit_code
            category = FailureCategory(data["category"])
            return Failure(category, str(data["message"]), str(data.get("hint") or "")), exit_code
        except (ValueError, KeyError, TypeError):
            continue
    return None


def user_error(exit_code: int) -> Failure:
    """Return the failure of an entry point that ended by itself with a non-zero code."""
    return Failure(
        FailureCategory.USER_ERROR,
        f"The entry point exited with code {exit_code}.",
        "Its own last lines in mlflow-exec/log.txt say why.",
    )
