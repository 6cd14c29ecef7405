"""Weights that mean what they say, keys that stay where they are, shares of copies."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from mlflow_exec.scoring.routes import Choice, Routes, Turns

REQUESTS = 10_000


def shares(weights: dict[str, float], requests: int = REQUESTS) -> Counter[str | None]:
    choice = Choice(Routes(1, weights))
    return Counter(choice.variant(None) for _ in range(requests))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 90, "b": 10}, {"a": 9000, "b": 1000}),
        ({"a": 1, "b": 1, "c": 2}, {"a": 2500, "b": 2500, "c": 5000}),
        ({"a": 100, "b": 0}, {"a": 10_000}),
        ({"a": 0, "b": 5}, {"b": 10_000}),
        ({"a": 0.5, "b": 99.5}, {"a": 50, "b": 9950}),
    ],
)
def test_of_ten_thousand_requests_each_gets_its_share_and_zero_is_none(
    weights: dict[str, float], expected: dict[str, int]
) -> None:
    assert shares(weights) == expected


def test_shares_are_mixed_evenly() -> None:
    turns = Turns({"a": 3, "b": 1})
    firsts = [turns.next() for _ in range(8)]
    assert firsts.count("b") == 2
    assert "aaaa" not in "".join(map(str, firsts))


def test_without_weights_nobody_answers() -> None:
    assert shares({"a": 0}, 3) == {None: 3}


def keyed(weights: dict[str, float]) -> list[str | None]:
    choice = Choice(Routes(1, weights, sticky_header="x-user"))
    return [choice.variant(b"user-%d" % number) for number in range(REQUESTS)]


def test_a_key_is_always_answered_by_the_same_variant() -> None:
    assert keyed({"a": 90, "b": 10}) == keyed({"a": 90, "b": 10})


def test_keys_are_shared_out_by_the_weights() -> None:
    found = Counter(keyed({"a": 90, "b": 10, "c": 0}))
    assert found["b"] == pytest.approx(1000, abs=100)  # three standard deviations are 90
    assert found["c"] == 0


def test_a_change_of_weights_moves_only_keys_to_who_has_won() -> None:
    before, after = keyed({"a": 90, "b": 10}), keyed({"a": 80, "b": 20})
    moved = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
    assert set(moved) == {("a", "b")}
    assert moved["a", "b"] == pytest.approx(1000, abs=150)


def test_a_variant_that_goes_leaves_the_keys_of_others() -> None:
    before, after = keyed({"a": 1, "b": 1, "c": 1}), keyed({"a": 1, "b": 1, "c": 0})
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "c")


def test_whoever_else_asks_takes_no_turn_of_a_prediction() -> None:
    choice = Choice(Routes(1, {"a": 1, "b": 1}))
    found = Counter()  # type: ignore[var-annotated]
    for _ in range(100):
        choice.variant(None, predicts=False)
        found[choice.variant(None)] += 1
    assert found == {"a": 50, "b": 50}


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 90, "b": 10}])
def test_shadows_get_their_percentage_of_each_variants_requests(weights: dict[str, float]) -> None:
    choice = Choice(Routes(1, weights, {"all": 100, "half": 50, "some": 12.5}))
    copies: Counter[tuple[str, str]] = Counter()
    for _ in range(REQUESTS):
        variant = str(choice.variant(None))
        copies.update((name, variant) for name in choice.shadows(variant))
    for variant, weight in weights.items():
        answered = REQUESTS * weight / sum(weights.values())
        assert copies["all", variant] == answered
        assert copies["half", variant] == answered / 2
        assert copies["some", variant] == answered / 8


def test_routes_travel_as_json_and_later_keys_are_ignored() -> None:
    routes = Routes(3, {"a": 1}, {"b": 50}, "x-user")
    assert Routes.from_data({**json.loads(routes.to_json()), "later": 1}) == routes


@pytest.mark.parametrize(
    "data",
    [
        [1],
        {"weights": {}},
        {"number": 1, "weights": {"a": "90"}},
        {"number": 1, "weights": {"a": -1}},
        {"number": 1, "weights": ["a"]},
        {"number": 1, "weights": {"a": 1}, "shadows": {"b": None}},
        {"number": 1, "weights": {"a": 1}, "sticky_header": 5},
    ],
)
def test_what_are_no_routes_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not routes"):
        Routes.from_data(data)
