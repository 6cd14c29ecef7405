"""Texts: which words are looked at, and that long ones keep to the time of the scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.evaluation.axes import axes_of
from mlflow_exec.evaluation.checks.base import Context, OutOfTimeError
from mlflow_exec.evaluation.checks.ethical_bias import EthicalBias, EthicalBiasSettings
from mlflow_exec.evaluation.checks.robustness import Robustness, RobustnessSettings
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.running import run_check
from mlflow_exec.evaluation.settings import ScanSettings

WORDS = [f"word{n:03}" for n in range(150)]
N_ROWS = 600
# Each word is in as many texts as any other.
TEXTS = [" ".join(WORDS[(row * 7 + n * 3) % 150] for n in range(40)) + f" {row}"
         for row in range(N_ROWS)]  # fmt: skip


def words(texts: list[str]) -> list[str | None]:
    axes = axes_of(Data(pd.DataFrame({"text": texts})), 20)
    return [axis.word for axis in axes if axis.property_name == "word"]


def test_of_words_that_as_many_texts_have_the_first_are_looked_at() -> None:
    """The order of a set of texts is another in each process."""
    assert words(TEXTS) == WORDS[:60]


def test_words_that_tell_nothing_take_no_place() -> None:
    short = " ".join(f"{a}{b}" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop")
    in_all = " ".join(f"everywhere{n}" for n in range(250))
    assert words([f"{text} {short} {in_all}" for text in TEXTS]) == WORDS[:60]


class Ending(Context):
    """Its time is over after so many looks at the clock."""

    ticks_left = 150

    def tick(self) -> None:
        self.ticks_left -= 1
        if self.ticks_left < 0:
            raise OutOfTimeError


@pytest.mark.parametrize("check", [
    EthicalBias(EthicalBiasSettings()), Robustness(RobustnessSettings(perturbations=("typos",))),
], ids=lambda check: check.name)  # fmt: skip
def test_the_clock_is_looked_at_for_each_text(check: Any) -> None:
    data = Data(pd.DataFrame({"text": [f"she said {text}" for text in TEXTS]}))
    model = Model(lambda rows: np.zeros(len(rows), dtype=int), data)
    ran = run_check(check, Ending(data, model), ScanSettings())
    assert ran.skipped is not None
    assert not ran.skipped.expected
    assert "the time of" in ran.skipped.reason


def test_the_clock_is_looked_at_while_slices_are_made() -> None:
    data = Data(pd.DataFrame({"text": TEXTS}))
    model = Model(lambda rows: np.zeros(len(rows), dtype=int), data)
    context = Ending(data, model)
    context.ticks_left = 1 + 5 * N_ROWS // 100  # those of the five properties of texts
    with pytest.raises(OutOfTimeError):
        context.search  # noqa: B018


def test_as_many_texts_with_words_about_people_are_asked_about_as_are_wanted() -> None:
    """They are a fifth of all; the others say nothing."""
    about = [f"she said {text}" if row % 5 == 0 else text for row, text in enumerate(TEXTS)]
    data = Data(pd.DataFrame({"text": about}))
    model = Model(lambda rows: rows["text"].str.contains(r"\bshe\b").astype(int), data)
    check = EthicalBias(EthicalBiasSettings(max_rows=100))
    [finding] = run_check(check, Context(data, model), ScanSettings()).found
    assert (finding.figure, finding.size) == (1.0, 100)
