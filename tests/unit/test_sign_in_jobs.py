"""What a job is given of its submitter's sign-in, and what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.job_sign_in import JobSignIn, sign_in_of_deployment, sign_in_of_job
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.settings import (
    KubernetesSettings,
    KubernetesTargetSettings,
    RayServeSettings,
    RaySettings,
    TargetSettings,
    YarnSettings,
    parse_settings,
)
from tests.unit.test_kubernetes_plan import order_of, plan

URI = "https://mlflow.example"
PASSWORD = "a-password-that-nobody-may-see"
KINDS: dict[str, tuple[Any, Any]] = {
    "k8s": (KubernetesScheduler, KubernetesSettings),
    "ray": (RayScheduler, RaySettings),
    "yarn": (YarnScheduler, YarnSettings),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("USERNAME", "PASSWORD", "TOKEN", "AUTH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_EXEC_AUTH_CONFIG", str(tmp_path / "auth.yaml"))
    return monkeypatch


def signs_in_by(patch: pytest.MonkeyPatch, flow: str, **settings: object) -> None:
    patch.setenv("MLFLOW_TRACKING_AUTH", "mlflow-exec")
    patch.setenv("MLFLOW_EXEC_AUTH", flow)
    for name, value in settings.items():
        patch.setenv(f"MLFLOW_EXEC_AUTH_{name.upper()}", str(value))


def job(backend: str, uri: str = URI, *, here: bool = False, **config: Any) -> JobSignIn:
    scheduler_class, settings_class = KINDS[backend]
    settings = parse_settings(settings_class, config, "the test")
    scheduler: Scheduler = scheduler_class(settings)
    scheduler.shares_this_machine = lambda: here  # type: ignore[method-assign]
    return sign_in_of_job(settings, uri, scheduler)


def sent(found: JobSignIn) -> dict[str, str]:
    return {name: secret.reveal() for name, secret in found.secrets.items()}


TOKEN_FILE = {"MLFLOW_TRACKING_TOKEN": {"file": "/run/token"}}


@pytest.mark.parametrize("backend", KINDS)
def test_without_a_provider_the_variables_are_sent_as_before(
    backend: str, environment: pytest.MonkeyPatch
) -> None:
    assert sent(job(backend)) == {}
    environment.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    assert sent(job(backend)) == {"MLFLOW_TRACKING_TOKEN": "a-token"}


@pytest.mark.parametrize("backend", KINDS)
def test_a_job_that_is_told_where_its_token_is_gets_nothing_else(
    backend: str, environment: pytest.MonkeyPatch
) -> None:
    signs_in_by(environment, "exec", command="get-token")
    environment.setenv("MLFLOW_TRACKING_USERNAME", "me")
    environment.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    found = job(backend, secrets=TOKEN_FILE)
    assert sent(found) == {}, "MLflow would take a user and a password before the token"
    assert found.settings.secrets["MLFLOW_TRACKING_TOKEN"].file == "/run/token"


@pytest.mark.parametrize(
    ("flow", "settings"),
    [
        ("exec", {"command": "get-token"}),
        ("kerberos", {}),
        ("oidc", {"issuer": "https://i", "client_id": "c", "grant": "device_code"}),
        ("azure", {"scope": "api://mlflow/.default"}),
        ("google-iap", {"audience": "https://mlflow"}),
        ("oci", {}),
        ("token-file", {"token_file": "/home/me/token"}),
    ],
)
@pytest.mark.parametrize("backend", KINDS)
def test_what_a_job_cannot_do_is_refused_with_the_way_on(
    backend: str, flow: str, settings: dict[str, str], environment: pytest.MonkeyPatch
) -> None:
    signs_in_by(environment, flow, **settings)
    with pytest.raises(ConfigError) as told:
        job(backend)
    text = str(told.value)
    assert f"MLFLOW_TRACKING_AUTH=mlflow-exec ({flow}), and the job could not" in text
    assert "'secrets': {MLFLOW_TRACKING_TOKEN: {file: PATH}}" in text
    assert ("tracking_token_audience" in text) == (backend == "k8s")


@pytest.mark.parametrize("backend", ["k8s", "yarn"])
def test_a_user_and_a_password_travel_out_of_sight(
    backend: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    signs_in_by(environment, "basic-file", username="me", password_file=tmp_path / "password")
    found = job(backend)
    assert sent(found) == {
        "MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }  # fmt: skip
    assert PASSWORD not in repr(found)
    with pytest.raises(ConfigError, match="and the job could not"):
        job("ray")


def test_a_token_file_is_read_by_jobs_on_this_machine(environment: pytest.MonkeyPatch) -> None:
    signs_in_by(environment, "token-file", token_file="/home/me/token")
    found = job("ray", here=True)
    assert found.settings.secrets["MLFLOW_TRACKING_TOKEN"].file == "/home/me/token"


def test_mlflows_own_provider_for_kubernetes_is_the_token_of_the_pod(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    token = job("k8s").settings.secrets["MLFLOW_TRACKING_TOKEN"]
    assert token.file == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    with pytest.raises(ConfigError, match="signs in by MLFLOW_TRACKING_AUTH=kubernetes, and"):
        job("ray")
    environment.setenv("MLFLOW_TRACKING_AUTH", "somebody-elses")
    with pytest.raises(ConfigError, match="signs in by MLFLOW_TRACKING_AUTH=somebody-elses, and"):
        job("k8s")


def test_a_provider_in_the_jobs_own_environment_is_its_own_business(
    environment: pytest.MonkeyPatch,
) -> None:
    signs_in_by(environment, "exec", command="get-token")
    found = job("k8s", env={"MLFLOW_TRACKING_AUTH": "mlflow-exec", "MLFLOW_EXEC_AUTH": "exec"})
    assert found.settings.env["MLFLOW_TRACKING_AUTH"] == "mlflow-exec"
    assert sent(found) == {}


def test_a_store_that_is_no_server_needs_no_sign_in(environment: pytest.MonkeyPatch) -> None:
    signs_in_by(environment, "exec", command="get-token")
    assert sent(job("ray", "sqlite:////tmp/a.db")) == {}


def deployment(target: str, model_uri: str = "models:/wine/1", **config: Any) -> dict[str, str]:
    classes: dict[str, type[TargetSettings]] = {
        "k8s": KubernetesTargetSettings, "ray-serve": RayServeSettings,
    }  # fmt: skip
    settings_class = classes[target]
    settings: TargetSettings = parse_settings(settings_class, config, "the test")
    found = sign_in_of_deployment(settings, URI, model_uri)
    return {name: secret.reveal() for name, secret in found.items()}


def test_replicas_sign_in_to_download_a_model_of_the_server(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    signs_in_by(environment, "basic-file", username="me", password_file=tmp_path / "password")
    assert deployment("k8s")["MLFLOW_TRACKING_PASSWORD"] == PASSWORD
    assert deployment("ray-serve", "s3://models/wine") == {}
    assert deployment("ray-serve", secrets=TOKEN_FILE) == {}
    with pytest.raises(ConfigError, match="the deployment's replicas could not; name a file"):
        deployment("ray-serve")
    environment.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    with pytest.raises(ConfigError, match="or choose 'model_source: package'"):
        deployment("k8s")


def test_one_of_two_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        job("k8s", secrets=TOKEN_FILE, tracking_token_audience="mlflow")


def test_a_token_of_the_service_account_is_projected_and_in_no_variable() -> None:
    made = plan(tracking_token_audience="mlflow")
    spec = made.objects[0]["spec"]["template"]["spec"]
    (volume,) = [item for item in spec["volumes"] if item["name"] == "mlflow-exec-token"]
    assert volume["projected"] == {
        "sources": [{"serviceAccountToken": {"path": "token", "audience": "mlflow"}}]
    }
    assert {"name": "mlflow-exec-token", "mountPath": "/mlflow-exec-token", "readOnly": True} in (
        spec["containers"][0]["volumeMounts"]
    )
    secrets = order_of(made)["secrets"]
    assert secrets == {"MLFLOW_TRACKING_TOKEN": {"file": "/mlflow-exec-token/token"}}
