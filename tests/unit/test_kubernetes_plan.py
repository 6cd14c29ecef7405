"""What is asked of a backend, as Kubernetes objects."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.runtime import RUNTIME_FILES
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.kubernetes.plan import make_plan
from mlflow_exec.settings import KubernetesSettings, parse_settings
from mlflow_exec.source import Bundle

RUN = "0123456789abcdef" * 2
NAME = f"mlflow-{RUN}-1"


def plan(
    source: dict[str, Any] | None = None,
    bundle: Bundle | None = None,
    secrets: dict[str, Secret] | None = None,
    manager: str = "local",
    plan_secrets: dict[str, Any] | None = None,
    **config: Any,
) -> Plan:
    config |= {"secrets": plan_secrets} if plan_secrets else {}
    settings = parse_settings(KubernetesSettings, {"image": "python", **config}, "test")
    order = {
        "format": 1,
        "run_id": RUN,
        "source": source or {"kind": "directory", "path": "/x"},
        "environment": {"manager": manager},
    }
    spec = JobSpec(RUN, "7", 1, order, settings, bundle, secrets or {})
    return make_plan(spec, settings, "team-a")


def job(**config: Any) -> dict[str, Any]:
    return dict(plan(**config).objects[0])


def pod(**config: Any) -> dict[str, Any]:
    spec: dict[str, Any] = job(**config)["spec"]["template"]["spec"]
    return spec


def container(**config: Any) -> dict[str, Any]:
    (main,) = pod(**config)["containers"]
    return dict(main)


def variables(**config: Any) -> dict[str, Any]:
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container(**config)["env"]}


def order_of(made: Plan) -> dict[str, Any]:
    files = next(item for item in made.objects if item["kind"] == "ConfigMap")
    order: dict[str, Any] = json.loads(files["data"]["order.json"])
    return order


def patched(spec: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"template": {"spec": spec}}}


def test_names_and_labels() -> None:
    labels = {
        "app.kubernetes.io/managed-by": "mlflow-exec",
        "mlflow-exec/run-id": RUN,
        "mlflow-exec/experiment-id": "7",
    }
    for item in plan(secrets={"T": Secret.of("v", "x")}).objects:
        assert item["metadata"]["name"] == NAME
        assert item["metadata"]["namespace"] == "team-a"
        assert item["metadata"]["labels"] == labels
    assert job()["spec"]["template"]["metadata"]["labels"] == labels


def test_labels_of_the_user_never_replace_ours() -> None:
    labels = job(labels={"mlflow-exec/run-id": "x", "team": "a"})["metadata"]["labels"]
    assert (labels["mlflow-exec/run-id"], labels["team"]) == (RUN, "a")


def test_the_order_of_creation() -> None:
    made = plan(secrets={"T": Secret.of("v", "x")})
    assert [item["kind"] for item in made.objects] == ["Job", "Secret", "ConfigMap"]
    assert made.objects[0]["spec"]["suspend"] is True
    assert [item["kind"] for item in plan().objects] == ["Job", "ConfigMap"]


def test_retries_belong_to_the_controller() -> None:
    spec = job(retries=2, infra_retries=5, deadline_s=90)["spec"]
    assert spec["backoffLimitPerIndex"] == 2
    assert (spec["completionMode"], spec["completions"], spec["maxFailedIndexes"]) == (
        "Indexed", 1, 0,
    )  # fmt: skip
    assert spec["podReplacementPolicy"] == "Failed"
    actions = [rule["action"] for rule in spec["podFailurePolicy"]["rules"]]
    assert actions == ["Ignore", "Ignore", "FailJob"]
    assert spec["activeDeadlineSeconds"] == 90
    retry = order_of(plan(retries=2, infra_retries=5, deadline_s=90))
    assert (retry["retry"]["retries"], retry["retry"]["infra_retries"]) == (2, 5)
    assert retry["deadline_s"] is None, "one clock, not two"


def test_no_deadline_is_no_field() -> None:
    assert "activeDeadlineSeconds" not in job()["spec"]


def test_resources() -> None:
    asked = container(resources={"cpu": "500m", "memory": "1Gi", "gpu": 2})["resources"]
    gib = str(1024**3)
    assert asked == {
        "requests": {"cpu": "500m", "memory": gib, "nvidia.com/gpu": "2"},
        "limits": {"memory": gib, "nvidia.com/gpu": "2"},
    }
    amd = container(resources={"gpu": 1}, gpu_resource="amd.com/gpu")["resources"]
    assert amd["limits"] == {"amd.com/gpu": "1"}


@pytest.mark.parametrize("value", ["$(HOME)", "$$", "a$b", "$HOME", "plain"])
def test_the_kubelet_expands_nothing(value: str) -> None:
    assert variables(env={"V": value})["V"] == value.replace("$", "$$")


def test_secrets_are_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "hunter2")
    made = plan_with_secrets()
    found = {v["name"]: v.get("valueFrom") for v in made.objects[0]["spec"]["template"]["spec"][
        "containers"][0]["env"]}  # fmt: skip
    assert found["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert found["SAME_KEY"] == {"secretKeyRef": {"name": "hf", "key": "SAME_KEY"}}
    assert found["MINE"] == {"secretKeyRef": {"name": NAME, "key": "MINE"}}
    assert "hunter2" not in made.to_yaml() + repr(made)
    assert made.secrets["MINE"].reveal() == "hunter2"


def plan_with_secrets() -> Plan:
    settings = parse_settings(
        KubernetesSettings,
        {
            "image": "python",
            "secrets": {
                "HF_TOKEN": {"secret": "hf", "key": "token"},
                "SAME_KEY": {"secret": "hf"},
                "MINE": {"env": "HERE"},
            },
        },
        "test",
    )
    order = {"format": 1, "source": {"kind": "directory", "path": "/x"}}
    return make_plan(JobSpec(RUN, "7", 1, order, settings), settings, "team-a")


def test_the_first_step_is_told_which_variables_are_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERE", "hunter2")
    order = order_of(plan_with_secrets())
    assert order["secret_names"] == ["HF_TOKEN", "MINE", "SAME_KEY"]
    assert order["secrets"] == {}
    entry = {"name": "DB", "valueFrom": {"secretKeyRef": {"name": "db", "key": "x"}}}
    by_patch = patched({"containers": [{"name": "job", "env": [entry]}]})
    tracking = {"MLFLOW_TRACKING_TOKEN": Secret.of("hunter2", "a test")}
    order = order_of(plan(patch=by_patch, secrets=tracking))
    assert set(order["secret_names"]) == {"DB", "MLFLOW_TRACKING_TOKEN"}


def test_a_secret_in_a_file_of_the_pod_is_a_reference_in_the_order() -> None:
    secrets = {"HF_TOKEN": {"file": "/vault/hf"}}
    assert order_of(plan(plan_secrets=secrets))["secrets"] == {"HF_TOKEN": {"file": "/vault/hf"}}
    assert "HF_TOKEN" not in variables(plan_secrets=secrets)


def test_credentials_of_the_tracking_server_can_be_named_by_secrets() -> None:
    held = {"MLFLOW_TRACKING_TOKEN": Secret.of("of this process", "a test")}
    named = {"MLFLOW_TRACKING_TOKEN": {"secret": "mlflow", "key": "token"}}
    made = plan(secrets=held, plan_secrets=named)
    assert made.secrets == {}
    reference = {"secretKeyRef": {"name": "mlflow", "key": "token"}}
    assert variables(secrets=held, plan_secrets=named)["MLFLOW_TRACKING_TOKEN"] == reference


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
@pytest.mark.parametrize(
    "entry",
    [
        {"name": "HF_TOKEN", "value": "hunter2"},
        {"name": "PIP_INDEX_URL", "value": "https://u:hunter2@index"},
    ],
)
def test_a_literal_secret_in_a_patch_is_refused_with_the_way_on(
    kind: str, entry: dict[str, str]
) -> None:
    patch = patched({kind: [{"name": "job", "env": [entry]}]})
    with pytest.raises(TemplateError, match=rf"{entry['name']}: .*'secrets'") as refused:
        plan(patch=patch)
    assert "hunter2" not in str(refused.value)
    plan(patch=patch, not_secret=[entry["name"]])


def test_a_literal_secret_in_a_template_of_mlflows_backend_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "job.yaml"
    entry = {"name": "HF_TOKEN", "value": "hunter2"}
    template.write_text(json.dumps(patched({"containers": [{"name": "x", "env": [entry]}]})))
    with pytest.raises(TemplateError, match=r"HF_TOKEN: .*'secrets'"):
        plan(kube_job_template_path=str(template))


def test_a_url_with_credentials_anywhere_in_the_job_is_refused() -> None:
    with pytest.raises(TemplateError, match="'secrets'"):
        plan(annotations={"from": "https://u:hunter2@host/x"})
    plan(annotations={"vault.hashicorp.com/agent-inject-secret-hf": "kv/hf"})


@pytest.mark.parametrize("outcome", [0, 3])
def test_the_clone_masks_a_password_that_a_server_repeats(tmp_path: Path, outcome: int) -> None:
    password = "p*[a]s$w%s\\\\n"
    (tmp_path / "password").write_text(password)
    git = tmp_path / "git"
    git.write_text(
        f"#!/bin/sh\ncase $1 in submodule) cat {tmp_path}/said; exit {outcome};; esac\n"
    )
    git.chmod(0o755)
    said = f"remote: {password} and {password}!\n no end {password}"
    (tmp_path / "said").write_text(said)
    source = {"kind": "git", "uri": "https://h/p.git", "commit": "c" * 40}
    script = pod(source=source, git_secret="key")["initContainers"][0]["command"][-1]
    script = re.sub("/mlflow-exec-git|/mlflow-exec-source|/tmp(?=/)", str(tmp_path), script)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GIT_URI": "x", "GIT_COMMIT": "x"}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout == "remote: *** and ***!\n no end ***\n"
    assert done.returncode == (1 if outcome else 0)


def test_a_queue_of_kueue() -> None:
    assert job(queue="gpu")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"


def test_the_bundle_travels_beside_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"PK")
    made = plan({"kind": "archive"}, Bundle(tmp_path / "b.zip", "a" * 64, 2, 1))
    assert set(made.data) == {*RUNTIME_FILES, "source.zip"}
    source = order_of(made)["source"]
    assert (source["path"], source["sha256"]) == ("/mlflow-exec/source.zip", "a" * 64)
    assert "PK" not in made.to_yaml()


def test_a_bundle_beyond_a_configmap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"x" * (1 << 20))
    with pytest.raises(ConfigError, match=r"source: configmap: .* bytes"):
        plan({"kind": "archive"}, Bundle(tmp_path / "b.zip", "a" * 64, 1 << 20, 1))


def test_git_clones_in_an_init_container() -> None:
    source = {"kind": "git", "uri": "https://h/$(X).git", "commit": "c" * 40, "subdirectory": "s"}
    spec = pod(source=source, git_image="git:1", git_secret="key")
    (init,) = spec["initContainers"]
    assert init["image"] == "git:1"
    env = {item["name"]: item["value"] for item in init["env"]}
    assert (env["GIT_URI"], env["GIT_COMMIT"]) == ("https://h/$$(X).git", "c" * 40)
    assert "h/$" not in init["command"][-1], "the URI is no code"
    assert {"name": "git-secret", "secret": {"secretName": "key", "defaultMode": 0o400}} in spec[
        "volumes"
    ]
    assert order_of(plan(source=source))["source"]["subdirectory"] == "s"


@pytest.mark.parametrize(
    ("setting", "volume", "sub_path"),
    [
        ({"claim": "envs", "sub_path": "a"}, {"persistentVolumeClaim": {"claimName": "envs"}}, "a"),
        ({"host_path": "/var/c"}, {"hostPath": {"path": "/var/c", "type": "DirectoryOrCreate"}},
         None),
    ],
    ids=["claim", "host path"],
)  # fmt: skip
def test_built_environments_are_kept_where_the_setting_says(
    setting: dict[str, str], volume: dict[str, Any], sub_path: str | None
) -> None:
    config: dict[str, Any] = {"environment_cache": setting, "environment_cache_limit": "1Gi"}
    config["manager"] = "uv"
    kept = order_of(plan(**config))["environment_cache"]
    assert (kept["limit_bytes"], kept["max_age_s"]) == (1024**3, 86400)
    (mount,) = [m for m in container(**config)["volumeMounts"] if m["mountPath"] == kept["path"]]
    assert mount.get("subPath") == sub_path
    assert {"name": mount["name"], **volume} in pod(**config)["volumes"]
    for without in ({**config, "manager": "local"}, {"manager": "uv"}):
        assert order_of(plan(**without))["environment_cache"] is None
        assert mount["name"] not in {v["name"] for v in pod(**without)["volumes"]}


def test_an_image_is_needed() -> None:
    with pytest.raises(ConfigError, match="image: none is given"):
        plan(image=None)


def test_settings_of_the_pod() -> None:
    affinity: dict[str, Any] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}
    }
    spec = pod(
        service_account="train", priority_class="low", node_selector={"disk": "ssd"},
        tolerations=[{"key": "gpu", "operator": "Exists"}], affinity=affinity,
        image_pull_secrets=["registry"], image_pull_policy="Always",
    )  # fmt: skip
    assert spec["serviceAccountName"] == "train"
    assert spec["priorityClassName"] == "low"
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["affinity"] == affinity
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert spec["restartPolicy"] == "Never"


def test_a_patch_is_merged_last() -> None:
    spec = pod(patch=patched({"containers": [{"name": "job", "tty": True}], "hostNetwork": True}))
    assert spec["hostNetwork"] is True
    assert spec["containers"][0]["tty"] is True
    assert spec["containers"][0]["image"] == "python"


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"metadata": {"name": "other"}}, "metadata.name"),
        ({"metadata": {"namespace": "other"}}, "the setting 'namespace'"),
        ({"metadata": {"labels": {"mlflow-exec/run-id": None}}}, "mlflow-exec/run-id"),
        ({"spec": {"template": {"metadata": {"labels": None}}}}, "finds the job"),
        (patched({"containers": [{"name": "job", "$patch": "delete"}]}), "container 'job'"),
        (patched({"containers": [{"image": "x"}]}), "no 'name'"),
        ("no-such-file.yaml", "cannot be read"),
    ],
)
def test_a_patch_that_would_lose_the_job_is_refused(patch: Any, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        plan(patch=patch)


def test_a_template_of_mlflows_own_backend(tmp_path: Path) -> None:
    template = tmp_path / "job.yaml"
    template.write_text("""
metadata: {name: "{replaced}", namespace: mlflow, labels: {team: a}}
spec:
  backoffLimit: 4
  template:
    spec:
      containers:
        - {name: "{replaced}", image: "{replaced}", command: ["{replaced}"], tty: true}
        - {name: side, image: side}
      restartPolicy: OnFailure
""")
    made = job(**{"kube-job-template-path": str(template)})
    assert made["metadata"]["name"] == NAME
    assert made["metadata"]["labels"]["team"] == "a"
    assert "backoffLimit" not in made["spec"]
    spec = made["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never"
    first, side = spec["containers"]
    assert (first["name"], first["image"], first["tty"]) == ("job", "python", True)
    assert first["command"][0] == "python3"
    assert side == {"name": "side", "image": "side"}
