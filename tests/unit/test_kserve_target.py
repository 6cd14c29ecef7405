"""What becomes an InferenceService, and what one means, by records as a cluster writes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.releases import Rollout, RolloutState
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.changes import with_same_pods
from mlflow_exec.targets.kubernetes.kinds import INFERENCE_SERVICE
from mlflow_exec.targets.kubernetes.kserve import service_rollout
from mlflow_exec.targets.kubernetes.objects import pods_number
from mlflow_exec.targets.kubernetes.plan import make_plan, repeated
from tests.unit.releases import release

Json = dict[str, Any]
BEGUN = datetime(2026, 1, 1, tzinfo=timezone.utc)
CPU = {"cpu": "500m"}


def planned(number: int = 1, **given: Any) -> ReleasePlan:
    found = release(KubernetesTargetSettings, number, kind="kserve", **given)
    assert isinstance(found.settings, KubernetesTargetSettings)
    return make_plan(found, found.settings, "team")


def head(number: int = 1, **given: Any) -> Json:
    return dict(planned(number, **given).revision.objects[0])


def test_a_release_becomes_an_inference_service_and_what_reaches_it() -> None:
    kinds = [item["kind"] for item in planned().revision.objects]
    assert kinds == ["InferenceService", "Service", "PodDisruptionBudget", "ConfigMap"]
    predictor = head(num_replicas=2, request_timeout_s=1.5)["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["timeout"]) == (2, 2)
    [container] = predictor["containers"]
    assert container["name"] == "kserve-container"
    # KServe refuses it.
    assert "PYTHONPATH" not in {entry["name"] for entry in container["env"]}


def test_its_number_of_replicas_is_fixed_or_between_two() -> None:
    fixed, scaled = head(), head(max_replicas=4, target_cpu_percent=60, resources=CPU)
    classes = [
        item["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"]
        for item in (fixed, scaled)
    ]
    assert classes == ["none", "hpa"]
    assert "maxReplicas" not in fixed["spec"]["predictor"]
    predictor = scaled["spec"]["predictor"]
    assert [predictor[k] for k in ("minReplicas", "maxReplicas", "scaleTarget")] == [1, 4, 60]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ingress_host": "a.example"}, "ingress_host: KServe decides"),
        ({"ingress_class": "nginx"}, "ingress_class: KServe decides"),
        ({"gateway": {"name": "public"}}, "gateway: KServe decides"),
        ({"labels": {"app": "iris"}}, "labels: 'app' is KServe's own"),
        ({"annotations": {"serving.kserve.io/deploymentMode": "Knative"}}, "leave it out"),
        ({"max_replicas": 2}, r"set 'resources\.cpu' too"),
    ],
)
def test_what_kserve_cannot_honour_is_refused(given: Json, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        planned(**given)


def test_a_patch_keeps_what_kserve_and_we_find_it_by() -> None:
    more = {"spec": {"predictor": {"containers": [{"name": "kserve-container", "tty": True}]}}}
    assert head(patch=more)["spec"]["predictor"]["containers"][0]["tty"] is True
    for patch, says in (
        ({"spec": {"predictor": {"labels": {"mlflow-exec/revision": "7"}}}}, "template: the label"),
        ({"spec": {"predictor": {"containers": [{"name": "kserve-container",
                                                 "$patch": "delete"}]}}}, "must stay"),
        ({"kind": "Deployment", "spec": {}}, "there is no Deployment to patch"),
    ):  # fmt: skip
        with pytest.raises(TemplateError, match=says):
            planned(patch=patch)


def test_pods_that_would_be_the_same_keep_their_number() -> None:
    first, second = planned(1).revision, planned(2, num_replicas=2).revision
    kept = with_same_pods(second, first.objects[0], first, same_values=False)
    labels = kept.objects[0]["metadata"]["labels"]
    assert (labels["mlflow-exec/revision"], pods_number(kept)) == ("2", 1)
    assert kept.objects[0]["spec"]["predictor"]["minReplicas"] == 2
    # Annotations become those of the pods.
    scaled = planned(3, max_replicas=2, resources=CPU).revision
    before = planned(2, resources=CPU).revision
    again = with_same_pods(scaled, before.objects[0], before, same_values=False)
    assert pods_number(again) == 3
    assert pods_number(repeated(kept, 5, "").revision) == 1


def test_one_that_is_held_starts_nothing() -> None:
    item = INFERENCE_SERVICE.held(head())
    assert INFERENCE_SERVICE.is_held(item)
    assert not INFERENCE_SERVICE.is_held(head())


def made(service: Json, *conditions: Json, available: int = 1, **spec: Any) -> Json:
    pods = INFERENCE_SERVICE.pods_of(service)
    replicas = spec.pop("replicas", 1)
    return {
        "metadata": {"name": "iris-predictor", "generation": 1, "labels": {}},
        "spec": {"replicas": replicas, "template": pods, **spec},
        "status": {
            "observedGeneration": 1, "replicas": available, "readyReplicas": available,
            "updatedReplicas": available, "availableReplicas": available,
            "conditions": list(conditions),
        },
    }  # fmt: skip


def replica_set(number: int = 1, ready: int = 1) -> Json:
    labels = {"mlflow-exec/revision": str(number)}
    begun = BEGUN.isoformat().replace("+00:00", "Z")
    metadata = {"name": f"iris-{number}", "labels": labels, "creationTimestamp": begun}
    return {"metadata": metadata, "status": {"readyReplicas": ready}}


def condition(kind: str, status: str, **words: str) -> Json:
    return {"type": kind, "status": status, **words}


def pod(begun_s: float, number: int = 1) -> Json:
    begun = (BEGUN + timedelta(seconds=begun_s)).isoformat().replace("+00:00", "Z")
    labels = {"mlflow-exec/revision": str(number)}
    metadata = {"name": f"iris-{number}-x", "labels": labels, "creationTimestamp": begun}
    return {"metadata": metadata, "spec": {"containers": []}, "status": {"phase": "Pending"}}


def told(
    service: Json,
    deployment: Json | None,
    *conditions: Json,
    ready: int = 1,
    after_s: float = 1,
    pods: Sequence[Json] = (),
) -> Rollout:
    service["status"] = {"conditions": list(conditions), "url": "http://iris.example"}
    now = BEGUN + timedelta(seconds=after_s)
    return service_rollout(
        service, deployment, [replica_set(ready=ready)], pods, None, "http://iris.team.svc", [], now
    )


def test_it_is_ready_when_kserve_says_so_too() -> None:
    service = head()
    rollout = told(service, made(service), condition("Ready", "True"))
    assert (rollout.state, rollout.serving, rollout.name) == (RolloutState.READY, 1, "iris")
    assert rollout.url == "http://iris.example"
    waiting = told(
        service, made(service), condition("Ready", "False"),
        condition("IngressReady", "False", reason="NoGateway", message="there is none"),
    )  # fmt: skip
    assert waiting.state is RolloutState.DEPLOYING
    assert waiting.message.endswith("KServe waits for IngressReady: NoGateway: there is none")


def test_a_deployment_of_what_was_before_is_not_that_of_the_newest() -> None:
    for newest, deployment in (
        (head(2), made(head(1))),
        (head(1, num_replicas=2), made(head(1))),
        (head(1, num_replicas=2, max_replicas=3, resources=CPU), made(head(1, resources=CPU))),
    ):
        rollout = told(newest, deployment, condition("Ready", "True"))
        assert rollout.state is RolloutState.DEPLOYING, newest
        assert (rollout.message, rollout.serving) == ("waits for KServe's controller", 1)


def test_what_kserve_cannot_make_says_why() -> None:
    service = head()
    text = 'deployments.apps "iris-predictor" is forbidden: exceeded quota: small'
    rollout = told(
        service, None, condition("PredictorReady", "False", reason="ReconcileFailed", message=text)
    )
    assert rollout.state is RolloutState.DEPLOYING
    assert rollout.failure is not None
    assert rollout.failure.category.value == "quota"
    assert text in rollout.message


def test_its_pods_have_as_long_as_timeout_s_whatever_their_deployment_says() -> None:
    service = head(timeout_s=700)
    late = condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="too long")
    deployment = made(service, late, available=0)
    pods = [pod(0)]
    assert told(service, deployment, ready=0, after_s=650, pods=pods).state is (
        RolloutState.DEPLOYING
    )
    # Those of a way back are new, however old the ReplicaSet is that makes them.
    again = told(service, deployment, ready=0, after_s=7000, pods=[pod(6990)])
    assert again.state is RolloutState.DEPLOYING
    over = told(service, deployment, ready=0, after_s=701, pods=pods)
    assert over.state is RolloutState.FAILED
    assert over.failure is not None
    assert over.failure.category.value == "deadline"


def test_one_that_goes_or_is_not_complete_says_so() -> None:
    service = head()
    service["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert told(service, made(service)).state is RolloutState.DELETING
    held = INFERENCE_SERVICE.held(head())
    assert told(held, None).message == "is being made, or was left unfinished"
