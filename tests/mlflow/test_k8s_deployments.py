"""Models served on a real Kubernetes: created, updated, broken, rolled back, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_exec.errors import ConflictError, DeploymentNotFoundError, RejectedError
from mlflow_exec.jobs import FailureCategory
from mlflow_exec.releases import Rollout, RolloutState
from mlflow_exec.testing.served_models import BODY, JSON
from tests.mlflow.k8s_deployments import K8sDeployments

RAISING = "raise ValueError('the weights are gone')"


@pytest.fixture(scope="module")
def rollouts(served: K8sDeployments) -> Iterator[dict[str, Rollout]]:
    """Some deployments at once, each with a first revision that answers."""
    names = ["steady", "raising"]
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            deployed = pool.map(
                lambda name: served.deploy(name, served.model(2)), names
            )
            yield dict(zip(names, deployed, strict=True))
    finally:
        served.close()


@pytest.fixture(scope="module")
def broken(served: K8sDeployments, rollouts: dict[str, Rollout]) -> Rollout:
    """What becomes of an update to a model that cannot be served."""
    return served.deploy("raising", served.model(3, loading=RAISING), 2)


def test_a_broken_model_says_why_and_the_old_one_goes_on(
    served: K8sDeployments, broken: Rollout
) -> None:
    assert broken.state is RolloutState.FAILED, broken
    assert broken.failure is not None
    assert broken.failure.category is FailureCategory.USER_ERROR
    assert "the weights are gone" in broken.failure.message
    assert broken.serving == 1
    assert served.answer("raising") == 2


def test_one_list_tells_how_all_are(served: K8sDeployments, broken: Rollout) -> None:
    found = {rollout.name: rollout for rollout in served.target().rollouts()}
    assert found.keys() >= {"steady", "raising"}
    assert found["raising"].state is RolloutState.FAILED
    assert found["raising"].revision == broken.revision


def test_a_rollback_is_one_more_revision_with_what_an_earlier_one_had(
    served: K8sDeployments, broken: Rollout
) -> None:
    target = served.target()
    first, second = target.revisions("raising")
    [answering] = served.ready_pods("raising")
    plan = target.repeat(first, 3, "2026-01-01T00:00:00Z")
    target.check(plan)
    target.apply(plan)
    rollout = target.wait("raising", 3, 60)
    assert rollout.state is RolloutState.READY
    assert (rollout.serving, rollout.revision) == (3, plan.revision)
    assert [r.number for r in target.revisions("raising")] == [1, second.number, 3]
    assert plan.revision.rolled_back_to == 1
    assert served.ready_pods("raising") == {answering}
    assert served.answer("raising") == 2


def test_what_serves_stays_and_is_gone_back_to_however_few_revisions_are_kept(
    served: K8sDeployments,
) -> None:
    """Its pods are of the first revision, which the second has left as they were."""
    model, target = served.model(2), served.target(revision_limit=1)
    served.deploy("few", model, 1)
    [first] = served.ready_pods("few")
    second = served.deploy("few", model, 2, num_replicas=2)
    assert (second.state, second.serving) == (RolloutState.READY, 2)
    answering = served.ready_pods("few")
    raising = served.model(3, loading=RAISING)
    broken = served.deploy("few", raising, 3, num_replicas=2, revision_limit=1)
    assert (broken.state, broken.serving) == (RolloutState.FAILED, 2)
    kept = target.revisions("few")
    assert [revision.number for revision in kept] == [2, 3]
    target.apply(target.repeat(kept[0], 4, "2026-01-01T00:00:00Z"))
    again = target.wait("few", 4, 60)
    assert (again.state, again.serving) == (RolloutState.READY, 4)
    assert served.ready_pods("few") == answering
    assert first in answering
    target.delete("few")


def test_the_way_back_from_a_revision_that_took_too_long_has_its_own_time(
    served: K8sDeployments,
) -> None:
    for number in (1, 2):
        assert served.deploy("slow", served.model(number), number).ready
    sleeping = served.model(3, loading="import time; time.sleep(1000)")
    late = served.deploy("slow", sleeping, 3, timeout_s=8)
    assert late.failure is not None
    assert (late.state, late.failure.category) == (RolloutState.FAILED, FailureCategory.DEADLINE)
    assert served.answer("slow") == 2
    target = served.target()  # the first has no pods any more
    target.apply(target.repeat(target.revisions("slow")[0], 4, "2026-01-01T00:00:00Z"))
    assert target.wait("slow", 4, 120).state is RolloutState.READY
    assert served.answer("slow") == 1
    target.delete("slow")


def test_of_two_clients_that_apply_the_same_number_one_is_told_so(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    number = max(r.number for r in served.target().revisions("steady")) + 1

    def try_it(factor: int) -> str:
        try:
            served.apply("steady", served.model(factor), number)
        except ConflictError as error:
            return str(error)
        return "applied"

    with ThreadPoolExecutor(2) as pool:
        told = sorted(pool.map(try_it, (5, 6)))
    assert told[0] == "applied"
    assert f"somebody else has applied revision {number}" in told[1]
    assert served.target().wait("steady", number, 60).state is RolloutState.READY


def test_a_request_that_is_too_large_is_told_so(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    target = served.target()
    large = BODY + b" " * (90 * 1024 * 1024)
    assert target.request("steady", "/invocations", large, JSON).status == 200
    with pytest.raises(RejectedError, match="'max_request' is 104857600"):
        target.request("steady", "/invocations", large + b" " * (20 * 1024 * 1024), JSON)


def test_deleting_leaves_nothing(served: K8sDeployments, rollouts: dict[str, Rollout]) -> None:
    assert served.deploy("short", served.model(2), max_replicas=2, resources={"cpu": 0.1}).ready
    kinds = {name.split("/")[0] for name in served.everything("short")}
    assert kinds >= {"V1Deployment", "V1Service", "V1ConfigMap", "V2HorizontalPodAutoscaler"}
    target = served.target()
    target.delete("short")
    assert served.everything("short") == []
    target.delete("short")
    with pytest.raises(DeploymentNotFoundError, match="no deployment 'short'"):
        target.get("short")
    with pytest.raises(DeploymentNotFoundError, match="no deployment 'short'"):
        target.request("short", "/invocations", BODY, JSON)
