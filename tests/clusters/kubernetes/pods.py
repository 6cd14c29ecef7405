"""What a test's pod needs to install packages: the host's own way to its package registry.

Nothing is written down here: the certificates and settings are read from the host when a test runs,
and a host without any gives a patch that adds only its certificates.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Both libraries and tools: each reads its own variable for the file of trusted certificates.
_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_PREFIXES = ("PIP_", "UV_")
_PROXY = ("http_proxy", "https_proxy", "no_proxy")
# Places of the host's own files that mean nothing in a pod.
_LEFT_OUT = ("PIP_CACHE_DIR", "UV_CACHE_DIR", "PIP_LOG", "PIP_TARGET", "PIP_PREFIX", "PIP_SRC",
             "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PIP_USER")  # fmt: skip
_PATHS = (*_TRUST, "_CERT", "_FIND_LINKS", "_CONFIG_FILE", "_CONSTRAINT")
# Links in the first folder lead to the others.
_CERTIFICATES = (
    Path("/etc/ssl/certs"),
    Path("/usr/share/ca-certificates"),
    Path("/usr/local/share/ca-certificates"),
)
_SETTINGS = Path("/etc/pip.conf")


def pip_environment() -> dict[str, str]:
    """Return the variables of this process's environment that lead pip and uv to packages."""
    found = {}
    for name, value in sorted(os.environ.items()):
        wanted = name in _TRUST or name.startswith(_PREFIXES) or name.lower() in _PROXY
        if wanted and name not in _LEFT_OUT:
            found[name] = value
    return found


def host_paths() -> list[Path]:
    """Return the host's files and folders that `pip_environment()` and its certificates need."""
    named = [Path(v) for k, v in pip_environment().items() if k.endswith(_PATHS)]
    there = [
        path for path in (*_CERTIFICATES, _SETTINGS, *named) if path.is_absolute() and path.exists()
    ]
    kept: list[Path] = []
    for path in sorted(there, key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return kept


def pod_patch(container: str = "job") -> dict[str, Any]:
    """Return a strategic-merge patch of a pod (`{"spec": ...}`) for package installs inside it.

    It mounts `host_paths()` read-only at their own places, and sets the variables of
    `pip_environment()` on one container.

    Args:
        container: the name of the container to patch.
    """
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, path in enumerate(host_paths()):
        name = f"host-{number}"
        volumes.append({"name": name, "hostPath": {"path": str(path)}})
        mounts.append({"name": name, "mountPath": str(path), "readOnly": True})
    environment = [{"name": k, "value": v} for k, v in pip_environment().items()]
    changed = {"name": container, "env": environment, "volumeMounts": mounts}
    return {"spec": {"containers": [changed], "volumes": volumes}}


POD_PATCH: dict[str, Any] = pod_patch()
"""`pod_patch()` for a container named `job`, of the environment at import: a Pod's patch."""

JOB_PATCH: dict[str, Any] = {"spec": {"template": POD_PATCH}}
"""The same for the Pod of a Job, a Deployment or whatever else has a pod template."""
