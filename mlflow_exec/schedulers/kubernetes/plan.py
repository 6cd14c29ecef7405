"""A job specification as Kubernetes objects: a Job, what it mounts, and its Secret. Pure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_exec import runtime
from mlflow_exec.clients.kubernetes_resources import container_resources
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.runtime.end import EXIT_STOPPED
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.kubernetes.git import GIT_FOLDER, git_container
from mlflow_exec.schedulers.kubernetes.literals import refuse_literals, secret_names
from mlflow_exec.settings import (
    KubernetesEnvironmentCache,
    KubernetesSettings,
    SecretReference,
)
from mlflow_exec.surroundings import IMAGE_VARIABLE, POD_FACTS
from mlflow_exec.templates import load_patch, merge, render

LABEL_MANAGED = "app.kubernetes.io/managed-by"
LABEL_RUN = "mlflow-exec/run-id"
LABEL_EXPERIMENT = "mlflow-exec/experiment-id"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
MANAGED_BY = "mlflow-exec"
# On a Job until all that it needs is there; it does not start before.
SUBMITTING = "mlflow-exec/submitting"
# How often the cluster may take a Job's pod.
INFRA_RETRIES = "mlflow-exec/infra-retries"
CONTAINER = "job"
SOURCE_CONTAINER = "source"
JOB_TEMPLATE = "kubernetes/job.yaml.j2"

# A ConfigMap holds 1 MiB in all; the rest is for our own files, the order and base64 is not
# counted (the limit is on the decoded sizes):
# https://kubernetes.io/docs/concepts/configuration/configmap/#motivation
CONFIGMAP_BYTES = 1024 * 1024
CONFIGMAP_BUNDLE_BYTES = 840 * 1024

_MOUNT = "/mlflow-exec"
_ENVIRONMENTS = "/mlflow-exec-environments"
_TOKEN = "/mlflow-exec-token"


def make_plan(spec: JobSpec, settings: KubernetesSettings, namespace: str) -> Plan:
    """Return the objects of a job in the order of their creation.

    Raises:
        ConfigError: A template, a patch or a combination of settings cannot be honoured.
    """
    given = {name: s for name, s in spec.secrets.items() if name not in settings.secrets}
    secrets = {**given, **_from_environment(settings)}
    completed = _order(spec, settings)
    values = {"name": spec.name, "namespace": namespace, "labels": _labels(spec, settings)}
    cache = settings.environment_cache if completed["environment_cache"] else None
    objects = [_job(spec, settings, values, secrets, cache)]
    completed["secret_names"] = secret_names(objects[0], CONTAINER)
    order = json.dumps(completed, ensure_ascii=False, indent=1)
    data = {name: runtime.read(name).encode() for name in runtime.RUNTIME_FILES}
    if spec.bundle:
        data["source.zip"] = spec.bundle.path.read_bytes()
    size = sum(map(len, data.values())) + len(order.encode())
    if size > CONFIGMAP_BYTES:
        raise ConfigError(
            f"source: configmap: the project and the job's order are {size} bytes, a ConfigMap "
            f"holds {CONFIGMAP_BYTES}; use source 'artifact' or 'git'"
        )
    if secrets:
        shown = {name: f"<{secret.source}>" for name, secret in sorted(secrets.items())}
        objects += render("kubernetes/credentials.yaml.j2", {**values, "data": shown})
    shown = {name: _in_brief(content) for name, content in sorted(data.items())}
    files = {"order": order, "files": shown}
    objects += render("kubernetes/files.yaml.j2", {**values, **files})
    return Plan(spec, tuple(objects), data, secrets)


def _in_brief(content: bytes) -> str:
    return f"<{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}>"


def _from_environment(settings: KubernetesSettings) -> dict[str, Secret]:
    result = {}
    for name, reference in settings.secrets.items():
        if reference.env is None:
            continue
        variable = reference.env
        if variable not in os.environ:
            raise ConfigError(
                f"secrets.{name}: the environment variable {variable!r} is not set here"
            )
        result[name] = Secret.from_environment(variable)
    return result


def _order(spec: JobSpec, settings: KubernetesSettings) -> dict[str, Any]:
    order = dict(spec.order)
    order["retry"] = {
        "owner": "kubernetes",
        "retries": settings.retries,
        "infra_retries": settings.infra_retries,
        "failure_count_env": "MLFLOW_EXEC_FAILURE_COUNT",
        "ignored_count_env": "MLFLOW_EXEC_IGNORED_COUNT",
    }
    order["secrets"] = {
        name: {"file": reference.file}
        for name, reference in settings.secrets.items()
        if reference.file
    }
    if settings.tracking_token_audience:
        order["secrets"]["MLFLOW_TRACKING_TOKEN"] = {"file": f"{_TOKEN}/token"}
    order["deadline_s"] = None  # the Job's own clock ends it, over all attempts
    cached = settings.environment_cache is not None
    order["environment_cache"] = settings.kept_environments(
        _ENVIRONMENTS if cached else None, dict(order.get("environment") or {}).get("manager")
    )
    source = dict(order["source"])
    if spec.bundle is not None:
        source |= {"kind": "archive", "path": f"{_MOUNT}/source.zip", "sha256": spec.bundle.sha256}
    elif source.get("kind") == "git":
        source = {
            "kind": "directory",
            "path": GIT_FOLDER,
            "copy": False,
            "subdirectory": source.get("subdirectory", ""),
        }
    order["source"] = source
    return order


def _labels(spec: JobSpec, settings: KubernetesSettings) -> dict[str, str]:
    labels = dict(settings.labels)
    if settings.queue:
        labels[LABEL_QUEUE] = settings.queue
    ours = {
        LABEL_MANAGED: MANAGED_BY,
        LABEL_RUN: spec.run_id,
        LABEL_EXPERIMENT: str(spec.experiment_id),
    }
    return labels | ours


def _job(
    spec: JobSpec,
    settings: KubernetesSettings,
    values: Mapping[str, Any],
    secrets: Mapping[str, Secret],
    cache: KubernetesEnvironmentCache | None,
) -> dict[str, Any]:
    if not settings.image:
        raise ConfigError(
            "image: none is given; set 'image' to one with Python, such as 'python:3.11-slim', "
            "or docker_env in the MLproject file"
        )
    git = git_container(spec.order["source"], settings)
    parameters = {
        **values,
        "annotations": settings.annotations,
        "job_annotations": settings.annotations
        | {SUBMITTING: "true", INFRA_RETRIES: str(settings.infra_retries)},
        "retries": settings.retries,
        "deadline_s": None if settings.deadline_s is None else int(settings.deadline_s),
        "final_exit_codes": list(runtime.FINAL_EXIT_CODES),
        "stopped_exit_code": EXIT_STOPPED,
        "service_account": settings.service_account,
        "priority_class": settings.priority_class,
        "image": settings.image,
        "image_pull_policy": settings.image_pull_policy,
        "image_pull_secrets": [{"name": name} for name in settings.image_pull_secrets],
        "node_selector": settings.node_selector,
        "tolerations": settings.tolerations,
        "affinity": settings.affinity,
        "command": [
            settings.python, "-I", "-S", "-u", f"{_MOUNT}/entry.py", f"{_MOUNT}/order.json",
        ],
        "env": _env(spec.name, settings, secrets),
        "resources": container_resources(settings.resources, settings.gpu_resource),
        "volume_mounts": _mounts(settings, git, cache),
        "volumes": _volumes(spec.name, settings, git, cache),
        "git": git,
    }  # fmt: skip
    template = Path(settings.template) if settings.template else JOB_TEMPLATE
    objects = render(template, parameters)
    if len(objects) != 1 or objects[0].get("kind") != "Job":
        raise TemplateError(f"template {str(template)!r}: exactly one Job is needed")
    job = merge(objects[0], _mlflow_template(settings.kube_job_template_path))
    job = merge(job, load_patch(settings.patch))
    _protect(job, values)
    refuse_literals(job, settings.not_secret)
    return job


def _protect(job: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse a template or patch that takes away what finds the job again."""
    metadata = job.get("metadata") or {}
    if metadata.get("name") != values["name"] or metadata.get("namespace") != values["namespace"]:
        raise TemplateError(
            "patch: metadata.name and metadata.namespace are not to be changed; the namespace is "
            "the setting 'namespace'"
        )
    pod = (job.get("spec") or {}).get("template") or {}
    pod_metadata = pod.get("metadata") or {}
    for labels in (metadata.get("labels") or {}, pod_metadata.get("labels") or {}):
        found = (LABEL_MANAGED, LABEL_RUN)
        lost = [key for key in found if labels.get(key) != values["labels"][key]]
        if lost:
            raise TemplateError(f"patch: the label {lost[0]!r} finds the job and must stay")
    if not any(c.get("name") == CONTAINER for c in (pod.get("spec") or {}).get("containers") or []):
        raise TemplateError(f"patch: the container {CONTAINER!r} must stay")


