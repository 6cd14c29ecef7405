"""The names of metrics in a suite: of the model, and of the scan's findings."""

from __future__ import annotations

from mlflow_exec.evaluation.registry import CHECKS
from mlflow_exec.settings.reading import closest

OWN = ("log_loss", "mae", "mape", "mse", "rmse")
"""Errors, of which less is better; all others are scikit-learn's scorers, of which more is."""

_COUNTS = ("n_major", "n_medium", "n_minor")
_OF_ALL = (*_COUNTS, "n_skipped", "duration_s")


def check_metric(name: str, *, of_scan: bool) -> None:
    """Refuse a metric that there is not.

    Args:
        name: As the suite has it.
        of_scan: Whether counts of the scan may be asked for.

    Raises:
        ValueError: It is unknown; with the nearest name.
    """
    if name.startswith("scan/"):
        if not of_scan:
            raise ValueError(f"{name!r} is of the scan; ask for it by the kind 'threshold'")
        known = [f"scan/{count}" for count in _OF_ALL]
        known += [f"scan/{check}/{count}" for check in CHECKS for count in _COUNTS]
        more = "scan/<check>/n_major, n_medium, n_minor, of the checks " + ", ".join(CHECKS)
        if name not in known:
            raise ValueError(f"unknown metric {name!r}{closest(name, known)}. Known: {more}")
        return
    from sklearn.metrics import get_scorer_names

    names = sorted({*OWN, *get_scorer_names()})
    if name not in names:
        raise ValueError(
            f"unknown metric {name!r}{closest(name, names)}. Known: {', '.join(OWN)}, the scorers "
            "of scikit-learn (accuracy, f1, r2, …), and those of the scan (scan/n_major, …)"
        )


def less_is_better(name: str) -> bool:
    """Whether a metric is an error."""
    return name in OWN


def is_count(name: str) -> bool:
    """Whether a metric of the scan counts findings."""
    return name.rpartition("/")[2] in _COUNTS


def scan_metric_check(name: str) -> str:
    """Return the check that a metric of the scan is of; empty for one of all checks."""
    parts = name.split("/")
    return parts[1] if len(parts) == 3 else ""
