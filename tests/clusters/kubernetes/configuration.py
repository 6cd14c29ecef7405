"""The configuration files of one cluster's components."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.clusters.kubernetes import images
from tests.clusters.kubernetes.network import mtu
from tests.clusters.kubernetes.slots import Slot

CONTEXT = "mlflow-exec-test"

_CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")

# restrict_oom_score_adj: some machines forbid root to lower it, and runc then fails.
# The plugins that are off would write below /opt, or complain that they lack their file system.
_CONTAINERD = """
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{state}/runc"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{folder}/registries"
"""


def write(slot: Slot) -> None:
    """Write all of them into the cluster's folder."""
    folder = slot.folder
    (folder / "cni").mkdir()
    (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(_network(slot)))
    (folder / "containerd.toml").write_text(_containerd(slot))
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(slot)))
    for user in ("node", "kube-controller-manager", "kube-scheduler"):
        (folder / f"{user}.kubeconfig").write_text(_kubeconfig(slot, user))
    slot.kubeconfig.touch(mode=0o600)
    slot.kubeconfig.write_text(_kubeconfig(slot, "admin"))


def trust_registry(slot: Slot, host: str) -> None:
    """Let the node ask a registry over plain HTTP; containerd reads this at every pull."""
    folder = slot.folder / "registries" / host
    folder.mkdir(parents=True, exist_ok=True)
    text = f'server = "http://{host}"\n[host."http://{host}"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(text)


def cni_folder() -> str | None:
    """Return the folder of the CNI plugins, None when the bridge plugin is nowhere."""
    return next((path for path in _CNI_FOLDERS if (Path(path) / "bridge").exists()), None)


def _containerd(slot: Slot) -> str:
    return _CONTAINERD.format(
        root=slot.folder / "containerd",
        state=slot.run / "containerd",
        socket=slot.socket,
        pause=images.PAUSE,
        cni=cni_folder(),
        folder=slot.folder,
    )


def _network(slot: Slot) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(slot.run / "addresses"),
        "ranges": [[{"subnet": slot.subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": slot.bridge,
        "isGateway": True,
        "hairpinMode": True,
        "mtu": mtu(),
        "ipam": addresses,
    }
    return {"cniVersion": "0.4.0", "name": slot.name, "plugins": [bridge]}


def _kubelet(slot: Slot) -> dict[str, Any]:
    """See https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/."""
    certificates = slot.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": slot.node_ip,
        "healthzBindAddress": slot.loopback,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificates / "kubelet.crt"),
        "tlsPrivateKeyFile": str(certificates / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{slot.socket}",
        "cgroupDriver": "cgroupfs",
        # Each kubelet ends what it does not know below its own root: two must not share one.
        "cgroupRoot": f"/{slot.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "resolvConf": str(_resolv_conf()),
        # There is no DNS of the cluster's own; without these the kubelet warns of it on every pod.
        "clusterDNS": name_servers(),
        "podLogsDir": str(slot.folder / "pod-logs"),
        "volumePluginDir": str(slot.folder / "volume-plugins"),
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "serializeImagePulls": False,
        # A full disk or a busy machine is no business of a test; its images cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
    }


def _resolv_conf() -> Path:
    """Return the file of the host's real name servers: a pod cannot reach one on loopback."""
    behind = Path("/run/systemd/resolve/resolv.conf")
    return behind if behind.exists() else Path("/etc/resolv.conf")


def name_servers() -> list[str]:
    """Return the machine's own servers of names."""
    lines = [line.split() for line in _resolv_conf().read_text().splitlines()]
    return [words[1] for words in lines if words[:1] == ["nameserver"]][:3]


def _kubeconfig(slot: Slot, user: str) -> str:
    def data(name: str) -> str:
        return base64.b64encode((slot.certificates / name).read_bytes()).decode()

    cluster = {
        "server": f"https://{slot.node_ip}:6443",
        "certificate-authority-data": data("ca.crt"),
    }
    credentials = {
        "client-certificate-data": data(f"{user}.crt"),
        "client-key-data": data(f"{user}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
        "current-context": CONTEXT,
    }
    return json.dumps(config, indent=2)