def _env(
    name: str, settings: KubernetesSettings, secrets: Mapping[str, Secret]
) -> list[dict[str, Any]]:
    # The kubelet expands $(NAME) and takes $$ for $ in values:
    # https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    entries: list[dict[str, Any]] = [
        {"name": key, "value": value.replace("$", "$$")} for key, value in settings.env.items()
    ]
    references = {
        key: (reference.secret, reference.key or key)
        for key, reference in settings.secrets.items()
        if isinstance(reference, SecretReference) and reference.secret
    }
    references |= {key: (name, key) for key in secrets}
    entries += [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": item}}}
        for key, (secret, item) in sorted(references.items())
    ]
    # Where the controller keeps its count; absent before the first one:
    # https://kubernetes.io/docs/reference/labels-annotations-taints/#batch-kubernetes-io-job-index-failure-count
    fields = {
        variable: f"metadata.annotations['batch.kubernetes.io/job-index-{count}']"
        for variable, count in (
            ("MLFLOW_EXEC_FAILURE_COUNT", "failure-count"),
            ("MLFLOW_EXEC_IGNORED_COUNT", "ignored-failure-count"),
        )
    }
    entries += [
        {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for variable, path in (fields | POD_FACTS).items()
        if variable not in settings.env
    ]
    entries.append({"name": IMAGE_VARIABLE, "value": str(settings.image).replace("$", "$$")})
    return entries


def _mounts(
    settings: KubernetesSettings,
    git: Mapping[str, Any] | None,
    cache: KubernetesEnvironmentCache | None,
) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "mlflow-exec", "mountPath": _MOUNT, "readOnly": True}
    ]
    if git:
        mounts.append({"name": "source", "mountPath": GIT_FOLDER})
    if cache:
        mount = {"name": "environment-cache", "mountPath": _ENVIRONMENTS}
        mounts.append(mount | ({"subPath": cache.sub_path} if cache.sub_path else {}))
    if settings.tracking_token_audience:
        mounts.append({"name": "mlflow-exec-token", "mountPath": _TOKEN, "readOnly": True})
    return mounts + settings.volume_mounts


