"""What exists by name: sorted data, imported only when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from mlflow_exec.errors import ConfigError, MissingExtraError


@dataclass(frozen=True)
class Backend:
    """One project backend: where its classes are and what to install for it.

    Attributes:
        name: What users type (``k8s``).
        scheduler: ``module:Class`` of the scheduler.
        settings: ``module:Class`` of its settings.
        schemes: The schemes of its job handles.
        extra: The extra of this package that installs its SDK.
    """

    name: str
    scheduler: str
    settings: str
    schemes: tuple[str, ...]
    extra: str


@dataclass(frozen=True)
class DeploymentTarget:
    """One deployment target: where its classes are and what to install for it.

    Attributes:
        name: What users type, and the scheme of its URIs (``ray-serve``).
        target: ``module:Class`` of the target.
        settings: ``module:Class`` of its settings.
        uris: The forms of its URI, for people.
        extra: The extra of this package that installs its SDK; empty where it needs none.
    """

    name: str
    target: str
    settings: str
    uris: tuple[str, ...]
    extra: str


BACKENDS: tuple[Backend, ...] = (
    Backend(
        "k8s",
        "mlflow_exec.schedulers.kubernetes:KubernetesScheduler",
        "mlflow_exec.settings:KubernetesSettings",
        ("k8s",),
        "k8s",
    ),
    Backend(
        "ray",
        "mlflow_exec.schedulers.ray:RayScheduler",
        "mlflow_exec.settings:RaySettings",
        ("ray-job+http", "ray-job+https"),
        "ray",
    ),
    Backend(
        "yarn",
        "mlflow_exec.schedulers.yarn:YarnScheduler",
        "mlflow_exec.settings:YarnSettings",
        ("yarn",),
        "yarn",
    ),
)
assert [b.name for b in BACKENDS] == sorted(b.name for b in BACKENDS), "keep BACKENDS sorted"

TARGETS: tuple[DeploymentTarget, ...] = (
    DeploymentTarget(
        "k8s",
        "mlflow_exec.targets.kubernetes:KubernetesTarget",
        "mlflow_exec.settings:KubernetesTargetSettings",
        ("k8s", "k8s://context", "k8s://context/namespace", "k8s:///namespace"),
        "k8s",
    ),
    DeploymentTarget(
        "ray-serve",
        "mlflow_exec.targets.ray_serve:RayServeTarget",
        "mlflow_exec.settings:RayServeSettings",
        ("ray-serve", "ray-serve://host:8265", "ray-serve+https://host:8265"),
        "",
    ),
)
assert [t.name for t in TARGETS] == sorted(t.name for t in TARGETS), "keep TARGETS sorted"

R = TypeVar("R", Backend, DeploymentTarget)


def backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        ConfigError: There is none.
    """
    return _named("backend", BACKENDS, name)


def target(name: str) -> DeploymentTarget:
    """Return the deployment target of that name.

    Raises:
        ConfigError: There is none.
    """
    return _named("target", TARGETS, name)


def _named(kind: str, candidates: tuple[R, ...], name: str) -> R:
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in candidates)
    raise ConfigError(f"{kind}: unknown {kind} {name!r}. Known: {known}")


def backend_of_scheme(scheme: str) -> Backend:
    """Return the backend whose job handles have this scheme.

    Raises:
        ConfigError: There is none.
    """
    for candidate in BACKENDS:
        if scheme in candidate.schemes:
            return candidate
    known = ", ".join(s for b in BACKENDS for s in b.schemes)
    raise ConfigError(f"job handle: unknown scheme {scheme!r}. Known: {known}")


def load(reference: str, extra: str = "") -> Any:
    """Import ``module:Name`` and return it.

    Raises:
        MissingExtraError: A dependency of it is not installed.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("mlflow_exec"):
            raise
        raise missing_extra(extra, error) from error


def missing_extra(extra: str, error: ModuleNotFoundError) -> MissingExtraError:
    """Return the error that tells how to install an extra."""
    return MissingExtraError(
        f"{extra}: the Python package {error.name!r} is not installed; "
        f"install it with: pip install 'mlflow-exec[{extra}]'"
    )
