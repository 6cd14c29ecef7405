"""What would be created, without creating it: by ``mlflow run``, or for a reconciler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow

from mlflow_exec import templates
from mlflow_exec.errors import ConfigError
from mlflow_exec.reconciler_settings import ReconcilerResources, ReconcilerSettings
from mlflow_exec.runs import tracking
from mlflow_exec.runs.configuration import Origin, origins, take_injected
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.submit import Call, make_spec, prepare
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.settings import parse_settings

_RECONCILER = "kubernetes/reconciler.yaml.j2"


def rendered(
    backend: str,
    uri: str,
    entry_point: str,
    version: str | None,
    parameters: Mapping[str, str],
    config: Mapping[str, Any],
) -> tuple[Plan, Mapping[str, Origin]]:
    """Return the plan of a call, for a run that does not exist, and its settings.

    Raises:
        MlflowExecError: The call would be refused.
    """
    call = Call(backend, uri, entry_point, parameters, version, config,
                mlflow.get_tracking_uri(), "0")  # fmt: skip
    prepared = prepare(call, Progress())
    try:
        plan = prepared.scheduler.plan(make_spec(prepared))
        own, env_manager = take_injected(config)
        found = origins(prepared.settings, own, prepared.project, prepared.scheduler,
                        env_manager, prepared.job_tracking_uri)  # fmt: skip
        return plan, found
    finally:
        prepared.close()


def rendered_reconciler(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a reconciler in a cluster, for ``kubectl apply``.

    Args:
        config: See `ReconcilerSettings`.

    Raises:
        ConfigError: A setting is wrong or missing, or no namespace is known.
    """
    settings = parse_settings(ReconcilerSettings, config, "--backend-config")
    tracking.check_reconciler_uri(settings.tracking_uri)
    namespace = settings.namespace or _current_namespace()
    values = settings.model_dump(mode="json") | {
        "namespace": namespace,
        # Not managed-by=mlflow-exec: that is how jobs are found.
        "labels": {"app.kubernetes.io/name": settings.name},
        "cluster_id_role": f"{namespace}.{settings.name}",
        "image_pull_secrets": [{"name": name} for name in settings.image_pull_secrets],
        "command": ["mlflow-exec", "reconcile", "--backend", "k8s", "--namespace", namespace],
        "env": _environment(settings),
        "resources": _resources(settings.resources),
    }
    return templates.render(_RECONCILER, values)


def _current_namespace() -> str:
    """Return the namespace that kubectl takes; its file is read, the cluster is not asked."""
    from mlflow_exec.clients import kubernetes_config

    try:
        found = [name for _, name, current in kubernetes_config.contexts() if current]
    except ConfigError as error:
        raise ConfigError(f"namespace: it is not given, and {error}; set 'namespace'") from error
    if not found:
        raise ConfigError("namespace: it is not given, and no context is current; set 'namespace'")
    return found[0]


def _environment(settings: ReconcilerSettings) -> list[dict[str, Any]]:
    # Whoever runs in the pod may have no home, and only /tmp can be written to.
    plain = {"MLFLOW_TRACKING_URI": settings.tracking_uri, "HOME": "/tmp"}
    entries: list[dict[str, Any]] = [{"name": k, "value": v} for k, v in plain.items()]
    if settings.tracking_secret:
        for key in tracking.CREDENTIALS:
            reference = {"name": settings.tracking_secret, "key": key, "optional": True}
            entries.append({"name": key, "valueFrom": {"secretKeyRef": reference}})
    return entries


def _resources(asked: ReconcilerResources) -> dict[str, Any]:
    memory = str(asked.memory)
    cpu = f"{round(asked.cpu * 1000)}m"
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}
