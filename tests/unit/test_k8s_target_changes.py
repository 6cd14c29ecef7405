"""Which pods stay as they are when a revision follows another."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.releases import Model, Revision
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.kubernetes.changes import with_same_pods
from mlflow_exec.targets.kubernetes.objects import pods_number
from mlflow_exec.targets.kubernetes.plan import make_plan, repeated
from tests.unit.releases import model, release

SECRET: dict[str, Any] = {"secrets": {"IRIS": {"env": "IRIS"}}, "token": {"env": "IRIS"}}


@pytest.fixture(autouse=True)
def _value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS", "a value")


def planned(number: int, *, of: Model | None = None, **given: Any) -> Revision:
    found = release(KubernetesTargetSettings, number, of=of, **given)
    assert isinstance(found.settings, KubernetesTargetSettings)
    return make_plan(found, found.settings, "team").revision


def after(previous: Revision, revision: Revision, *, same_values: bool = True) -> Revision:
    """Return what a revision becomes where another one was applied last."""
    return with_same_pods(revision, previous.objects[0], previous, same_values=same_values)


def secrets_in(revision: Revision) -> set[str]:
    """Return the Secrets of the revision itself that are made, mounted or read."""
    text = str(revision.objects)
    return {name for n in range(9) if (name := f"iris-secrets-{n}") in text}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"num_replicas": 3}),
        ({}, {"timeout_s": 100}),
        ({"timeout_s": 100}, {"timeout_s": 200, "num_replicas": 2}),
        (SECRET, {**SECRET, "num_replicas": 3}),
        (SECRET, {**SECRET, "timeout_s": 100}),
    ],
)
def test_pods_that_would_be_the_same_anew_are_kept(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    first = planned(1, **before)
    second = after(first, planned(2, **now))
    template = first.objects[0]["spec"]["template"]
    assert second.objects[0]["spec"]["template"] == template
    assert second.objects[0]["metadata"]["labels"]["mlflow-exec/revision"] == "2"
    if "timeout_s" in now:
        assert second.objects[0]["spec"]["progressDeadlineSeconds"] == now["timeout_s"]
    assert secrets_in(second) == secrets_in(first)
    assert after(second, planned(2, **now)) == second  # once more
    third = after(second, planned(3, **now))
    assert (third.objects[0]["spec"]["template"], pods_number(third)) == (template, 1)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"of": model(pinned_uri="models:/iris/4")}),
        ({}, {"env": {"A": "b"}}),
        ({}, SECRET),
        (SECRET, {}),
        (SECRET, {**SECRET, "timeout_s": 100, "env": {"A": "b"}}),
        ({}, {"patch": {"spec": {"template": {"spec": {"containers": [
            {"name": "model", "startupProbe": {"failureThreshold": 7}}]}}}}}),
    ],
)  # fmt: skip
def test_others_are_made_anew_with_a_secret_of_their_own(
    before: dict[str, Any], now: dict[str, Any]
) -> None:
    revision = planned(2, **now)
    assert after(planned(1, **before), revision) == revision
    back = planned(3, **before)
    assert after(revision, back) == back


def test_a_changed_value_makes_other_pods() -> None:
    second = after(planned(1, **SECRET), planned(2, **SECRET), same_values=False)
    assert (secrets_in(second), pods_number(second)) == ({"iris-secrets-2"}, 2)


def test_going_back_takes_the_pods_that_a_later_revision_has_left_as_they_were() -> None:
    first = planned(1)
    second = after(first, planned(2, num_replicas=3))
    broken = after(second, planned(3, of=model(pinned_uri="models:/iris/4")))
    assert pods_number(broken) == 3
    again = after(broken, repeated(second, 4, "2026-02-01T00:00:00Z").revision)
    assert again.objects[0]["spec"]["template"] == first.objects[0]["spec"]["template"]
    assert again.objects[0]["spec"]["replicas"] == 3
