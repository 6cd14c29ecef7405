"""Models served by InferenceServices: by the cluster's own KServe, or by what stands for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner
from kubernetes import client
from mlflow.deployments import get_deploy_client

from mlflow_exec.cli import cli
from mlflow_exec.errors import AccessDeniedError, ConfigError, ConflictError
from mlflow_exec.jobs import FailureCategory
from mlflow_exec.releases import Rollout, RolloutState
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.kubernetes import KubernetesTarget
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.served import steady_load
from mlflow_exec.testing.served_models import ROW, save_model
from tests.clusters.kserve.controller import is_installed, standing_in
from tests.mlflow.k8s_deployments import K8sDeployments
from tests.mlflow.test_k8s_deployments_rights import documented_rules, kubeconfig_of
from tests.servers import MlflowServer

KSERVE: dict[str, Any] = {"kind": "kserve", "resources": {"cpu": 0.1, "memory": "600Mi"}}
RAISING = "raise ValueError('the weights are gone')"
TOKEN = "a-token-that-nobody-may-see"


@pytest.fixture(scope="module")
def plain(served: K8sDeployments) -> str:
    """What a cluster without KServe says; nothing where there is one."""
    with served.cluster.api_client() as api:
        if is_installed(api):
            return ""
    target, plan = served.plan("early", served.model(1), **KSERVE)
    with pytest.raises(ConfigError) as told:
        target.check(plan)
    return str(told.value)


@pytest.fixture(scope="module")
def kserve(served: K8sDeployments, plain: str) -> Iterator[None]:
    """A cluster that knows InferenceServices, and makes pods of them."""
    with served.cluster.api_client() as api:
        if not plain:
            yield
            served.close()
            return
        with standing_in(api, served.namespace):
            yield
            served.close()


@pytest.fixture(scope="module")
def rollouts(served: K8sDeployments, kserve: None) -> dict[str, Rollout]:
    """Two deployments with a first revision that answers."""
    with ThreadPoolExecutor() as pool:
        names = ["steady", "broken"]
        made = pool.map(lambda name: served.deploy(name, served.model(2), **KSERVE), names)
        return dict(zip(names, made, strict=True))


def inference_service(served: K8sDeployments, name: str) -> dict[str, Any]:
    """Return the object at the head of a deployment."""
    with served.cluster.api_client() as api:
        found: dict[str, Any] = client.CustomObjectsApi(api).get_namespaced_custom_object(
            "serving.kserve.io", "v1beta1", served.namespace, "inferenceservices", name
        )
        return found


def test_a_cluster_without_kserve_says_so(
    served: K8sDeployments, plain: str
) -> None:
    if plain:
        assert "has no InferenceServices (serving.kserve.io/v1beta1); have KServe inst" in plain
    assert served.everything("early") == []


def test_a_deployment_answers_when_it_is_ready(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    rollout = rollouts["steady"]
    assert (rollout.state, rollout.failure) == (RolloutState.READY, None)
    assert (rollout.serving, rollout.replicas, rollout.ready) == (1, 1, 1)
    status = inference_service(served, "steady")["status"]
    assert rollout.url == status["url"]
    assert served.answer("steady") == 2
    listed = {found.name: found for found in served.target().rollouts()}
    assert listed["steady"].state is RolloutState.READY
    assert "steady-predictor" not in listed


def test_a_broken_model_says_why_the_old_one_goes_on_and_going_back_starts_nothing(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    [answering] = served.ready_pods("broken")
    rollout = served.deploy("broken", served.model(3, loading=RAISING), 2, **KSERVE)
    assert (rollout.state, rollout.serving) == (RolloutState.FAILED, 1)
    assert rollout.failure is not None
    assert rollout.failure.category is FailureCategory.USER_ERROR
    assert "the weights are gone" in rollout.failure.message
    target = served.target()
    first = target.revisions("broken")[0]
    plan = target.repeat(first, 3, "2026-01-01T00:00:00Z")
    target.check(plan)
    target.apply(plan)
    again = target.wait("broken", 3, 60)
    assert (again.state, again.serving) == (RolloutState.READY, 3)
    assert served.ready_pods("broken") == {answering}
    assert served.answer("broken") == 2


def test_an_update_loses_no_request_and_more_replicas_restart_none(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    model = served.model(4)
    with steady_load(served.ask_once("steady")) as load:
        load.reaches(10)
        assert served.deploy("steady", model, 2, **KSERVE).state is RolloutState.READY
    assert set(load.answers) == {2, 4}
    until(lambda: len(served.ready_pods("steady")) == 1, "the replica before has ended")
    [first] = served.ready_pods("steady")
    more = served.deploy("steady", model, 3, num_replicas=2, **KSERVE)
    assert (more.state, more.serving, more.ready) == (RolloutState.READY, 3, 2)
    assert first in served.ready_pods("steady")
    between = served.deploy("steady", model, 4, num_replicas=1, max_replicas=3, **KSERVE)
    assert between.state is RolloutState.READY
    with served.cluster.api_client() as api:
        found = client.AutoscalingV2Api(api).read_namespaced_horizontal_pod_autoscaler(
            "steady-predictor", served.namespace
        )
    assert (found.spec.min_replicas, found.spec.max_replicas) == (1, 3)


def test_the_documented_rights_are_enough_and_without_them_nothing_is_touched(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    needed = {"deployments": ["get", "list"], "horizontalpodautoscalers": ["get"]}
    rules = documented_rules()
    for rule in rules:
        rule["verbs"] = needed.get(rule["resources"][0], rule["verbs"])
    model, mine = served.model(6), {**KSERVE, "kubeconfig": str(kubeconfig_of(served, rules))}
    assert served.deploy("rights", model, 1, **mine).state is RolloutState.READY
    fewer = [rule for rule in rules if "inferenceservices" not in rule["resources"]]
    given = served.given(**{**mine, "kubeconfig": str(kubeconfig_of(served, fewer))})
    target = KubernetesTarget(KubernetesTargetSettings(**given), served.uri)
    with pytest.raises(AccessDeniedError, match="inferenceservices"):
        target.delete("rights")
    with pytest.raises(AccessDeniedError, match="inferenceservices"):
        target.get("rights")
    assert "rights" not in [found.name for found in target.rollouts()]
    assert served.target().get("rights").state is RolloutState.READY


def test_a_deployment_stays_of_its_kind(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    target, plan = served.plan("steady", served.model(5), 9)
    with pytest.raises(ConfigError, match="served by an InferenceService, and cannot become a De"):
        target.check(plan)
    with pytest.raises(ConfigError, match="served by an InferenceService"):
        target.apply(plan)


def test_a_name_whose_deployment_is_somebody_elses_is_refused(
    served: K8sDeployments, rollouts: dict[str, Rollout]
) -> None:
    target, plan = served.plan("steady-predictor", served.model(5))
    with pytest.raises(ConflictError, match="that is of the deployment 'steady'"):
        target.check(plan)
    nowhere: dict[str, Any] = {"node_selector": {"mlflow-exec-test": "nowhere"}}
    served.apply("mine-predictor", served.model(5), **nowhere)
    target, plan = served.plan("mine", served.model(5), **KSERVE)
    with pytest.raises(ConflictError, match="a Deployment 'mine-predictor' that is of"):
        target.check(plan)


def test_mlflows_command_line(
    served: K8sDeployments,
    kserve: None,
    k8s_tracking: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", k8s_tracking.url)
    monkeypatch.setenv("KUBECONFIG", str(served.cluster.kubeconfig))
    monkeypatch.setenv("IRIS_TOKEN", TOKEN)
    config = {k: v for k, v in served.given(**KSERVE).items() if k != "kubeconfig"}
    deployments = get_deploy_client(served.uri)
    path = str(save_model(served.folder, 6))
    token = {"token": {"env": "IRIS_TOKEN"}}
    deployments.create_deployment("iris", path, config={**config, **token})
    assert deployments.predict("iris", ROW)["predictions"] == [6]
    status, _ = served.ask_once("iris")()
    assert status == 401
    # The address at which KServe's own routes end is another Service; the answer is the same.
    other = served.ask_once("iris-predictor", {"X-Mlflow-Exec-Token": TOKEN})
    assert json.loads(other()[1])["predictions"] == [6]
    place = ("-n", "iris", "-t", served.uri)
    rendered = CliRunner().invoke(cli, ["deployments", "render", *place, "-C", "num_replicas=2"])
    assert "kind: InferenceService" in rendered.output
    assert TOKEN not in rendered.output
    changed = CliRunner().invoke(cli, ["deployments", "diff", *place, "-C", "drain_s=6"])
    assert "terminationGracePeriodSeconds" in changed.output
    deployments.delete_deployment("iris")
    assert served.everything("iris") == []
    with pytest.raises(client.ApiException, match="404"):
        inference_service(served, "iris")
