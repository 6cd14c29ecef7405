"""``mlflow-exec render reconciler``: what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from mlflow_exec.cli import cli
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.rendering import rendered_reconciler
from mlflow_exec.schedulers.kubernetes.plan import LABEL_MANAGED

GIVEN = {"image": "team/mlflow-exec:1", "tracking_uri": "https://mlflow:5000", "namespace": "lab"}


def render(config: dict[str, Any], *options: str) -> Result:
    return CliRunner().invoke(cli, ["render", "reconciler", "-c", json.dumps(config), *options])


def rendered(**changes: Any) -> dict[str, dict[str, Any]]:
    """Return the objects in the namespace by their kind."""
    objects = rendered_reconciler({**GIVEN, **changes})
    found = {item["kind"]: item for item in objects if item["metadata"]["namespace"] == "lab"}
    assert sorted(found) == ["CronJob", "Role", "RoleBinding", "ServiceAccount"]
    return found


def refusal(**config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        rendered_reconciler(config)
    return str(caught.value)


def test_it_prints_documents_for_kubectl() -> None:
    result = render(GIVEN)
    assert result.exit_code == 0, result.output
    documents = list(yaml.safe_load_all(result.stdout))
    assert documents == json.loads(render(GIVEN, "--output", "json").stdout)["objects"]
    kinds = [item["kind"] for item in documents]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", "CronJob"]


def test_its_rights_are_those_that_it_uses() -> None:
    rights = {
        (resource, verb)
        for rule in rendered()["Role"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == {
        ("jobs", "get"), ("jobs", "list"), ("jobs", "patch"), ("jobs", "delete"),
        ("pods", "list"), ("pods/log", "get"), ("events", "list"),
    }  # fmt: skip


def test_the_one_right_outside_of_its_namespace_is_asked_for_by_name() -> None:
    objects = rendered_reconciler({**GIVEN, "read_cluster_id": True})
    outside = [item for item in objects if item["metadata"]["namespace"] == "kube-system"]
    assert [item["kind"] for item in outside] == ["Role", "RoleBinding"]
    assert outside[0]["rules"] == [
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"],
         "verbs": ["get"]},
    ]  # fmt: skip
    assert outside[1]["subjects"][0]["namespace"] == "lab"


def test_its_objects_are_not_taken_for_jobs() -> None:
    assert LABEL_MANAGED not in json.dumps(list(rendered().values()))


def test_credentials_are_references() -> None:
    def container(**changes: Any) -> dict[str, Any]:
        spec = rendered(**changes)["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        [found] = spec["containers"]
        return dict(found)

    plain = {item["name"]: item for item in container()["env"]}
    assert plain["MLFLOW_TRACKING_URI"]["value"] == "https://mlflow:5000"
    assert not [name for name in plain if "TOKEN" in name]
    given = {item["name"]: item for item in container(tracking_secret="mlflow")["env"]}
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        reference = {"name": "mlflow", "key": name, "optional": True}
        assert given[name] == {"name": name, "valueFrom": {"secretKeyRef": reference}}


def test_settings_reach_the_pod() -> None:
    found = rendered(
        image_pull_secrets=["registry"], schedule="@hourly", resources={"memory": "1Gi"},
        run_as_user=None, service_account_annotations={"role": "r"}, name="tidy", timeout_s=90,
    )  # fmt: skip
    assert found["ServiceAccount"]["metadata"]["annotations"] == {"role": "r"}
    assert {item["metadata"]["name"] for item in found.values()} == {"tidy"}
    assert found["CronJob"]["spec"]["schedule"] == "@hourly"
    job = found["CronJob"]["spec"]["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] == 90
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == "tidy"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert "runAsUser" not in pod["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    resources = {"requests": {"cpu": "100m", "memory": str(1024**3)},
                 "limits": {"memory": str(1024**3)}}  # fmt: skip
    assert pod["containers"][0]["resources"] == resources
    assert pod["containers"][0]["command"][-2:] == ["--namespace", "lab"]


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "mlruns", "file:///mlruns", "http://localhost:5000",
            "http://127.0.0.1:5000", "databricks", "postgresql://db/mlflow"],
)  # fmt: skip
def test_a_tracking_server_that_no_pod_reaches(uri: str) -> None:
    assert "as pods reach it" in refusal(**{**GIVEN, "tracking_uri": uri})


def test_credentials_in_the_address_are_refused_and_not_shown() -> None:
    leaking = {**GIVEN, "tracking_uri": "https://me:hunter2@mlflow"}
    text = refusal(**leaking)
    assert "'tracking_secret'" in text
    del leaking["image"]
    assert "hunter2" not in text + refusal(**leaking)


def test_what_is_missing_or_unknown() -> None:
    text = refusal(tracking_uri="http://mlflow", schedul="@daily")
    assert "image: it is needed" in text
    assert "did you mean 'schedule'?" in text
    assert "name" in refusal(**GIVEN, name="Not A Name")
    assert "timeout_s" in refusal(**GIVEN, timeout_s=1)


def test_the_namespace_is_that_of_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    config = {key: value for key, value in GIVEN.items() if key != "namespace"}
    assert "set 'namespace'" in refusal(**config)
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}}
    kubeconfig = {"current-context": "c", "contexts": [context], "clusters": [], "users": []}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    objects = rendered_reconciler(config)
    assert {item["metadata"]["namespace"] for item in objects} == {"team-a"}


def test_a_projects_options_do_not_apply() -> None:
    result = render(GIVEN, "-P", "a=b")
    assert result.exit_code == 2
    assert "do not apply" in result.output
    result = CliRunner().invoke(cli, ["render", "elsewhere"])
    assert result.exit_code == 2
    assert "--backend" in result.output


@pytest.mark.parametrize("options", [("./reconciler",), ("reconciler",)])
def test_a_project_of_that_name(
    options: tuple[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    Path("reconciler").mkdir()
    Path("reconciler/MLproject").write_text('name: p\nentry_points: {main: {command: "true"}}')
    config = json.dumps({"image": "python", "namespace": "lab"})
    result = CliRunner().invoke(cli, ["render", *options, "-b", "k8s", "-c", config])
    assert result.exit_code == 0, result.output
    assert "kind: Job\n" in result.stdout


def test_ray_knows_no_namespace() -> None:
    result = CliRunner().invoke(cli, ["reconcile", "--backend", "ray", "--namespace", "lab"])
    assert isinstance(result.exception, ConfigError)
