"""What a Deployment, its ReplicaSets and pods mean, by records as a cluster writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_exec.releases import Revision, Rollout, RolloutState
from mlflow_exec.targets.kubernetes.status import rollout_of

Json = dict[str, Any]
LABELS = "mlflow-exec/revision"
COMPLETE = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
LATE = {
    "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
    "message": 'ReplicaSet "iris-1" has timed out progressing.',
    "lastUpdateTime": "2026-01-01T00:10:00Z",
}  # fmt: skip
TOLD = {
    "state": "FAILED", "category": "environment_setup", "message": "installing failed: no torch",
    "hint": "Check the requirements.", "exit_code": 82,
}  # fmt: skip


def labelled(number: int | None, **parts: Any) -> Json:
    labels = {} if number is None else {LABELS: str(number)}
    return {"metadata": {"name": f"iris-{number}", "labels": labels}, **parts}


def deployment(
    *conditions: Json,
    number: int = 2,
    pods_of: int | None = None,
    replicas: int = 1,
    counts: tuple[int, int, int] = (1, 0, 2),
    seen: int = 3,
    **metadata: Any,
) -> Json:
    updated, available, total = counts
    found = labelled(
        number,
        spec={"replicas": replicas, "template": labelled(pods_of or number)},
        status={
            "observedGeneration": seen, "replicas": total, "readyReplicas": available,
            "updatedReplicas": updated, "availableReplicas": available,
            "conditions": list(conditions),
        },
    )  # fmt: skip
    found["metadata"] |= {"name": "iris", "generation": 3, **metadata}
    return found


def pod(
    *containers: tuple[str, Json], number: int = 2, conditions: tuple[Json, ...] = (), **status: Any
) -> Json:
    def of(kind: str) -> list[Json]:
        return [{"name": name, **state} for name, state in containers if (name == "model") is (
            kind == "containerStatuses")]  # fmt: skip

    statuses = {kind: of(kind) for kind in ("initContainerStatuses", "containerStatuses")}
    whole = {"phase": "Pending", "conditions": list(conditions), **statuses, **status}
    return labelled(number, spec={"nodeName": "n1"}, status=whole)


def replica_set(number: int, ready: int) -> Json:
    return labelled(number, status={"readyReplicas": ready})


def waiting(reason: str, message: str = "", **more: Any) -> Json:
    return {"state": {"waiting": {"reason": reason, "message": message}}, **more}


def ended(exit_code: int, reason: str = "Error", message: str = "") -> Json:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def crashed(exit_code: int, reason: str = "Error", message: str = "") -> Json:
    return waiting(
        "CrashLoopBackOff", lastState=ended(exit_code, reason, message), restartCount=1
    )


def told(found: Json, *pods: Json, sets: tuple[Json, ...] = ()) -> Rollout:
    return rollout_of(found, sets, pods, None, "http://iris.team.svc")


def test_all_replicas_of_the_newest_and_no_others_are_ready() -> None:
    rollout = told(deployment(COMPLETE, counts=(2, 2, 2), replicas=2), sets=(replica_set(2, 2),))
    assert (rollout.state, rollout.serving, rollout.ready) == (RolloutState.READY, 2, 2)
    both = told(deployment(counts=(2, 2, 3), replicas=2))
    assert both.state is RolloutState.DEPLOYING


def test_what_the_controller_has_not_seen_yet_is_not_ready() -> None:
    rollout = told(deployment(COMPLETE, counts=(1, 1, 1), seen=2))
    assert rollout.state is RolloutState.DEPLOYING


def test_the_old_revision_serves_until_the_new_one_answers() -> None:
    rollout = told(deployment(), sets=(replica_set(1, 1), replica_set(2, 0)))
    assert (rollout.state, rollout.serving) == (RolloutState.DEPLOYING, 1)


def test_pods_that_a_later_revision_has_left_alone_serve_it() -> None:
    kept = deployment(number=5, pods_of=1, counts=(1, 1, 1))
    rollout = told(kept, sets=(replica_set(1, 1), replica_set(4, 1)))
    assert (rollout.state, rollout.serving) == (RolloutState.READY, 5)


def test_of_revisions_with_the_same_pods_the_newest_is_the_one_that_serves() -> None:
    def record(number: int, pods_of: int) -> Revision:
        there = labelled(number, kind="Deployment", spec={"template": labelled(pods_of)})
        return Revision("iris", number, "m", "m", "1", {}, (there,), "2026-01-01T00:00:00Z")

    known = [record(1, 1), record(2, 1), record(3, 3)]
    sets = (replica_set(1, 1), replica_set(3, 0))
    broken = deployment(number=3)
    assert rollout_of(broken, sets, (), known[2], "", known).serving == 2
    assert rollout_of(broken, sets, (), None, "").serving == 1


def test_one_that_is_going_away_says_so() -> None:
    gone = deployment(counts=(1, 1, 1), deletionTimestamp="2026-01-01T00:00:00Z")
    assert told(gone).state is RolloutState.DELETING


FAILED = {
    "environment, told by the first step": (
        pod(("prepare", crashed(82, message=json.dumps(TOLD)))),
        "environment_setup", "no torch"),
    "an order that no second start can mend": (
        pod(("prepare", {"state": ended(83, message=json.dumps(
            {**TOLD, "category": "invalid_config", "message": "Python 3.7"}))})),
        "invalid_config", "Python 3.7"),
    "an exception while the model is loaded": (
        pod(("model", crashed(1, message="Traceback:\n  boom\nValueError: no weights"))),
        "user_error", "ValueError: no weights"),
    "memory": (pod(("model", crashed(137, "OOMKilled"))), "out_of_memory", "The server was killed"),
    "memory of the first step": (
        pod(("prepare", crashed(137, "OOMKilled"))), "out_of_memory", "environment and model"),
    "an image that is not there": (
        pod(("prepare", waiting("ImagePullBackOff", "not found", image="x:1"))),
        "image_pull", "'x:1'"),
    "an image without Python": (
        pod(("prepare", {"state": ended(128, "StartError", "exec: python3: not found")})),
        "invalid_config", "python3: not found"),
    "a Secret that is gone": (
        pod(("prepare", waiting("CreateContainerConfigError", 'secret "hf" not found'))),
        "invalid_config", "hf"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "category", "words"), FAILED.values(), ids=FAILED)
def test_what_cannot_pass_fails_the_revision(found: Json, category: str, words: str) -> None:
    rollout = told(deployment(), found, pod(number=1), sets=(replica_set(1, 1),))
    assert rollout.state is RolloutState.FAILED
    assert rollout.failure is not None
    assert rollout.failure.category.value == category
    assert words in rollout.failure.message
    assert rollout.serving == 1


FULL = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu."}
REFUSED = {
    "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
    "message": 'pods "iris-1" is forbidden: exceeded quota: q',
}  # fmt: skip
HELD = {
    "no room": (deployment(), pod(conditions=(FULL,)), "unschedulable"),
    "a registry's limit": (
        deployment(), pod(("prepare", waiting("ErrImagePull", "429 Too Many Requests"))),
        "infrastructure"),
    "a first failed pull": (
        deployment(), pod(("prepare", waiting("ErrImagePull", "no route"))), "image_pull"),
    "a first failure": (
        deployment(), pod(("prepare", {"state": ended(82, message=json.dumps(TOLD))})),
        "environment_setup"),
    "a quota": (deployment(REFUSED), None, "quota"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "of_pod", "category"), HELD.values(), ids=HELD)
def test_what_may_pass_is_told_while_it_is_waited_for(
    found: Json, of_pod: Json | None, category: str
) -> None:
    pods = [of_pod] if of_pod else []
    rollout = told(found, *pods)
    assert rollout.state is RolloutState.DEPLOYING
    assert rollout.failure is not None
    assert rollout.failure.category.value == category
    late = json.loads(json.dumps(found))
    late["status"]["conditions"].append(LATE)
    assert told(late, *pods).state is RolloutState.FAILED


def test_a_forbidden_pod_fails_the_revision() -> None:
    forbidden = {**REFUSED, "message": 'pods "iris-1" is forbidden: violates PodSecurity'}
    rollout = told(deployment(forbidden))
    assert rollout.state is RolloutState.FAILED
    assert rollout.failure is not None
    assert rollout.failure.category.value == "permission"


def test_one_that_is_late_without_a_reason_names_its_deadline() -> None:
    rollout = told(deployment(LATE))
    assert rollout.state is RolloutState.FAILED
    assert rollout.failure is not None
    assert rollout.failure.category.value == "deadline"


def test_that_the_revision_before_was_late_says_nothing_of_this_one() -> None:
    def said(at: str) -> Rollout:
        ours = {"manager": "mlflow-exec", "operation": "Apply", "time": "2026-01-01T00:05:00Z"}
        others = {"manager": "kubectl", "operation": "Update", "time": "2026-01-01T09:00:00Z"}
        return told(deployment({**LATE, "lastUpdateTime": at}, managedFields=[ours, others]))

    assert said("2026-01-01T00:04:59Z").state is RolloutState.DEPLOYING
    assert said("2026-01-01T00:05:00Z").state is RolloutState.DEPLOYING
    assert said("2026-01-01T00:05:01Z").state is RolloutState.FAILED


def test_one_that_was_ready_and_fails_now_is_unhealthy() -> None:
    rollout = told(deployment(COMPLETE, counts=(1, 0, 1)), pod(("model", crashed(1))))
    assert rollout.state is RolloutState.UNHEALTHY


def test_pods_of_the_past_tell_nothing_of_the_newest_revision() -> None:
    evicted = pod(("model", crashed(137)), phase="Failed", reason="Evicted")
    stopped = pod(("model", crashed(137)))
    stopped["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    rollout = told(deployment(), evicted, stopped, pod(("model", crashed(1)), number=1))
    assert (rollout.state, rollout.failure) == (RolloutState.DEPLOYING, None)
