"""The bridge of a cluster's pods, their way out of the machine, and the kernel's settings."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from tests.clusters.kubernetes.slots import Slot

# The bridge needs the first; the kubelet sets the others.
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def up(slot: Slot) -> None:
    """Make the bridge and the rules; pods then reach the host, and through it the world."""
    # Without an address of its own a bridge takes the lowest of its ports', a new one whenever that
    # pod ends: what others on it have learnt is then wrong for a while, and their packets are lost.
    _ip("link", "add", slot.bridge, "address", slot.bridge_mac, "type", "bridge")
    _ip("addr", "add", f"{slot.node_ip}/24", "dev", slot.bridge)
    _ip("link", "set", slot.bridge, "mtu", str(mtu()), "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for table, chain, rule in _rules(slot):
        iptables(table, "-I", chain, *rule)


def down(slot: Slot) -> None:
    """Remove what `up` made, as far as it is there."""
    for table, chain, rule in _rules(slot):
        with contextlib.suppress(RuntimeError):
            iptables(table, "-D", chain, *rule)
    if Path(f"/sys/class/net/{slot.bridge}").exists():
        _ip("link", "delete", slot.bridge)


def addresses() -> list[str]:
    """Return every IPv4 address of this machine, each in a line that names its interface."""
    return _ip("-o", "-4", "addr").splitlines()


def mtu() -> int:
    """Return the largest packet, in bytes, that leaves this machine by its default route."""
    words = _ip("-4", "route", "show", "default").split()
    interface = words[words.index("dev") + 1] if "dev" in words else "lo"
    return min(1500, int(Path(f"/sys/class/net/{interface}/mtu").read_text()))


def remember_sysctls(path: Path) -> None:
    """Write down the kernel's settings unless they already are."""
    if not path.exists():
        files = [Path("/proc/sys") / name for name in _SYSCTLS]
        path.write_text(json.dumps({str(f): f.read_text() for f in files if f.exists()}))


def restore_sysctls(path: Path) -> None:
    """Set the kernel back to what `remember_sysctls` wrote down."""
    for name, value in json.loads(path.read_text()).items():
        if Path(name).read_text() != value:
            Path(name).write_text(value)
    path.unlink()


def _rules(slot: Slot) -> list[tuple[str, str, list[str]]]:
    ours = ["-m", "comment", "--comment", slot.name]
    api = ["-d", f"{slot.service_ip}/32", "-p", "tcp", "--dport", "443"]
    return [
        # One rule for all pods: the bridge plugin's own masquerading leaves a chain per pod behind
        # when it is killed.
        ("nat", "POSTROUTING", ["-s", slot.subnet, "!", "-d", slot.subnet, *ours,
                                "-j", "MASQUERADE"]),
        # What kube-proxy would do, for the one service that every client inside a pod needs.
        ("nat", "PREROUTING", [*api, *ours, "-j", "DNAT", "--to", f"{slot.node_ip}:6443"]),
        # A machine with Docker drops what it forwards.
        ("filter", "FORWARD", ["-i", slot.bridge, *ours, "-j", "ACCEPT"]),
        ("filter", "FORWARD", ["-o", slot.bridge, *ours, "-j", "ACCEPT"]),
    ]  # fmt: skip


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def iptables(table: str, *arguments: str) -> None:
    """Run iptables on a table."""
    _run("iptables", "-w", "-t", table, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
