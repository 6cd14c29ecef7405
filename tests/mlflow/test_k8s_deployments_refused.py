"""What a real Kubernetes, and others who work on it, do to deployments, and how that is told."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.errors import ConfigError, ConflictError, RejectedError
from mlflow_exec.jobs import FailureCategory
from mlflow_exec.releases import Rollout, RolloutState
from mlflow_exec.targets.kubernetes.applying import Application
from mlflow_exec.targets.kubernetes.objects import find_head
from mlflow_exec.testing.collecting import until
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.mlflow.k8s_deployments import K8sDeployments

# No node is of this kind: what is applied stays without pods.
NOWHERE: dict[str, Any] = {"node_selector": {"mlflow-exec-test": "nowhere"}}


def held(served: K8sDeployments, name: str, category: FailureCategory) -> Rollout:
    """Return the rollout once it tells a failure of this category."""

    def told() -> Rollout | None:
        rollout = served.target().get(name)
        right = rollout.failure is not None and rollout.failure.category is category
        return rollout if right else None

    found = until(told, f"{name} tells {category.value}")
    assert found is not None
    return found


def test_an_image_that_cannot_be_pulled_fails(served: K8sDeployments) -> None:
    model = served.model(1)
    rollout = served.deploy("image", model, image="127.0.0.1:1/none:1")
    assert rollout.state is RolloutState.FAILED
    assert rollout.failure is not None
    assert rollout.failure.category is FailureCategory.IMAGE_PULL
    assert "127.0.0.1:1/none:1" in rollout.failure.message
    assert rollout.serving is None


def test_another_python_than_the_models_fails_at_once(served: K8sDeployments) -> None:
    rollout = served.deploy("python", replace(served.model(1), python="3.7"))
    assert rollout.state is RolloutState.FAILED
    assert rollout.failure is not None
    assert rollout.failure.category is FailureCategory.INVALID_CONFIG
    assert "logged with Python 3.7" in rollout.failure.message


def test_a_model_that_cannot_be_downloaded_fails(
    served: K8sDeployments, kubernetes_cluster: KubernetesCluster
) -> None:
    model = replace(served.model(1), package=None, pinned_uri="/nowhere/at/all")
    rollout = served.deploy("download", model)
    assert rollout.state is RolloutState.FAILED
    assert rollout.failure is not None
    assert rollout.failure.category is FailureCategory.SOURCE_FETCH
    assert "/nowhere/at/all cannot be fetched" in rollout.failure.message


def test_what_no_node_takes_is_warned_of_and_told_while_it_waits(served: K8sDeployments) -> None:
    target, plan = served.plan("nowhere", served.model(1), **NOWHERE)
    assert "no node has the labels" in target.check(plan).warnings[0]
    target.apply(plan)
    rollout = held(served, "nowhere", FailureCategory.UNSCHEDULABLE)
    assert rollout.state is RolloutState.DEPLOYING


def test_a_used_up_quota_is_warned_of_and_told_while_it_waits(
    served: K8sDeployments, namespace: str
) -> None:
    here = replace(served, namespace=namespace)
    with served.cluster.api_client() as api:
        quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
        core = client.CoreV1Api(api)
        core.create_namespaced_resource_quota(namespace, quota)
        until(lambda: core.read_namespaced_resource_quota("none", namespace).status.hard, "counted")
    target, plan = here.plan("quota", served.model(1))
    assert "the quota is used up, the deployment waits" in target.check(plan).warnings[0]
    target.apply(plan)
    rollout = held(here, "quota", FailureCategory.QUOTA)
    assert rollout.state is RolloutState.DEPLOYING
    target.delete("quota")


def test_what_security_policies_forbid_is_refused_before_anything_is_made(
    served: K8sDeployments, namespace: str
) -> None:
    here = replace(served, namespace=namespace)
    with served.cluster.api_client() as api:
        labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        client.CoreV1Api(api).patch_namespace(namespace, labels)
    target, plan = here.plan("forbidden", served.model(1))
    with pytest.raises(Exception, match="PodSecurity"):
        target.check(plan)
    assert here.everything("forbidden") == []
    person = {"runAsNonRoot": True, "runAsUser": 1000}
    patch = {"spec": {"template": {"spec": {"securityContext": person}}}}
    assert here.deploy("allowed", served.model(1), patch=patch).state is RolloutState.READY
    assert here.answer("allowed") == 1
    target.delete("allowed")


def test_what_others_have_set_stays_and_is_told(served: K8sDeployments) -> None:
    served.apply("scaled", served.model(1), **NOWHERE)
    with served.cluster.api_client() as api:
        client.AppsV1Api(api).patch_namespaced_deployment(
            "scaled", served.namespace, {"spec": {"replicas": 3}}, field_manager="a-colleague"
        )
    target, plan = served.plan("scaled", served.model(2), 2, num_replicas=2, **NOWHERE)
    with pytest.raises(ConflictError, match=r'(?s)"a-colleague".*\.spec\.replicas'):
        target.check(plan)
    with pytest.raises(ConflictError, match=r'(?s)"a-colleague".*\.spec\.replicas'):
        target.apply(plan)
    rollout = target.get("scaled")
    assert (rollout.replicas, rollout.revision and rollout.revision.number) == (3, 1)
    assert [revision.number for revision in target.revisions("scaled")] == [1]


def test_an_object_of_somebody_else_is_not_touched(served: K8sDeployments) -> None:
    with served.cluster.api_client() as api:
        service = {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]}}
        client.CoreV1Api(api).create_namespaced_service(served.namespace, service)
    target, plan = served.plan("taken", served.model(1), **NOWHERE)
    for act in (target.check, target.apply):
        with pytest.raises(ConflictError, match="Service 'taken' that is not of mlflow-exec"):
            act(plan)
    assert served.everything("taken") == []


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_half_way_leaves_what_was_there(served: K8sDeployments, before: bool) -> None:
    name = f"half-{before}".lower()
    if before:
        served.apply(name, served.model(1), **NOWHERE)
    there = sorted(served.everything(name))
    wrong: dict[str, Any] = {"ingress_host": "no host at all", "max_replicas": 2}
    wrong["resources"] = {"cpu": 1}
    target, plan = served.plan(name, served.model(2), 2 if before else 1, **wrong, **NOWHERE)
    with pytest.raises(RejectedError, match="ingresses"):
        target.apply(plan)
    if before:
        assert sorted(served.everything(name)) == there
        assert [revision.number for revision in target.revisions(name)] == [1]
    else:
        until(lambda: served.everything(name) == [], "all of it is gone")


def test_what_a_client_has_left_unfinished_is_told_and_the_next_revision_goes_on(
    served: K8sDeployments,
) -> None:
    target, plan = served.plan("unfinished", served.model(1), **NOWHERE)
    dying = Application(target._client, plan, 10)
    dying._claim(None)
    dying._make_held()  # and there it ends
    rollout = target.get("unfinished")
    assert rollout.state is RolloutState.DEPLOYING
    assert "left unfinished" in rollout.message
    served.apply("unfinished", served.model(2), 2, **NOWHERE)
    held(served, "unfinished", FailureCategory.UNSCHEDULABLE)
    assert {r.number for r in target.revisions("unfinished")} == {1, 2}


def test_a_secret_that_a_client_has_left_never_reaches_the_next_ones_pods(
    served: K8sDeployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value may have been changed meanwhile, and its name is the same number."""
    given = {"secrets": {"IRIS": {"env": "IRIS"}}, **NOWHERE}
    monkeypatch.setenv("IRIS", "of before")
    served.apply("rotated", served.model(1), **given)
    target, plan = served.plan("rotated", served.model(2), 2, **given)
    there = find_head(target._client, served.namespace, "rotated")
    assert there is not None
    Application(target._client, plan, 10)._own(there, made_now=False)  # and there it ends
    assert value_of(served, "rotated-secrets-2") == "of before"
    monkeypatch.setenv("IRIS", "of now")
    served.apply("rotated", served.model(3), 2, **given)
    assert value_of(served, "rotated-secrets-2") == "of now"
    assert value_of(served, "rotated-secrets-1") == "of before"


