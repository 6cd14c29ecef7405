"""Figures, p-values and hostile texts in the words and lengths that a report for people has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MOST_CHARS = 60
_SHARES = ("accuracy", "precision", "recall", "agreement", "calibration_error")
_BEGINNINGS = ("share_", "difference_of_predictions")
_ENDINGS = (
    "_share", "_rate", "_accuracy", "_confidence", "_precision", "_recall", "parity_difference",
    "odds_difference", "opportunity_difference",
)  # fmt: skip
_SURE = 1e-6
# Characters that show nothing are shown by a picture of them, as U+2400 has them; those that turn
# the direction of what follows are left out, so that a text turns itself by its letters alone.
_SHOWN: dict[int, int | None] = {code: 0x2400 + code for code in {*range(32)} - {9, 10, 13}}
_SHOWN |= {127: 0x2421} | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_NONE, _MINUS, _TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def cut(text: object, most: int = _MOST_CHARS) -> str:
    """Return a text that fits: its middle is left out, for beginning and end tell more."""
    shown = str(text)
    if len(shown) > most:
        tail = most // 3
        shown = f"{shown[: most - tail - 1]}…{shown[-tail:]}"
    return shown.encode("utf-8", "replace").decode().translate(_SHOWN)


def readable(sentence: str, most: int) -> str:
    """Return a sentence about rows with the signs that people write, cut where it is long."""
    for plain, written in ((" <= ", " ≤ "), (" >= ", " ≥ "), (" %", "\u00a0%")):
        sentence = sentence.replace(plain, written)
    return cut(sentence, most)


def number(value: float | None) -> str:
    """Return a number with four digits that count, as ``0.1235``, ``21,994``, ``3.1 · 10⁻⁹``."""
    if value is None:
        return _NONE
    if value and not 1e-4 <= abs(value) < 1e9:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{_signed(mantissa)} {_TIMES} 10{str(int(exponent)).translate(_RAISED)}"
    if float(value).is_integer() or abs(value) >= 10_000:
        return _signed(f"{value:,.0f}")
    return _signed(f"{value:.4g}")


def is_share(metric: str) -> bool:
    """Whether a metric is a share of something, which people read in percent."""
    return metric in _SHARES or metric.startswith(_BEGINNINGS) or metric.endswith(_ENDINGS)


def figure(value: float | None, metric: str) -> str:
    """Return a metric's value: shares in percent."""
    if value is None or not is_share(metric):
        return number(value)
    return _signed(f"{100 * value:.1f} %")


@dataclass(frozen=True)
class Effect:
    """How big the fault is, and between which bounds that is certain.

    Attributes:
        value: None where the bounds are of something else than the finding's own figures.
        low: The lower bound.
        high: The upper bound.
        unit: ``points`` (of percent), ``%``, ``% of the other figure``, or empty.
        is_difference: Whether 0 means that there is no fault.
    """

    value: float | None
    low: float
    high: float
    unit: str
    is_difference: bool

    def shown(self, value: float) -> str:
        """Return a value on its scale, without the unit."""
        return number(value) if not self.unit else _signed(f"{value:.1f}")


def effect_of(finding: dict[str, Any]) -> Effect | None:
    """Return a finding's effect; None where it has no interval.

    Args:
        finding: As JSON has it.
    """
    if finding["interval"] is None or None in finding["interval"]:
        return None
    low, high = finding["interval"]
    value, compared = finding["figure"], finding["compared_to"]
    relative = bool(finding["details"].get("relative"))
    effects = _effects(value, compared, relative)
    fits = [effect for effect in effects if low - 1e-9 <= effect <= high + 1e-9]
    # A figure that is compared to a limit may have the interval itself.
    is_figure = compared is None or (not fits and value is not None and low <= value <= high)
    if is_figure:
        fits = [] if value is None else [value]
    unit = ""
    if relative and not is_figure:
        unit = "% of the other figure"
    elif is_share(finding["metric"]):
        unit = "%" if is_figure else "points"
    scale = 100.0 if unit else 1.0
    return Effect(
        fits[0] * scale if fits else None, low * scale, high * scale, unit, not is_figure
    )


def _effects(value: float | None, compared: float | None, relative: bool) -> list[float]:
    if value is None or compared is None:
        return []
    if relative:
        return [value / compared - 1, 1 - value / compared] if compared else []
    return [compared - value, value - compared]


def chance(p_value: float | None) -> str:
    """Return in words how likely chance alone gives such a finding."""
    if p_value is None:
        return "no matter of chance: one occurrence is proof"
    if p_value < _SURE:
        return "chance alone gives that less than once in a million scans"
    times = 1 / p_value
    rounded = round(times) if times < 100 else float(f"{times:.1g}")
    return f"chance alone gives that about once in {rounded:,.0f} scans"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _signed(text: str) -> str:
    return text.replace("-", _MINUS)
