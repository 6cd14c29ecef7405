"""Which objects a release becomes on Kubernetes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.releases import Revision
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes import KubernetesTarget
from mlflow_exec.targets.kubernetes.objects import selector
from mlflow_exec.targets.kubernetes.plan import make_plan, repeated
from mlflow_exec.targets.requirements import merged_requirements
from tests.unit.releases import model, packaged, release

Json = dict[str, Any]


def planned(number: int = 1, **given: Any) -> ReleasePlan:
    of = given.pop("of", None)
    found = release(KubernetesTargetSettings, number, of=of, **given)
    settings = found.settings
    assert isinstance(settings, KubernetesTargetSettings)
    return make_plan(found, settings, "team")


def the(plan: ReleasePlan, kind: str) -> Json:
    [found] = [item for item in plan.revision.objects if item["kind"] == kind]
    return dict(found)


def pod_of(plan: ReleasePlan) -> Json:
    found: Json = the(plan, "Deployment")["spec"]["template"]["spec"]
    return found


def variables(container: Json) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def order_of(plan: ReleasePlan) -> Json:
    text = variables(pod_of(plan)["containers"][0])["MLFLOW_EXEC_ORDER"]
    found: Json = json.loads(text.replace("$$", "$"))
    return found


def test_a_release_becomes_a_deployment_and_what_reaches_it() -> None:
    plan = planned(num_replicas=2)
    kinds = [item["kind"] for item in plan.revision.objects]
    assert kinds == ["Deployment", "Service", "PodDisruptionBudget", "ConfigMap"]
    assert the(plan, "Deployment")["spec"]["replicas"] == 2
    labels = the(plan, "Service")["metadata"]["labels"]
    assert (labels["mlflow-exec/deployment"], labels["mlflow-exec/revision"]) == ("iris", "1")
    assert Revision.from_json(plan.revision.to_json()) == plan.revision


def test_the_same_release_gives_the_same_objects() -> None:
    assert planned().revision == planned().revision
    assert planned().data == planned().data


def test_an_autoscaler_decides_on_the_number_of_replicas() -> None:
    plan = planned(max_replicas=5, resources={"cpu": "500m"})
    assert "replicas" not in the(plan, "Deployment")["spec"]
    spec = the(plan, "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 5)
    with pytest.raises(ConfigError, match=r"resources\.cpu"):
        planned(max_replicas=5)


def test_an_ingress_is_made_where_a_host_is_named() -> None:
    rule = the(planned(ingress_host="iris.example.org"), "Ingress")["spec"]["rules"][0]
    assert rule["host"] == "iris.example.org"


def test_a_pod_goes_only_after_what_it_has_begun() -> None:
    spec = pod_of(planned(request_timeout_s=100, drain_s=10))
    assert spec["terminationGracePeriodSeconds"] > 100 + 10


def test_the_models_requirements_come_with_the_runtimes_own() -> None:
    environment = order_of(planned(requirements=["scikit-learn==1.8.0"]))["environment"]
    assert environment["python"] == "3.11"
    lines = environment["dependencies"]
    assert {"mlflow==3.5.0", "scikit-learn==1.8.0"} <= set(lines)
    assert "scikit-learn==1.7.0" not in lines
    assert any(line.startswith("uvicorn") for line in lines)
    assert order_of(planned(any_python=True))["environment"]["python"] is None


def test_later_requirements_of_a_package_replace_earlier_ones() -> None:
    own, further = ["orjson>=3"], ["Scikit_Learn==2"]
    lines = merged_requirements(own, ["scikit-learn==1", "orjson==3.9 # pinned", "# no"], further)
    assert lines == ["orjson==3.9", "Scikit_Learn==2"]
    with pytest.raises(ConfigError, match="names a file"):
        merged_requirements([], ["-r more.txt"], [])


def test_nothing_is_installed_in_the_images_own_python() -> None:
    assert order_of(planned(environment="local"))["environment_cache"] is None
    with pytest.raises(ConfigError, match="nothing is installed"):
        planned(environment="local", requirements=["torch"])


def test_secrets_stand_as_references_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a-very-secret-value")
    monkeypatch.setenv("BEARER", "a-very-secret-token")
    plan = planned(
        secrets={"HF_TOKEN": {"secret": "hf", "key": "token"}, "DB_PASSWORD": {"env": "MINE"}},
        token={"env": "BEARER"},
    )
    assert "a-very-secret" not in plan.to_yaml() + repr(plan)
    model_container = variables(pod_of(plan)["containers"][0])
    assert model_container["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    own = {"secretKeyRef": {"name": "iris-secrets-1", "key": "DB_PASSWORD"}}
    assert model_container["DB_PASSWORD"] == own
    assert set(the(plan, "Secret")["stringData"]) == {"DB_PASSWORD", "mlflow-exec-token"}
    assert {name: secret.reveal() for name, secret in plan.secrets.items()} == {
        "DB_PASSWORD": "a-very-secret-value", "mlflow-exec-token": "a-very-secret-token",
    }  # fmt: skip
    monkeypatch.delenv("MINE")
    with pytest.raises(ConfigError, match="'MINE' is not set here"):
        planned(secrets={"DB_PASSWORD": {"env": "MINE"}})


def test_only_the_download_sees_the_tracking_servers_credentials() -> None:
    found = release(KubernetesTargetSettings)
    secrets = {"MLFLOW_TRACKING_TOKEN": Secret.of("x", "a test")}
    found = type(found)(**{**vars(found), "secrets": secrets})
    assert isinstance(found.settings, KubernetesTargetSettings)
    pod = pod_of(make_plan(found, found.settings, "team"))
    first, server = variables(pod["initContainers"][0]), variables(pod["containers"][0])
    assert "secretKeyRef" in first["MLFLOW_TRACKING_TOKEN"]
    assert first["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert not {"MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI"} & set(server)


def test_values_reach_the_containers_as_they_are() -> None:
    server = variables(pod_of(planned(env={"PATTERN": "$(HOME) $x {{ y }}"}))["containers"][0])
    assert server["PATTERN"] == "$$(HOME) $$x {{ y }}"  # as the kubelet reads it


def test_a_model_that_travels_along_is_named_by_its_content(tmp_path: Path) -> None:
    plan = planned(of=packaged(tmp_path))
    name = f"iris-model-{'a' * 12}"
    assert f"{name}/model.zip" in plan.data
    order = order_of(plan)["model"]
    assert order["package"] == "/mlflow-exec-package/model.zip"
    assert {"name": "mlflow-exec-package", "configMap": {"name": name}} in pod_of(plan)["volumes"]
    assert order["path"] != order_of(planned())["model"]["path"]


def test_a_model_that_is_too_large_to_travel_names_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "noise").write_bytes(os.urandom(1 << 20))
    with pytest.raises(ConfigError, match="log it to a tracking server that the pods reach"):
        planned(of=packaged(tmp_path))


def test_the_cache_is_where_the_setting_says() -> None:
    def place(**given: Any) -> Json:
        volumes = pod_of(planned(**given))["volumes"]
        return next(v for v in volumes if v["name"] == "mlflow-exec-cache")

    assert "emptyDir" in place()
    assert place(cache={"claim": "models"})["persistentVolumeClaim"] == {"claimName": "models"}
    assert place(cache={"host_path": "/var/models"})["hostPath"]["path"] == "/var/models"


def test_a_patch_is_of_the_deployment_or_of_the_kind_that_it_names() -> None:
    plan = planned(patch={"spec": {"minReadySeconds": 30}})
    assert the(plan, "Deployment")["spec"]["minReadySeconds"] == 30
    plan = planned(patch={"kind": "Service", "spec": {"type": "LoadBalancer"}})
    assert the(plan, "Service")["spec"]["type"] == "LoadBalancer"
    with pytest.raises(TemplateError, match="no Ingress to patch; known: Deployment, Service"):
        planned(patch={"kind": "Ingress", "spec": {}})


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"metadata": {"name": "other"}}, r"metadata\.name"),
        ({"metadata": {"labels": {"mlflow-exec/revision": None}}}, "mlflow-exec/revision"),
        ({"spec": {"template": {"metadata": {"labels": {"mlflow-exec/deployment": "x"}}}}},
         "mlflow-exec/deployment"),
        ({"spec": {"template": {"spec": {"containers": [
            {"name": "model", "$patch": "delete"}]}}}}, "'model'"),
        ({"spec": {"template": {"spec": {"containers": [
            {"name": "model", "env": [{"name": "API_KEY", "value": "abc"}]}]}}}}, "API_KEY"),
        ({"metadata": {"annotations": {"from": "https://me:pw@example.org"}}}, "credentials"),
    ],
)  # fmt: skip
def test_a_patch_takes_away_nothing_that_is_needed_and_shows_no_secret(
    patch: Json, words: str
) -> None:
    with pytest.raises(TemplateError, match=words):
        planned(patch=patch)


def test_a_template_of_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    ours = Path("deploy_templates/kubernetes/deployment.yaml.j2").read_text()
    mine = tmp_path / "mine.yaml.j2"
    mine.write_text(ours.replace("minReadySeconds: 2", "minReadySeconds: 9"))
    assert the(planned(template=str(mine)), "Deployment")["spec"]["minReadySeconds"] == 9
    mine.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n")
    with pytest.raises(TemplateError, match="one Deployment and one Service"):
        planned(template=str(mine))


def test_going_back_keeps_the_pods_that_may_still_run() -> None:
    first = planned(1).revision
    plan = repeated(first, 3, "2026-02-01T00:00:00Z")
    deployment = the(plan, "Deployment")
    assert deployment["metadata"]["labels"]["mlflow-exec/revision"] == "3"
    assert deployment["spec"]["template"] == first.objects[0]["spec"]["template"]
    assert (plan.revision.number, plan.revision.rolled_back_to) == (3, 1)
    assert not plan.data


@pytest.mark.parametrize(
    ("uri", "context", "namespace"),
    [
        ("k8s", None, None), ("k8s://", None, None), ("k8s://lab", "lab", None),
        ("k8s://lab/", "lab", None), ("k8s://lab/team", "lab", "team"),
        ("k8s:///team", None, "team"),
        ("k8s://arn%3Aaws%2Fprod/team", "arn:aws/prod", "team"),
    ],
)  # fmt: skip
def test_a_uri_names_context_and_namespace(
    uri: str, context: str | None, namespace: str | None
) -> None:
    target = KubernetesTarget(KubernetesTargetSettings(), uri)
    assert (target._context, target._named_namespace) == (context, namespace)


@pytest.mark.parametrize("uri", ["k8s:", "k8s:x", "kube://x", "k8s://a/b/c", "k8s://a/b?c=d"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="'k8s://context/namespace'"):
        KubernetesTarget(KubernetesTargetSettings(), uri)


@pytest.mark.parametrize("name", ["", "Iris", "iris,", "a/b"])
def test_what_is_no_name_is_refused_before_the_cluster_is_asked(name: str) -> None:
    """An empty one must never select the objects of all deployments."""
    settings = KubernetesTargetSettings(kubeconfig="/nowhere/at/all")
    target = KubernetesTarget(settings, "k8s")
    acts: list[Callable[[], object]] = [
        lambda: target.get(name), lambda: target.revisions(name), lambda: target.delete(name),
        lambda: target.request(name, "/ping", None, {}),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(ConfigError, match="name: up to 40 small letters"):
            act()
    assert selector("") != selector()


def test_a_models_version_is_known_to_its_server() -> None:
    plan = planned(of=model(version="3"))
    told = json.loads(variables(pod_of(plan)["containers"][0])["MLFLOW_EXEC_SCORING"])
    assert (told["name"], told["model_version"]) == ("iris", "3")