def _volumes(
    name: str,
    settings: KubernetesSettings,
    git: Mapping[str, Any] | None,
    cache: KubernetesEnvironmentCache | None,
) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "mlflow-exec", "configMap": {"name": name}}]
    if git:
        volumes.append({"name": "source", "emptyDir": {}})
        if git["secret"]:
            secret = {"secretName": git["secret"], "defaultMode": 0o400}
            volumes.append({"name": "git-secret", "secret": secret})
    if cache:
        place: dict[str, Any] = {"persistentVolumeClaim": {"claimName": cache.claim}}
        if cache.host_path:
            place = {"hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}
        volumes.append({"name": "environment-cache", **place})
    if settings.tracking_token_audience:
        # https://kubernetes.io/docs/concepts/storage/projected-volumes/#serviceaccounttoken
        token = {"path": "token", "audience": settings.tracking_token_audience}
        sources = [{"serviceAccountToken": token}]
        volumes.append({"name": "mlflow-exec-token", "projected": {"sources": sources}})
    return volumes + settings.volumes


def _mlflow_template(path: str | None) -> dict[str, Any]:
    """Read a Job template of MLflow's own Kubernetes backend as a patch of ours.

    Its container's image and command are placeholders that MLflow fills in, and its names are
    made up; what counts is the rest: resources, env, volumes, node selection, policies.
    """
    if path is None:
        return {}
    job = load_patch(path)
    metadata = {k: v for k, v in (job.get("metadata") or {}).items() if k in _KEPT_METADATA}
    spec = dict(job.get("spec") or {})
    template = dict(spec.get("template") or {})
    pod = dict(template.get("spec") or {})
    containers = [dict(item) for item in pod.get("containers") or []]
    if containers:
        containers[0] = {k: v for k, v in containers[0].items() if k not in _FILLED_IN}
        containers[0]["name"] = CONTAINER
        pod["containers"] = containers
    # Ours needs Never: only then can the controller tell disruptions from failures.
    pod.pop("restartPolicy", None)
    spec.pop("backoffLimit", None)
    # The Job stays until its log was kept; then the setting ttl_s counts.
    spec.pop("ttlSecondsAfterFinished", None)
    spec["template"] = template | {"spec": pod}
    return {"metadata": metadata, "spec": spec}


_KEPT_METADATA = ("labels", "annotations")
_FILLED_IN = ("name", "image", "command", "args")

