"""Packages in Ray's store, in which projects, models and our own code travel."""

from __future__ import annotations

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.ray import RayClient


def package_name(sha256: str) -> str:
    """Return what a package of this content is called in Ray's store."""
    return f"_ray_pkg_{sha256}.zip"


def put_package(client: RayClient, name: str, content: bytes) -> None:
    """Store a package unless Ray has it."""
    if not repeated(lambda: client.has_package(name)):
        repeated(lambda: client.put_package(name, content))
