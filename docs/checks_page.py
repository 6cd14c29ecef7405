"""The generated page of a scan's settings and checks; ``generate.py`` writes it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator

from mlflow_exec.evaluation import confidence, difficulty, search
from mlflow_exec.evaluation.registry import CHECKS, check_class
from mlflow_exec.evaluation.settings import ScanSettings
from mlflow_exec.settings import Settings

Table = Callable[[type[Settings]], Iterator[str]]

_INTRODUCTION = """\
Written by `make docs` from `mlflow_exec/evaluation/`: what each check calls a fault, where that
comes from, and each threshold with its default. `{"checks": {"drift": {"major": 0.3}}}` sets one,
in the evaluator's configuration, in the file of `--config`, or under `scan` in a suite; on the
command line it is `-C 'checks={"drift": {"major": 0.3}}'`. Checks that are not named there are not
run; without `checks` all are, with their defaults.

A finding has passed a test of its check. The p-values of all findings of a check are corrected by
Benjamini and Hochberg (1995), and what is then above `alpha` is left out. The severity goes by what
is certain, the bound of an interval at that level, and not by the figure itself: for most checks
MEDIUM from `threshold` on, and MAJOR from `major` on. All that is drawn by chance is drawn from
`seed`. How to run a scan, and how much data it takes: [evaluation.md](evaluation.md)."""
# What several checks stand on, by the word that their texts use for it.
_SHARED = {
    "search": ("How slices are searched", search),
    "confidence": ("How confidence is judged", confidence),
    "difficulty": ("Which errors are expected", difficulty),
}


def checks_page(table: Table) -> str:
    """Return the page.

    Args:
        table: Yields the lines of a table of the settings of a class.
    """
    lines = ["# Settings and checks of a scan", "", _INTRODUCTION]
    lines += ["", "## Settings of the scan", "", *table(ScanSettings)]
    for title, module in _SHARED.values():
        lines += ["", f"## {title}", "", _text_of(module)]
    for name in CHECKS:
        cls = check_class(name)
        lines += ["", f"## `{name}`", "", _text_of(sys.modules[cls.__module__]), ""]
        lines += table(cls.settings_class)
    return "\n".join(lines) + "\n"


def _text_of(module: object) -> str:
    """Return a module's docstring, with its references as links."""
    text = inspect.getdoc(module) or ""

    def link(found: re.Match[str]) -> str:
        title, _ = _SHARED[found[1]]
        return f"(see [{title.lower()}](#{title.lower().replace(' ', '-')}))"

    return re.sub(r"\(see `(\w+)`\)", link, text)
