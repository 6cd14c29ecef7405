"""The typed settings of the backends: one class each, unknown keys refused, values cast.

A name means the same on every backend. Everything users read about settings (error messages, the
JSON Schema, the options table in the docs) is made from these classes.
"""

from __future__ import annotations

from mlflow_exec.settings.backends import (
    BackendSettings,
    KubernetesEnvironmentCache,
    KubernetesSettings,
    RayEnvironmentCache,
    RayResources,
    RaySettings,
    Resources,
)
from mlflow_exec.settings.fields import (
    GIB,
    Bytes,
    Cpu,
    Seconds,
    Settings,
    parse_quantity,
)
from mlflow_exec.settings.reading import (
    cast_options,
    expand_file,
    json_schema,
    known_keys,
    load_config,
    parse_settings,
)
from mlflow_exec.settings.routing import Routing
from mlflow_exec.settings.secrets import ClientSecret, NodeSecret, SecretReference
from mlflow_exec.settings.targets import (
    Batch,
    KubernetesGateway,
    KubernetesModelCache,
    KubernetesTargetSettings,
    RayServeSettings,
    TargetSettings,
)
from mlflow_exec.settings.yarn import YarnAcls, YarnEnvironmentCache, YarnSettings

__all__ = [
    "GIB",
    "BackendSettings",
    "Batch",
    "Bytes",
    "ClientSecret",
    "Cpu",
    "KubernetesEnvironmentCache",
    "KubernetesGateway",
    "KubernetesModelCache",
    "KubernetesSettings",
    "KubernetesTargetSettings",
    "NodeSecret",
    "RayEnvironmentCache",
    "RayResources",
    "RayServeSettings",
    "RaySettings",
    "Resources",
    "Routing",
    "Seconds",
    "SecretReference",
    "Settings",
    "TargetSettings",
    "YarnAcls",
    "YarnEnvironmentCache",
    "YarnSettings",
    "cast_options",
    "expand_file",
    "json_schema",
    "known_keys",
    "load_config",
    "parse_quantity",
    "parse_settings",
]
