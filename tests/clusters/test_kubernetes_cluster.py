"""The cluster that other tests rely on: what a pod, and a crash, look like on it."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.clusters.kubernetes import claims, prerequisites
from tests.clusters.kubernetes.components import COMPONENTS
from tests.clusters.processes import Process, appears
from tests.clusters.pytest_kubernetes import KubernetesCluster, unavailable

_POD_S = 60.0
_START = """
import os, sys
from tests.clusters.kubernetes.cluster import Cluster
cluster = Cluster.start(loaded=())
print(cluster.slot.folder, flush=True)
sys.stdin.read()
"""


class Pods:
    """Pods of one namespace, each with one container named `job`."""

    def __init__(self, core: client.CoreV1Api, namespace: str, image: str) -> None:
        self.core = core
        self.namespace = namespace
        self.image = image

    def run(self, code: str, patch: dict[str, Any] | None = None, **container: Any) -> Any:
        """Run Python code in a pod; returns the pod when it has ended."""
        job: dict[str, Any] = {
            "name": "job",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", code],
            **container,
        }
        spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [job]}
        if patch:
            job.update({k: v for k, v in patch["spec"]["containers"][0].items() if k != "name"})
            spec["volumes"] = patch["spec"]["volumes"]
        pod = {"metadata": {"generateName": "pod-"}, "spec": spec}
        name = self.core.create_namespaced_pod(self.namespace, pod).metadata.name
        assert appears(lambda: self._phase(name) in ("Succeeded", "Failed"), timeout_s=_POD_S)
        return self.core.read_namespaced_pod(name, self.namespace)

    def log(self, pod: Any) -> str:
        """Return the log of a pod."""
        text: str = self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace)
        return text

    def _phase(self, name: str) -> str:
        phase: str = self.core.read_namespaced_pod(name, self.namespace).status.phase
        return phase


@pytest.fixture
def pods(kubernetes_cluster: KubernetesCluster, namespace: str) -> Iterator[Pods]:
    """Pods of the test's own namespace."""
    with kubernetes_cluster.api_client() as api_client:
        yield Pods(client.CoreV1Api(api_client), namespace, kubernetes_cluster.image)


@pytest.fixture
def greeting() -> Iterator[int]:
    """The port of an HTTP server on every address of this host, which answers `hello`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_pod_runs_and_its_log_is_read_through_the_api_server(pods: Pods) -> None:
    pod = pods.run("print('it runs')")
    assert pod.status.phase == "Succeeded"
    assert pods.log(pod) == "it runs\n"


def test_a_pod_over_its_memory_limit_is_seen_as_oom_killed(pods: Pods) -> None:
    pod = pods.run("x = bytearray(300 << 20)", resources={"limits": {"memory": "64Mi"}})
    ended = pod.status.container_statuses[0].state.terminated
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


def test_a_pod_reaches_a_server_of_the_host(
    pods: Pods, kubernetes_cluster: KubernetesCluster, greeting: int
) -> None:
    if kubernetes_cluster.node_ip is None:
        unavailable("the address of this host, as pods see it, is not known on a given cluster")
    url = f"http://{kubernetes_cluster.node_ip}:{greeting}"
    pod = pods.run(f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())")
    assert pods.log(pod) == "hello\n"


def test_a_pod_installs_a_package(pods: Pods, kubernetes_cluster: KubernetesCluster) -> None:
    code = "import subprocess as s; s.run(['sh', '-c', 'python3 -m venv v && v/bin/pip install six"
    code += ' && v/bin/python -c "import six; print(six.__name__)"\'], check=True)'
    pod = pods.run(code, kubernetes_cluster.pod_patch)
    assert pods.log(pod).endswith("six\n")


def test_a_pod_asks_the_api_server_as_its_service_account(pods: Pods) -> None:
    code = """if True:
        import os, ssl, urllib.request
        d = '/var/run/secrets/kubernetes.io/serviceaccount/'
        head = {'Authorization': 'Bearer ' + open(d + 'token').read()}
        url = 'https://%(KUBERNETES_SERVICE_HOST)s:%(KUBERNETES_SERVICE_PORT)s/api' % os.environ
        context = ssl.create_default_context(cafile=d + 'ca.crt')
        asked = urllib.request.Request(url, headers=head)
        print(urllib.request.urlopen(asked, context=context).status)"""
    assert pods.log(pods.run(code)) == "200\n"


def test_the_image_with_mlflow_has_what_a_training_needs(
    pods: Pods, kubernetes_cluster: KubernetesCluster
) -> None:
    pods.image = kubernetes_cluster.image_mlflow
    pod = pods.run("import mlflow.sklearn, matplotlib, pandas; print(mlflow.__version__)")
    assert pod.status.phase == "Succeeded", pods.log(pod)


def test_a_restarted_api_server_still_knows_its_pods(
    pods: Pods, kubernetes_cluster: KubernetesCluster
) -> None:
    pod = pods.run("print('before')")
    kubernetes_cluster.restart("kube-apiserver")
    assert pods.log(pod) == "before\n"


@pytest.fixture
def abandoned() -> Iterator[Path]:
    """The folder of a cluster whose starting process was killed without warning."""
    if lacking := prerequisites.missing():
        unavailable(" ".join(lacking))
    starter = subprocess.Popen(
        [sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().strip())
        starter.send_signal(signal.SIGKILL)
    yield folder
    for slot in claims.claimed():
        if slot.folder == folder:
            claims.clean_dead()


def test_what_a_killed_session_leaves_is_removed_by_the_next_start(abandoned: Path) -> None:
    slot = claims.at(abandoned)
    assert slot is not None
    left = [Process.read(slot.pid_file(name)) for name in COMPONENTS]
    assert None not in left
    claims.clean_dead()
    assert not any(process and process.alive() for process in left)
    assert not abandoned.exists()
    assert not Path(f"/sys/class/net/{slot.bridge}").exists()
    assert claims.at(abandoned) is None
