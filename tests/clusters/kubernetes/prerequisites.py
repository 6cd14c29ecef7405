"""What this machine lacks to run a cluster."""

from __future__ import annotations

import os
import shutil
import sys

from tests.clusters.kubernetes.build import COMPONENTS, cached
from tests.clusters.kubernetes.components import environment
from tests.clusters.kubernetes.configuration import cni_folder

# Each program, and the Debian package that has it.
_PROGRAMS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "umount": "mount",
    "openssl": "openssl",
}


def missing() -> list[str]:
    """Return a sentence for each thing that is missing here; empty when a cluster can start."""
    if not sys.platform.startswith("linux"):
        return [f"A cluster for tests needs Linux; this is {sys.platform}."]
    lacking = []
    if os.geteuid() != 0:
        lacking.append("A cluster for tests needs root, for containers and a bridge.")
    path = environment()["PATH"]
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=f"{assets}:{path}" if program == "etcd" else path) is None:
            lacking.append(f"{program} is missing: apt-get install {package}")
    if cni_folder() is None:
        lacking.append("CNI's bridge is missing: apt-get install containernetworking-plugins")
    if shutil.which("go") is None and not all(cached(name) for name in COMPONENTS):
        lacking.append("Go is missing, to build Kubernetes: https://go.dev/doc/install")
    return lacking
