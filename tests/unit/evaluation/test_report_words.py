"""Figures and p-values in words."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.evaluation.report_words import chance, cut, effect_of, figure, number

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "\N{EN DASH}"), (0.0, "0"), (4000, "4,000"), (0.123456, "0.1235"), (21994.3, "21,994"),
     (-1.5, "\N{MINUS SIGN}1.5"), (3.14e-9, f"3.1 {TIMES} 10⁻⁹"), (0.0004, "0.0004"),
     (2e12, f"2.0 {TIMES} 10¹²")],
)  # fmt: skip
def test_numbers_have_four_digits_that_count(value: float | None, words: str) -> None:
    assert number(value) == words


def test_shares_are_told_in_percent() -> None:
    assert figure(0.508, "accuracy") == "50.8 %"
    assert figure(0.25, "share_of_different_predictions") == "25.0 %"
    assert figure(0.25, "mae") == "0.25"


@pytest.mark.parametrize(
    ("p", "words"),
    [(None, "no matter of chance"), (1e-9, "less than once in a million"), (0.04, "once in 25 "),
     (0.00012, "once in 8,000 "), (0.3, "once in 3 ")],
)  # fmt: skip
def test_p_values_are_told_as_how_often_chance_does_that(p: float | None, words: str) -> None:
    assert words in chance(p) + " "


def test_long_texts_lose_their_middle_and_controls_are_shown() -> None:
    assert cut("a" * 40 + "b" * 40, 20) == "a" * 13 + "…" + "b" * 6
    assert cut("a\x00b\ud800\u202ec") == "a␀b?c"


def of(metric: str, figure: float, compared_to: float | None, *interval: float) -> dict[str, Any]:
    return {"metric": metric, "figure": figure, "compared_to": compared_to,
            "interval": list(interval), "details": {}}  # fmt: skip


RELATIVE = of("mae", 3.0, 2.0, 0.3, 0.7) | {"details": {"relative": True}}
EFFECTS: dict[str, tuple[dict[str, Any], tuple[float | None, float, float], str]] = {
    "a share": (of("accuracy", 0.6, 0.9, 0.2, 0.4), (30.0, 20.0, 40.0), "points"),
    "a relative one": (RELATIVE, (50.0, 30.0, 70.0), "% of the other figure"),
    "a figure alone": (of("ece", 0.1, None, 0.05, 0.2), (0.1, 0.05, 0.2), ""),
    "a figure over a limit": (of("agreement", 0.97, 0.9, 0.95, 0.98), (97.0, 95.0, 98.0), "%"),
    "of something else": (of("mae", 3.0, 2.0, 8.0, 9.0), (None, 8.0, 9.0), ""),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_the_effect_is_what_the_interval_is_about(name: str) -> None:
    finding, figures, unit = EFFECTS[name]
    effect = effect_of(finding)
    assert effect is not None
    assert (effect.value, effect.low, effect.high) == pytest.approx(figures)
    assert effect.unit == unit
    assert effect_of(finding | {"interval": None}) is None