def value_of(served: K8sDeployments, secret: str) -> str:
    """Return the value of the only key of a Secret."""
    with served.cluster.api_client() as api:
        found = client.CoreV1Api(api).read_namespaced_secret(secret, served.namespace)
        [value] = found.data.values()
        return base64.b64decode(value).decode()


def test_pods_keep_the_secret_of_an_earlier_revision_while_its_values_hold(
    served: K8sDeployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"secrets": {"IRIS": {"env": "IRIS"}}, "revision_limit": 2, **NOWHERE}
    model = served.model(1)
    monkeypatch.setenv("IRIS", "of before")
    served.apply("secretive", model, 1, **given)
    served.apply("secretive", model, 2, num_replicas=2, timeout_s=60, **given)
    assert of_kind(served, "secretive", "V1Secret") == ["secretive-secrets-1"]
    target = served.target()
    until(lambda: target.get("secretive").replicas == 2, "the number is another")
    assert len(of_kind(served, "secretive", "V1ReplicaSet")) == 1
    monkeypatch.setenv("IRIS", "of now")
    served.apply("secretive", model, 3, **given)
    assert [revision.number for revision in target.revisions("secretive")] == [2, 3]
    secrets = ["secretive-secrets-1", "secretive-secrets-3"]
    assert of_kind(served, "secretive", "V1Secret") == secrets
    until(lambda: len(of_kind(served, "secretive", "V1ReplicaSet")) == 2, "other pods are made")


