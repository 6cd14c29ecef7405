"""Rates of groups: what is certain of the most different pair."""

from __future__ import annotations

import numpy as np

from mlflow_exec.evaluation.group_rates import rates_of


def test_many_groups_of_chance_do_not_differ() -> None:
    groups, names = np.repeat(np.arange(6), 60), tuple("abcdef")
    certain = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        said, labels = rng.random((2, len(groups))) < 0.4
        certain += [rates.interval[0] > 0 for rates in rates_of(said, labels, groups, names, 0.05)]
    assert np.mean(certain) <= 0.1  # of a single pair chosen so it is nearly 1


def test_groups_without_a_row_of_the_class_are_left_out() -> None:
    groups = np.repeat(np.arange(3), 50)
    labels = np.tile([True, False], 75)
    labels[groups == 2] = False
    said = labels & (groups == 0)
    parity, odds = rates_of(said, labels, groups, ("a", "b", "c"), 0.05)
    assert parity.names == ("a", "b", "c")
    assert (odds.names, odds.rates, odds.difference) == (("a", "b"), (1.0, 0.0), 1.0)
    assert odds.p_value < 1e-6
