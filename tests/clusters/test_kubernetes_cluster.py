"""The cluster that other tests rely on: what a pod, and a crash, look like on it."""

from __future__ import annotations

import http.server
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.clusters.kubernetes import claims, network, prerequisites, remains
from tests.clusters.kubernetes.cluster import Cluster
from tests.clusters.kubernetes.components import COMPONENTS
from tests.clusters.kubernetes.slots import Slot
from tests.clusters.processes import Process, appears
from tests.clusters.pytest_kubernetes import KubernetesCluster, unavailable

_POD_S = 60.0
# A session with a running pod that ends without a word.
_KILLED_SESSION = """if True:
    import os, signal
    from kubernetes import client, config
    from tests.clusters.kubernetes import images
    from tests.clusters.kubernetes.cluster import Cluster
    from tests.clusters.processes import appears

    cluster = Cluster.start(loaded=())
    print(cluster.slot.folder, flush=True)
    config.load_kube_config(str(cluster.kubeconfig))
    core = client.CoreV1Api()
    def accounts():
        return core.list_namespaced_service_account("default").items
    assert appears(accounts, timeout_s=120)
    job = {"name": "job", "image": images.PAUSE, "imagePullPolicy": "Never"}
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [job]}}
    core.create_namespaced_pod("default", pod)
    def running():
        return core.read_namespaced_pod("p", "default").status.phase == "Running"
    assert appears(running, timeout_s=60)
    os.kill(os.getpid(), signal.SIGKILL)
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
def abandoned() -> Iterator[Slot]:
    """A cluster with a running pod, whose session was killed."""
    if lacking := prerequisites.missing():
        unavailable(" ".join(lacking))
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_SESSION], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    slot = claims.at(Path(killed.stdout.strip()))
    assert slot is not None
    yield slot
    claims.clean_dead()


def test_what_a_killed_session_leaves_is_removed_by_the_next_start(abandoned: Slot) -> None:
    left = [Process.read(abandoned.pid_file(name)) for name in COMPONENTS]
    assert None not in left
    assert list(remains.mounts(abandoned.run))
    files_of_pods = list(Path("/var/lib/cni/results").glob(f"{abandoned.name}-*"))
    assert files_of_pods
    assert _shims(abandoned)
    claims.clean_dead()
    assert not any(process and process.alive() for process in left)
    assert not list(remains.mounts(abandoned.run, abandoned.folder))
    assert not _shims(abandoned)
    assert not abandoned.folder.exists()
    assert not any(file.exists() for file in files_of_pods)
    assert not Path(f"/sys/class/net/{abandoned.bridge}").exists()
    assert abandoned.name not in _rules()
    assert claims.at(abandoned.folder) is None


@pytest.fixture
def network_only() -> Iterator[Slot]:
    """A cluster of which only the network is there."""
    if lacking := prerequisites.missing():
        unavailable(" ".join(lacking))
    cluster = Cluster(claims.claim(None))
    try:
        network.up(cluster.slot)
        yield cluster.slot
    finally:
        cluster.stop()


def test_the_bridge_keeps_its_address_when_a_pod_comes_and_goes(network_only: Slot) -> None:
    bridge = network_only.bridge
    address = Path(f"/sys/class/net/{bridge}/address")
    before = address.read_text()
    port = f"{bridge}-port"
    ip = ["ip", "link"]
    # The lowest address there is: the bridge would take it.
    low = ["address", "02:00:00:00:00:01"]
    subprocess.run([*ip, "add", port, *low, "master", bridge, "type", "veth"], check=True)
    try:
        assert address.read_text() == before
    finally:
        subprocess.run([*ip, "delete", port], check=True)
    assert address.read_text() == before


def test_a_living_cluster_outlives_the_start_of_another(
    kubernetes_cluster: KubernetesCluster,
) -> None:
    ours = kubernetes_cluster.processes()
    claims.clean_dead()
    assert all(ours.process(name) for name in COMPONENTS)


def test_a_pid_used_again_is_not_taken_for_the_process(tmp_path: Path) -> None:
    me = Process.current()
    record = tmp_path / "me.json"
    me.write(record)
    assert Process.read(record) == me
    Process(me.pid, me.start_ticks - 1).write(record)
    assert Process.read(record) is None


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path=None: None)
    named = "\n".join(prerequisites.missing())
    for package in ("etcd-server", "containerd", "runc", "debootstrap", "iptables", "iproute2"):
        assert f"apt-get install {package}\n" in named + "\n"


def _shims(slot: Slot) -> list[Path]:
    lines = [folder / "cmdline" for folder in Path("/proc").glob("[0-9]*")]
    return [path for path in lines if path.exists() and b"shim" in path.read_bytes()
            and bytes(slot.socket) in path.read_bytes()]  # fmt: skip


def _rules() -> str:
    asked = [["iptables", "-w", "-t", table, "-S"] for table in ("nat", "filter")]
    answers = [subprocess.run(a, capture_output=True, text=True, check=True) for a in asked]
    return "".join(answer.stdout for answer in answers)
