"""The metrics-server as a process of this machine: tells autoscalers what pods use.

It reads the real kubelet. Built once per version, in four minutes on two cores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config

from tests.clusters.cache import build_once, cache_folder, discard, locked
from tests.clusters.kubernetes.build import go_build
from tests.clusters.kubernetes.cluster import Cluster
from tests.clusters.kubernetes.components import api, environment
from tests.clusters.kubernetes.slots import Slot
from tests.clusters.processes import Process, appears, start

_MODULE = Path(__file__).parent
_NAME = "sigs.k8s.io/metrics-server"
_API = "v1beta1.metrics.k8s.io"
_SERVICE = {"name": "metrics-server", "namespace": "kube-system"}
_PORT = 4443
# The API server of the tests passes requests on without a certificate by which it would be known:
# to this server it is nobody, and so nobody may read what pods of this cluster use.
_READERS = "mlflow-exec-test-metrics-readers"
_READ = {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": ["get", "list"]}
# It serves when it has read the kubelet twice.
_PATIENCE_S = 60.0


def cached() -> bool:
    """Tell whether there is nothing to build."""
    return _target().exists()


def _target() -> Path:
    found = re.search(rf"^\s+{_NAME} (v\S+)", (_MODULE / "go.mod").read_text(), re.M)
    assert found is not None
    return cache_folder() / f"metrics-server-{found[1]}"


@contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """Run it for a cluster; afterwards nothing of it is left there.

    Another session that wants it for the same cluster waits.

    Raises:
        RuntimeError: it does not serve in time; names its log's last lines.
    """
    slot = cluster.slot
    record, folder = slot.pid_file("metrics-server"), slot.folder / "metrics-server"
    with (
        locked(slot.run / "metrics-server.lock"),
        config.new_client_from_config(str(cluster.kubeconfig)) as api_client,
    ):
        try:
            _end(record)  # of a session that was killed
            discard(folder)
            folder.mkdir()
            program = build_once(_target(), _build)
            log = folder / "metrics-server.log"
            start(_command(program, slot, folder), log=log, record=record,
                  environment=environment())  # fmt: skip
            _register(api_client, slot)
            if not appears(lambda: _measures(slot), timeout_s=_PATIENCE_S, interval_s=0.5):
                end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"metrics-server: not in {_PATIENCE_S} s; its log:\n{end}")
            yield
        finally:
            _end(record)
            _unregister(api_client)


def _build(part: Path) -> None:
    go_build(f"{_NAME}/cmd/metrics-server", part, module=_MODULE)


def _command(program: Path, slot: Slot, folder: Path) -> list[str]:
    kubeconfig = slot.kubeconfig
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-skip-lookup=true",  # see _READERS
        "--authorization-always-allow-paths=/apis/metrics.k8s.io/*",  # what it has, not the rest
        f"--bind-address={slot.loopback}",
        f"--secure-port={_PORT}",
        f"--cert-dir={folder}",
        f"--kubelet-certificate-authority={slot.certificates / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",
    ]


def _register(api_client: client.ApiClient, slot: Slot) -> None:
    """Have the API server ask it for its part of the API."""
    rights = client.RbacAuthorizationV1Api(api_client)
    metadata, group = {"name": _READERS}, "rbac.authorization.k8s.io"
    rights.create_cluster_role({"metadata": metadata, "rules": [_READ]})
    rights.create_cluster_role_binding({
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": _READERS},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "system:anonymous"}],
    })
    spec = {
        "type": "ExternalName", "externalName": slot.loopback,  # no pod, and no kube-proxy either
        "ports": [{"port": _PORT}],
    }  # fmt: skip
    client.CoreV1Api(api_client).create_namespaced_service(
        _SERVICE["namespace"], {"metadata": {"name": _SERVICE["name"]}, "spec": spec}
    )
    version, group = _API.split(".", 1)
    service = {"group": group, "version": version, "service": {**_SERVICE, "port": _PORT},
               "insecureSkipTLSVerify": True, "groupPriorityMinimum": 100,
               "versionPriority": 100}  # fmt: skip
    client.ApiregistrationV1Api(api_client).create_api_service(
        {"metadata": {"name": _API}, "spec": service}
    )


def _unregister(api_client: client.ApiClient) -> None:
    rights = client.RbacAuthorizationV1Api(api_client)
    for delete, names in (
        (rights.delete_cluster_role_binding, (_READERS,)),
        (rights.delete_cluster_role, (_READERS,)),
        (client.ApiregistrationV1Api(api_client).delete_api_service, (_API,)),
        (client.CoreV1Api(api_client).delete_namespaced_service, tuple(_SERVICE.values())),
    ):
        try:
            delete(*names)
        except client.ApiException as error:
            if error.status != 404:
                raise


def _measures(slot: Slot) -> bool:
    found: dict[str, Any] = json.loads(api(slot, "/apis/metrics.k8s.io/v1beta1/nodes") or "{}")
    return bool(found.get("items"))


def _end(record: Path) -> None:
    process = Process.read(record)
    if process is not None:
        process.end(grace_s=10)
    record.unlink(missing_ok=True)
