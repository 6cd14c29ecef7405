"""Printing figures: one table, its command, what it ran on."""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def show(title: str, rows: Mapping[str, Sequence[float]], limits: Mapping[str, float]) -> bool:
    """Print seconds as a table with their limits; return whether all p99 are below theirs."""
    print(f"\n### {title}\n")
    print("| figure | n | median s | p99 s | max s | limit s |")
    print("| --- | --- | --- | --- | --- | --- |")
    good = True
    for name, values in rows.items():
        limit = limits.get(name)
        p99 = percentile(values, 99)
        good = good and (limit is None or p99 < limit)
        print(
            f"| {name} | {len(values)} | {statistics.median(values):.3f} | {p99:.3f} "
            f"| {max(values):.3f} | {'' if limit is None else f'{limit:g}'} |"
        )
    _show_origin()
    return good


@dataclass(frozen=True)
class Figure:
    """A number that is no time, and what it may be."""

    value: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def is_good(self) -> bool:
        """Whether it is within its limits."""
        return self.at_least <= self.value <= self.at_most

    @property
    def limit(self) -> str:
        """The limit as people write it; empty if there is none."""
        shown = [f"≥ {self.at_least:g}"] if self.at_least > -math.inf else []
        return ", ".join(shown + ([f"≤ {self.at_most:g}"] if self.at_most < math.inf else []))


def show_figures(title: str, rows: Mapping[str, Figure]) -> bool:
    """Print numbers as a table with their limits; return whether all keep them."""
    print(f"\n### {title}\n")
    print("| figure | value | limit |")
    print("| --- | --- | --- |")
    for name, figure in rows.items():
        print(f"| {name} | {figure.value:.4g} | {figure.limit} |")
    _show_origin()
    return all(figure.is_good for figure in rows.values())


def _show_origin() -> None:
    print(f"\nRepeat: `{' '.join(['python', '-m', *_module()])}`  ")
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.system()}")


def _module() -> list[str]:
    spec = sys.modules["__main__"].__spec__
    return [spec.name if spec else sys.argv[0], *sys.argv[1:]]
