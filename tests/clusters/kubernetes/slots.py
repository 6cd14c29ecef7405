"""Where one cluster lives on this machine, so that several can live side by side.

A cluster's number gives its bridge, its addresses and its cgroup; nothing else is chosen at run
time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.clusters.processes import Process

NODE = "n1"
CLAIMS = Path("/run/mlflow-exec-test")


@dataclass(frozen=True)
class Slot:
    """The names and addresses of cluster `number`, whose files are in `folder`."""

    number: int
    folder: Path

    @property
    def run(self) -> Path:
        """Sockets (their paths must be short), pid files, containerd's state."""
        return CLAIMS / str(self.number)

    @property
    def socket(self) -> Path:
        """The socket of containerd."""
        return self.run / "containerd.sock"

    @property
    def certificates(self) -> Path:
        """The folder of certificates and keys."""
        return self.folder / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def name(self) -> str:
        """The name of its cgroup and its network, and the comment on its iptables rules."""
        return f"mlflow-exec-test-{self.number}"

    @property
    def bridge(self) -> str:
        """The bridge that its pods are on."""
        return f"cni{self.number}"

    @property
    def bridge_mac(self) -> str:
        """The bridge's hardware address; 02 marks one that no manufacturer gave."""
        return f"02:00:0a:58:{self.number:02x}:01"

    @property
    def node_ip(self) -> str:
        """The address of node and host on the bridge: where pods reach the host's servers."""
        return f"10.88.{self.number}.1"

    @property
    def subnet(self) -> str:
        """The addresses of its pods."""
        return f"10.88.{self.number}.0/24"

    @property
    def services(self) -> str:
        """The addresses of its services; the first one is the API server's."""
        return f"10.96.{self.number}.0/24"

    @property
    def service_ip(self) -> str:
        """The cluster's own address of its API server, port 443."""
        return f"10.96.{self.number}.1"

    @property
    def loopback(self) -> str:
        """Where what only the host may reach listens (etcd, health checks)."""
        return f"127.88.{self.number}.1"

    @property
    def record(self) -> Path:
        """The file that says whose this number is."""
        return self.run / "claim.json"

    def pid_file(self, component: str) -> Path:
        """Return the file in which a component's process is written down."""
        return self.run / f"{component}.json"

    def claimed_by(self, owner: Process | None) -> None:
        """Write down whose it is: it lives as long as `owner`, or with None, as its processes."""
        claim = {"folder": str(self.folder), "owner": asdict(owner) if owner else None}
        self.record.write_text(json.dumps(claim))

    def alive(self) -> bool:
        """Tell whether its owner, or without one any of its processes, lives."""
        owner = json.loads(self.record.read_text())["owner"]
        if owner is not None:
            return Process(**owner).alive()
        return any(Process.read(path) for path in self.run.glob("*.json"))