def of_kind(served: K8sDeployments, name: str, kind: str) -> list[str]:
    """Return the names of the objects of one kind of a deployment."""
    found = (item.split("/") for item in served.everything(name))
    return sorted(name for kind_, name in found if kind_ == kind)


def test_a_secret_of_somebody_else_is_not_touched(
    served: K8sDeployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRIS", "ours")
    with served.cluster.api_client() as api:
        secret = {"metadata": {"name": "theirs-secrets-1"}, "stringData": {"IRIS": "theirs"}}
        client.CoreV1Api(api).create_namespaced_secret(served.namespace, secret)
    given = {"secrets": {"IRIS": {"env": "IRIS"}}, **NOWHERE}
    target, plan = served.plan("theirs", served.model(1), **given)
    for act in (target.check, target.apply):
        with pytest.raises(ConflictError, match="Secret 'theirs-secrets-1' that is not of mlflow"):
            act(plan)
    assert value_of(served, "theirs-secrets-1") == "theirs"
    until(lambda: served.everything("theirs") == [], "all of it is gone")


def test_an_autoscaler_takes_over_the_number_of_replicas_and_gives_it_back(
    served: K8sDeployments,
) -> None:
    model: Any = served.model(1)
    cpu = {"resources": {"cpu": 0.1}, **NOWHERE}
    served.apply("scaling", model, 1, num_replicas=2, **cpu)
    served.apply("scaling", model, 2, max_replicas=3, **cpu)
    assert served.target().get("scaling").replicas == 2
    assert any("Autoscaler" in item for item in served.everything("scaling"))
    served.apply("scaling", model, 3, num_replicas=3, max_replicas=4, **cpu)
    until(lambda: served.target().get("scaling").replicas == 3, "the autoscaler has decided")
    served.apply("scaling", model, 4, num_replicas=1, **cpu)
    assert served.target().get("scaling").replicas == 1
    served.apply("scaling", model, 5, num_replicas=2, **cpu)
    assert served.target().get("scaling").replicas == 2
    assert not any("Autoscaler" in item for item in served.everything("scaling"))


def test_only_so_many_revisions_are_kept_with_what_they_need(served: K8sDeployments) -> None:
    for number in (1, 2, 3):
        model = served.model(number)
        target = served.apply("many", model, number, revision_limit=2, **NOWHERE)
    kept = target.revisions("many")
    assert [revision.number for revision in kept] == [2, 3]
    models = [item for item in served.everything("many") if "many-model-" in item]
    assert len(models) == 2
    gone = target.repeat(replace(kept[0], objects=tuple(
        {**o, "metadata": {**o["metadata"], "name": "many-model-0"}} if "many-model-" in
        o["metadata"]["name"] else o for o in kept[0].objects)), 4, "2026-01-01T00:00:00Z")
    with pytest.raises(ConfigError, match="somebody has removed its ConfigMap 'many-model-0'"):
        target.check(gone)
