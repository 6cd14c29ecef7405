"""The processes of a cluster: how each is started, and how it says that it is ready."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.clusters.kubernetes.build import binary
from tests.clusters.kubernetes.slots import NODE, Slot


@dataclass(frozen=True)
class Component:
    """One process: its command line, and a question to it that is true when it serves."""

    command: Callable[[Slot], list[str]]
    ready: Callable[[Slot], bool]


def api(slot: Slot, path: str) -> str | None:
    """Return what the API server answers the administrator, None unless that is a 200."""
    certificates = slot.certificates
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
    return get(f"https://{slot.node_ip}:6443{path}", context)


def node_ready(slot: Slot) -> bool:
    """Tell whether the node takes pods: it is Ready, and no taint of its start is left on it."""
    node: dict[str, Any] = json.loads(api(slot, f"/api/v1/nodes/{NODE}") or "{}")
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not node["spec"].get("taints")


def get(url: str, context: ssl.SSLContext | None = None) -> str | None:
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    opener = urllib.request.build_opener(*handlers)
    with contextlib.suppress(OSError), opener.open(url, timeout=5) as response:
        body: bytes = response.read()
        return body.decode()
    return None


def _etcd(slot: Slot) -> list[str]:
    peers = f"http://{slot.loopback}:2380"
    clients = f"http://{slot.loopback}:2379"
    return [
        str(binary("etcd")),
        f"--data-dir={slot.folder / 'etcd'}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
    ]


def _apiserver(slot: Slot) -> list[str]:
    files = slot.certificates
    return [
        str(binary("kube-apiserver")),
        f"--etcd-servers=http://{slot.loopback}:2379",
        f"--bind-address={slot.node_ip}",
        f"--advertise-address={slot.node_ip}",
        "--secure-port=6443",
        f"--cert-dir={slot.folder}",
        f"--tls-cert-file={files / 'apiserver.crt'}",
        f"--tls-private-key-file={files / 'apiserver.key'}",
        f"--client-ca-file={files / 'ca.crt'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={slot.services}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={files / 'service-account.pub'}",
        f"--service-account-signing-key-file={files / 'service-account.key'}",
        f"--kubelet-certificate-authority={files / 'ca.crt'}",
        f"--kubelet-client-certificate={files / 'apiserver-to-kubelet.crt'}",
        f"--kubelet-client-key={files / 'apiserver-to-kubelet.key'}",
        # Otherwise it looks the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _controller_manager(slot: Slot) -> list[str]:
    files = slot.certificates
    return [
        str(binary("kube-controller-manager")),
        f"--kubeconfig={slot.folder / 'kube-controller-manager.kubeconfig'}",
        f"--bind-address={slot.loopback}",
        f"--cert-dir={slot.folder}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={files / 'service-account.key'}",
        f"--root-ca-file={files / 'ca.crt'}",
    ]


def _scheduler(slot: Slot) -> list[str]:
    return [
        str(binary("kube-scheduler")),
        f"--kubeconfig={slot.folder / 'kube-scheduler.kubeconfig'}",
        f"--bind-address={slot.loopback}",
        f"--cert-dir={slot.folder}",
        "--leader-elect=false",
    ]


def _containerd(slot: Slot) -> list[str]:
    return ["containerd", f"--config={slot.folder / 'containerd.toml'}"]


def _kubelet(slot: Slot) -> list[str]:
    return [
        str(binary("kubelet")),
        f"--config={slot.folder / 'kubelet.json'}",
        f"--kubeconfig={slot.folder / 'node.kubeconfig'}",
        f"--root-dir={slot.folder / 'kubelet'}",
        f"--cert-dir={slot.folder}",
        f"--hostname-override={NODE}",
        f"--node-ip={slot.node_ip}",
    ]


def containerd_command(slot: Slot, *arguments: str) -> list[str]:
    """Return a command line of ctr for what Kubernetes keeps in this cluster's containerd."""
    return ["ctr", "--address", str(slot.socket), "--namespace", "k8s.io", *arguments]


def environment() -> Mapping[str, str]:
    """Return the environment of every component: the programs of root, and no proxy.

    They are Go's, and collect garbage seldom: they have some memory here, and little processor.
    """
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    path = f"{kept.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    return {**kept, "GOGC": "400", "GOMEMLIMIT": "1GiB", "PATH": path}


def _containerd_answers(slot: Slot) -> bool:
    command = containerd_command(slot, "version")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _healthy(port: int) -> Callable[[Slot], bool]:
    # Its certificate is its own; only that it answers matters.
    context = ssl._create_unverified_context()
    return lambda slot: get(f"https://{slot.loopback}:{port}/healthz", context) is not None


COMPONENTS: Mapping[str, Component] = {
    "etcd": Component(_etcd, lambda s: get(f"http://{s.loopback}:2379/health") is not None),
    "containerd": Component(_containerd, _containerd_answers),
    "kube-apiserver": Component(_apiserver, lambda s: api(s, "/readyz") is not None),
    "kube-controller-manager": Component(_controller_manager, _healthy(10257)),
    "kube-scheduler": Component(_scheduler, _healthy(10259)),
    "kubelet": Component(_kubelet, lambda s: get(f"http://{s.loopback}:10248/healthz") == "ok"),
}
"""Every process by name, in the order of their start."""
