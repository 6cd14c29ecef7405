"""Texts in which words about people are swapped: the gender, the religion, the nationality."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mlflow_exec.evaluation.properties import WORD

SWAPS = Path(__file__).with_name("swaps.yaml")
KINDS = ("gender", "religion", "nationality")


@cache
def _choices(kind: str) -> Mapping[str, Sequence[str]]:
    """Return for each word those that it can become."""
    listed: Any = yaml.safe_load(SWAPS.read_text(encoding="utf-8"))[kind]
    if kind == "gender":
        pairs = {one: [other] for one, other in listed["pairs"]}
        back = {other: [one] for one, other in listed["pairs"]}
        return pairs | back | {word: [other] for word, other in listed["only"].items()}
    return {
        word: [other[place] for other in listed if other is not row]
        for row in listed for place, word in enumerate(row)
    }  # fmt: skip


def has_words(words: Set[str], kind: str) -> bool:
    """Whether some words (of `properties.words_of`) are of that kind (one of `KINDS`)."""
    return not words.isdisjoint(_choices(kind))


def swapped(kind: str, rng: np.random.Generator) -> Callable[[str], str]:
    """Return a function that swaps all words of a kind in a text; the case of letters is kept.

    Within a text a word always becomes the same one.
    """
    choices = _choices(kind)

    def swap(text: str) -> str:
        # One offset for the text: "Islam" and "mosque" become "Judaism" and "synagogue".
        offset = int(rng.integers(1 << 30))

        def other(match: re.Match[str]) -> str:
            word = match.group()
            others = choices.get(word.lower())
            return word if others is None else _cased(others[offset % len(others)], word)

        return WORD.sub(other, text)

    return swap


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.capitalize() if like[0].isupper() else word
