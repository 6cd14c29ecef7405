"""Dashboards that speak TLS, and Serve as the owner of a cluster has started it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_exec.clients.ports import free_port
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.runs.deploy import place
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.commands import run
from mlflow_exec.testing.served_models import BODY, JSON
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.clusters.ray_head import RayHead
from tests.mlflow.ray_deployments import SMALL
from tests.unit.tls_relay import Authority, TlsRelay


@pytest.fixture(scope="module")
def encrypted(
    ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The tests' Ray behind TLS: the target's URI, and the file with the authority."""
    parts = urlsplit(ray_cluster.address)
    if parts.scheme != "http":
        unavailable("this Ray has a certificate of its own")
    authority = Authority.make(tmp_path_factory.mktemp("tls") / "certificates", "127.0.0.1")
    relay = TlsRelay(parts.hostname or "", parts.port or 80, authority)
    yield f"ray-serve+https://127.0.0.1:{relay.port}", authority.ca_cert
    relay.close()


@pytest.fixture
def token(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    if ray_cluster.token_file is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", ray_cluster.token_file)


@pytest.mark.usefixtures("token")
def test_a_dashboard_with_tls_is_trusted_by_its_authority(
    deployments: BaseDeploymentClient,
    encrypted: tuple[str, str],
    one: str,
) -> None:
    uri, ca_cert = encrypted
    client = get_deploy_client(uri)
    made = client.create_deployment("safe", one, config={**SMALL, "ca_cert": ca_cert})
    assert made["state"] == "READY"
    shown = run("mlflow-exec", "deployments", "list", "-t", uri, "-C", f"ca_cert={ca_cert}")
    assert "safe" in shown
    target = place(uri, {"ca_cert": ca_cert}).target
    assert target.request("safe", "/invocations", BODY, JSON).status == 200
    client.delete_deployment("safe", config={"ca_cert": ca_cert})
    assert "safe" not in [found["name"] for found in deployments.list_deployments()]


@pytest.mark.usefixtures("token", "deployments")
def test_another_authority_is_refused_in_one_sentence(
    encrypted: tuple[str, str], one: str, tmp_path: Path
) -> None:
    uri, _ = encrypted
    other = Authority.make(tmp_path / "certificates", "127.0.0.1").ca_cert
    create = ("mlflow", "deployments", "create", "-t", uri, "--name", "unsafe", "-m", one)
    said = run(*create, "-C", f"ca_cert={other}", fails=True).strip()
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert "the certificate is not accepted" in sentence
    assert "set 'ca_cert' to a file with its authority" in sentence
    assert "Traceback" not in said


def test_what_no_node_can_hold_is_refused_before_anything_is_sent(
    deployments: BaseDeploymentClient, served_on: Callable[[], ServeClient], one: str
) -> None:
    largest = max(node["CPU"] for node in served_on().node_resources())
    says = f"no node can hold a replica of 1000 CPU; the largest have {largest:g} CPU; ask for less"
    for api in ("declarative", "imperative"):
        config = {**SMALL, "resources.cpu": "1000", "api": api}
        with pytest.raises(MlflowException, match=says):
            deployments.create_deployment("huge", one, config=config)
    assert "huge" not in served_on().applications()["applications"]


def test_a_model_of_another_python_is_refused_before_anything_is_sent(
    deployments: BaseDeploymentClient, served_on: Callable[[], ServeClient], one: str
) -> None:
    here = "{}.{}".format(*sys.version_info)
    until(lambda: served_on().python_version() == here, "the dashboard tells its Python", 60)
    config = {**SMALL, "patch": json.dumps({"args": {"python": "3.6"}})}
    with pytest.raises(MlflowException, match=f"logged with Python 3.6, and .* runs {here}"):
        deployments.create_deployment("older", one, config=config)
    assert "older" not in served_on().applications()["applications"]


def doctor(uri: str) -> dict[str, Any]:
    found = json.loads(run("mlflow-exec", "doctor", "-t", uri, "-o", "json"))
    return {item["subject"].removeprefix(f"{uri}: "): item for item in found}


def test_doctor_tells_who_runs_serve_with_its_own_proxy_of_haproxy(
    own_ray: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(own_ray.token_file))
    uri = own_ray.address.replace("http", "ray-serve")
    assert "does not run yet" in doctor(uri)["serve"]["detail"]
    client = ServeClient(own_ray.address, token=own_ray.token_file.read_text())
    options = {"host": "127.0.0.1", "port": free_port()}
    client.put_applications({"http_options": options, "applications": []})
    until(lambda: _healthy(client.applications()), "its proxy answers", 60)
    proxy = doctor(uri)["proxy"]
    assert proxy["detail"] == "Serve's own, in Python"
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in proxy["way_on"]


def _healthy(details: dict[str, Any]) -> bool:
    return [proxy["status"] for proxy in details["proxies"].values()] == ["HEALTHY"]


def test_doctor_has_nothing_to_say_of_one_with_haproxy(
    deployments: BaseDeploymentClient, one: str
) -> None:
    deployments.create_deployment("any", one, config=SMALL)  # what starts Serve
    found = doctor("ray-serve")
    assert (found["proxy"]["detail"], found["proxy"]["way_on"]) == ("HAProxy", "")
    deployments.delete_deployment("any")
