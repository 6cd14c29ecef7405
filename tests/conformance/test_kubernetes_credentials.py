"""Credentials that expire while a job is followed are read anew; if still refused, it is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes import client as kubernetes
from kubernetes.config import incluster_config

from benchmarks.nobody import complete
from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_config import from_kubeconfig, in_cluster
from mlflow_exec.clients.kubernetes_watch import ListWatch
from mlflow_exec.errors import AccessDeniedError
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.kubernetes.follow import follow
from mlflow_exec.schedulers.kubernetes.objects import essential
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.kubernetes.rights import await_right
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.conformance.test_kubernetes_watch import Make
from tests.conformance.test_kubernetes_watch import client as client  # a fixture
from tests.conformance.test_kubernetes_watch import make as make  # a fixture
from tests.unit.tcp_link import TcpLink

ACCOUNT = "follower"
# The API server remembers for 10 s which tokens were good.
REMEMBERED_S = 30.0


@contextmanager
def counted(client: KubernetesClient) -> Iterator[list[str]]:
    """Note what this client asks; with credentials that it reads anew a question is still one."""
    asked: list[str] = []
    send = client._send

    def noted(method: str, path: str, *rest: Any, **more: Any) -> Any:
        asked.append(f"{method} {path}")
        return send(method, path, *rest, **more)

    client._send = noted  # type: ignore[method-assign]
    yield asked
    client._send = send  # type: ignore[method-assign]


@dataclass
class Account:
    """A service account, its current token in a file, and a connection that can be cut."""

    core: kubernetes.CoreV1Api
    namespace: str
    token: Path
    link: TcpLink

    def renew(self, *, hand_out: bool = True) -> None:
        """Make the account anew, so that its old token is refused; put a new one into the file."""
        self.core.delete_namespaced_service_account(ACCOUNT, self.namespace)
        self.create(hand_out=hand_out)

    def create(self, *, hand_out: bool = True) -> None:
        metadata = {"name": ACCOUNT}
        self.core.create_namespaced_service_account(self.namespace, {"metadata": metadata})
        if hand_out:
            made = self.core.create_namespaced_service_account_token(
                ACCOUNT, self.namespace, {"spec": {"expirationSeconds": 3600}}
            )
            self.token.write_text(made.status.token)

    def reconnect(self) -> None:
        """Break the connections; the next ones need a token that is good."""
        self.link.cut()
        self.link.mend()


@pytest.fixture
def account(
    kubernetes_cluster: KubernetesCluster, namespace: str, tmp_path: Path
) -> Iterator[Account]:
    with kubernetes_cluster.api_client() as api:
        rbac = kubernetes.RbacAuthorizationV1Api(api)
        rules = [{"apiGroups": ["", "batch"], "resources": ["jobs", "pods", "events"],
                  "verbs": ["get", "list", "watch"]}]  # fmt: skip
        rbac.create_namespaced_role(namespace, {"metadata": {"name": ACCOUNT}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
        binding = {"metadata": {"name": ACCOUNT}, "subjects": [subject], "roleRef": role}
        rbac.create_namespaced_role_binding(namespace, binding)
        await_right(api, namespace, ACCOUNT, rules[0])
        server = urlsplit(api.configuration.host)
        link = TcpLink(str(server.hostname), server.port or 443, at=str(server.hostname))
        made = Account(kubernetes.CoreV1Api(api), namespace, tmp_path / "token", link)
        made.create()
        yield made
        link.close()


def with_plugin(cluster: KubernetesCluster, account: Account, folder: Path) -> KubernetesClient:
    """Return a client whose tokens come from a plugin, which says nothing of when they expire."""
    plugin = folder / "plugin.py"
    plugin.write_text(
        "import json, pathlib\n"
        f"token = pathlib.Path({str(account.token)!r}).read_text()\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',\n"
        "                  'kind': 'ExecCredential', 'status': {'token': token}}))\n"
    )
    with cluster.api_client() as api:
        server = urlsplit(api.configuration.host)
        authority = str(api.configuration.ssl_ca_cert)
    command = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable,
        "args": [str(plugin)], "interactiveMode": "Never",
    }  # fmt: skip
    address = f"https://{server.hostname}:{account.link.port}"
    file = folder / "kubeconfig"
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c",
                      "cluster": {"server": address, "certificate-authority": authority}}],
        "users": [{"name": "u", "user": {"exec": command}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u",
                                               "namespace": account.namespace}}],
    }))  # fmt: skip
    return from_kubeconfig("c", str(file))


@pytest.fixture
def by_plugin(
    kubernetes_cluster: KubernetesCluster, account: Account, tmp_path: Path
) -> KubernetesClient:
    return with_plugin(kubernetes_cluster, account, tmp_path)


@pytest.fixture
def by_file(
    kubernetes_cluster: KubernetesCluster, account: Account, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> KubernetesClient:  # fmt: skip
    """A client as in a pod, whose token the kubelet writes anew; here the test does."""
    authority = tmp_path / "ca.crt"
    with kubernetes_cluster.api_client() as api:
        authority.write_text(Path(str(api.configuration.ssl_ca_cert)).read_text())
        host = str(urlsplit(api.configuration.host).hostname)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(account.link.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account.token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    return in_cluster()


def is_refused(client: KubernetesClient, namespace: str) -> bool:
    try:
        client.request("GET", object_path("jobs", namespace, group="batch/v1"))
    except AccessDeniedError:
        return True
    return False


@pytest.mark.parametrize("kind", ["by_plugin", "by_file"])
def test_a_job_is_followed_on_with_a_new_token(
    request: pytest.FixtureRequest, kind: str, account: Account, client: KubernetesClient,
    make: Make,
) -> None:  # fmt: skip
    follower: KubernetesClient = request.getfixturevalue(kind)
    handle = make()
    seen: Collected[tuple[JobHandle, JobStatus | None]] = Collected(follow([(follower, handle)]))
    seen.until(bool, "a first status")
    old = account.token.read_text()
    account.renew()
    assert account.token.read_text() != old
    with counted(follower) as sent:
        account.reconnect()
        # Whoever asks anything else meanwhile has to be let in, too.
        path = object_path("jobs", account.namespace, group="batch/v1")
        assert follower.request("GET", path)["items"]
        complete(client, handle)
        states = [status and status.state for _, status in seen.all()]
    assert states[-1] is JobState.SUCCEEDED
    assert len(sent) < 30


def test_credentials_that_stay_refused_are_told_once_with_the_way_on(
    by_plugin: KubernetesClient, account: Account, make: Make
) -> None:
    make()
    path = object_path("jobs", account.namespace, group="batch/v1")
    watch = ListWatch(by_plugin, path, "", essential, denied_grace_s=4)
    seen = Collected(watch.events())
    seen.until(lambda events: events[-1].kind == "SYNCED" if events else False, "the first list")
    account.renew(hand_out=False)
    until(lambda: is_refused(by_plugin, account.namespace), "it is refused", REMEMBERED_S)
    with counted(by_plugin) as sent:
        account.reconnect()
        with pytest.raises(AccessDeniedError, match=r"401.*the credentials are refused: sign in"):
            seen.all()
    # It may be a server that has just started: it is asked for some seconds, by growing pauses.
    assert 3 <= len(sent) <= 12, sent


def test_a_plugin_that_fails_is_asked_again(
    by_plugin: KubernetesClient, account: Account
) -> None:
    path = object_path("jobs", account.namespace, group="batch/v1")
    by_plugin.request("GET", path)
    account.renew()
    good = account.token.read_text()
    account.token.unlink()
    until(lambda: is_refused(by_plugin, account.namespace), "it is refused", REMEMBERED_S)
    account.token.write_text(good)
    assert by_plugin.request("GET", path)["items"] == []
