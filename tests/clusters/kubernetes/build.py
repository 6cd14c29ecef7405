"""Builds Kubernetes itself from its Go module, once per version, into the tests' cache."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.clusters.cache import build_once, cache_folder

COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")

_MODULE = Path(__file__).parent


def version() -> str:
    """Return the version of Kubernetes that go.mod asks for, such as `v1.34.1`."""
    found = re.search(r"^\s+k8s\.io/kubernetes (v\S+)", (_MODULE / "go.mod").read_text(), re.M)
    if found is None:
        raise RuntimeError(f"{_MODULE / 'go.mod'}: names no version of k8s.io/kubernetes")
    return found[1]


def binary(name: str) -> Path:
    """Return one of COMPONENTS, or etcd, ready to run; a missing component is built.

    A file of that name in $KUBEBUILDER_ASSETS (envtest's convention) comes first. All four take
    about eight minutes on two cores the first time, a minute from a warm Go build cache.
    """
    if name == "etcd":
        return _asset(name) or Path(name)
    target = _asset(name) or _target(name)
    return build_once(target, lambda part: go_build(f"k8s.io/kubernetes/cmd/{name}", part))


def cached(name: str) -> bool:
    """Tell whether `binary` has nothing to build for a component."""
    return (_asset(name) or _target(name)).exists()


def _asset(name: str) -> Path | None:
    path = Path(os.environ.get("KUBEBUILDER_ASSETS", "")) / name
    return path if path.is_absolute() and path.is_file() else None


def _target(name: str) -> Path:
    return cache_folder() / f"kubernetes-{version()}" / "bin" / name


def go_build(package: str, out: Path, *, module: Path = _MODULE) -> None:
    """Build a package of a Go module, by default that of Kubernetes, into a static binary.

    It knows the version of Kubernetes, ours or the one that its libraries go with.
    """
    stamp = f"-X k8s.io/component-base/version.gitVersion={version()}"
    go("build", "-trimpath", f"-ldflags=-s -w {stamp}", "-o", str(out), package, module=module)


def go(*arguments: str, module: Path) -> str:
    """Run Go in a module's folder and return what it prints."""
    done = subprocess.run(
        ["go", *arguments], cwd=module, env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"go {' '.join(arguments)}: {done.stderr[-4000:]}")
    return done.stdout
