"""A release as Kubernetes objects: a Deployment, what reaches it, and what its pods mount. Pure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlflow_exec import runtime, shipping
from mlflow_exec.credentials import holds_credentials, why_secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.releases import MANAGED_BY, EndpointRelease, Release, Revision
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.gateway import route_values
from mlflow_exec.targets.kubernetes.kinds import BY_SETTING, DEPLOYMENT, Kind, kind_of
from mlflow_exec.targets.kubernetes.pods import (
    CODE_ZIP,
    MODEL_ZIP,
    PREPARE_CONTAINER,
    ROUTES_FILE,
    own_secrets,
    pod_values,
    router_pod_values,
)
from mlflow_exec.templates import load_patch, merge, render, texts_in

LABEL_MANAGED = "app.kubernetes.io/managed-by"
LABEL_DEPLOYMENT = "mlflow-exec/deployment"
LABEL_REVISION = "mlflow-exec/revision"

# A ConfigMap holds 1 MiB: https://kubernetes.io/docs/concepts/configuration/configmap/#motivation
CONFIGMAP_BYTES = 1024 * 1024
PACKAGE_BYTES = CONFIGMAP_BYTES - 64 * 1024
KEPT_KINDS = ("ConfigMap", "Secret")

Json = Mapping[str, Any]


def make_plan(
    release: Release, settings: KubernetesTargetSettings, namespace: str
) -> ReleasePlan:
    """Return the objects of a release, its head first.

    Raises:
        ConfigError: A template, a patch or a combination of settings cannot be honoured.
    """
    kind = BY_SETTING[settings.kind]
    kind.refuse(release.name, settings)
    base = {"namespace": namespace, "labels": _labels(release.name)}
    files_name, kept, data = _code(base, release.name)
    package_name = None
    if release.model.package is not None:
        content = _packed(release)
        package_name = f"{release.name}-model-{release.model.package.sha256[:12]}"
        data[f"{package_name}/{MODEL_ZIP}"] = content
        kept += _files(base, package_name, {MODEL_ZIP: content})
    secret_name = f"{release.name}-secrets-{release.number}"
    secrets = own_secrets(release, settings, os.environ)
    if secrets:
        shown = {name: f"<{secret.source}>" for name, secret in sorted(secrets.items())}
        values = {**base, "name": secret_name, "data": shown}
        kept += render("kubernetes/credentials.yaml.j2", values)
    pods = pod_values(release, settings, secret_name, files_name, package_name)
    objects = _rendered(kind, release, settings, namespace, pods)
    return ReleasePlan(Revision.of(release, [*objects, *kept]), data, secrets)


def make_endpoint_plan(
    release: EndpointRelease, settings: KubernetesTargetSettings, namespace: str
) -> ReleasePlan:
    """Return the objects of an endpoint's router, the Deployment first.

    Raises:
        ConfigError: A patch or a combination of settings cannot be honoured.
    """
    base = {"namespace": namespace, "labels": _labels(release.name)}
    files_name, kept, data = _code(base, release.name)
    routing = release.routing
    routes = Routes(release.number, routing.weights, routing.shadows, routing.sticky_header)
    routes_name = f"{release.name}-routes"
    values = {**base, "name": routes_name, "files": {ROUTES_FILE: routes.to_json()}}
    kept += render("kubernetes/endpoint_routes.yaml.j2", values)
    pods = router_pod_values(release, settings, files_name, routes_name)
    objects = _rendered(DEPLOYMENT, release, settings, namespace, pods)
    return ReleasePlan(Revision.of_endpoint(release, [*objects, *kept]), data)


def routes_number(revision: Revision) -> int | None:
    """Return the number of the routes of an endpoint's revision; None for a model's.

    It is that of an earlier one where it repeats that one's.
    """
    for item in revision.objects:
        if item["kind"] == "ConfigMap" and not is_kept(item):
            return int(json.loads(item["data"][ROUTES_FILE])["number"])
    return None


def is_kept(item: Json) -> bool:
    """Whether an object is made once and never changed; a revision that is repeated finds it."""
    return item["kind"] in KEPT_KINDS and bool(item.get("immutable"))


def _code(base: Json, name: str) -> tuple[str, list[dict[str, Any]], dict[str, bytes]]:
    """Return the name of the ConfigMap with our code, that object, and its data."""
    code = code_files()
    files_name = f"{name}-code-{_digest(code)}"
    data = {f"{files_name}/{key}": content for key, content in code.items()}
    return files_name, _files(base, files_name, code), data


def repeated(revision: Revision, number: int, applied_at: str) -> ReleasePlan:
    """Return the objects of a revision as those of another number; data and secrets are there.

    Its pods keep the number of the revision that they were made for: where they still run, as they
    do after an update that has failed, the cluster takes them and starts none anew.
    """
    objects = deepcopy(list(revision.objects))
    for item in objects:
        if LABEL_REVISION in item["metadata"]["labels"]:
            item["metadata"]["labels"][LABEL_REVISION] = str(number)
    again = replace(
        revision, number=number, applied_at=applied_at, objects=tuple(objects),
        rolled_back_to=revision.number,
    )  # fmt: skip
    return ReleasePlan(again)


def revision_name(name: str, number: int) -> str:
    """Return the name of the record of a revision."""
    return f"{name}-revision-{number}"


def revision_record(revision: Revision, namespace: str) -> dict[str, Any]:
    """Return the ConfigMap that records a revision."""
    values = {
        "name": revision_name(revision.name, revision.number),
        "namespace": namespace,
        "labels": _labels(revision.name, revision.number),
        "revision": revision.to_json(),
    }
    return render("kubernetes/deployment_revision.yaml.j2", values)[0]


@lru_cache(maxsize=1)
def code_files() -> Mapping[str, bytes]:
    """Return what runs in the pods: the first step's files, and the scoring runtime as a zip."""
    files = {name: runtime.read(name).encode() for name in runtime.RUNTIME_FILES}
    return {**files, CODE_ZIP: shipping.zipped(shipping.code_files())[1]}


def _digest(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, content in sorted(files.items()):
        found.update(f"{name}\n{len(content)}\n".encode() + content)
    return found.hexdigest()[:12]


def _packed(release: Release) -> bytes:
    package = release.model.package
    assert package is not None
    _, content = shipping.zipped(shipping.files_below(package.path))
    if len(content) > PACKAGE_BYTES:
        raise ConfigError(
            f"model: {release.model.uri} has {package.size_bytes} bytes, {len(content)} when "
            f"packed, and Kubernetes takes {PACKAGE_BYTES} along with a deployment; log it to a "
            f"tracking server that the pods reach, and deploy it from there (models:/ or runs:/)"
        )
    return content


def _labels(name: str, number: int | None = None) -> dict[str, str]:
    labels = {LABEL_MANAGED: MANAGED_BY, LABEL_DEPLOYMENT: name}
    return labels if number is None else {**labels, LABEL_REVISION: str(number)}


def _files(base: Json, name: str, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    shown = {
        key: f"<{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}>"
        for key, content in sorted(files.items())
    }
    return render("kubernetes/deployment_files.yaml.j2", {**base, "name": name, "files": shown})


def _rendered(
    kind: Kind,
    release: Release | EndpointRelease,
    settings: KubernetesTargetSettings,
    namespace: str,
    pods: Json,
) -> list[dict[str, Any]]:
    if settings.max_replicas is not None and settings.resources.cpu is None:
        raise ConfigError(
            "max_replicas: the load is measured by what a replica asks for; set 'resources.cpu' too"
        )
    routing = release.routing if isinstance(release, EndpointRelease) else None
    values = {
        **pods,
        **kind.values(settings),
        "name": release.name,
        "namespace": namespace,
        "labels": {**settings.labels, **_labels(release.name, release.number)},
        "selector": _labels(release.name),
        "annotations": settings.annotations,
        "num_replicas": settings.num_replicas,
        "max_replicas": settings.max_replicas,
        "target_cpu_percent": settings.target_cpu_percent,
        "service_account": settings.service_account,
        "priority_class": settings.priority_class,
        "node_selector": settings.node_selector,
        "tolerations": settings.tolerations,
        "affinity": settings.affinity,
        "ingress_host": settings.ingress_host,
        "ingress_class": settings.ingress_class,
        **route_values(release.name, settings, routing),
    }
    template: str | Path = Path(settings.template) if settings.template else kind.template
    objects = render(template, values)
    patch = load_patch(settings.patch)
    name = patch.pop("kind", kind.name)
    if patch and name not in {item.get("kind") for item in objects}:
        raise TemplateError(f"patch: kind: there is no {name} to patch; known: {_kinds(objects)}")
    objects = [merge(item, patch) if item.get("kind") == name else item for item in objects]
    objects.sort(key=lambda item: item.get("kind") != kind.name)
    _protect(kind, objects, values)
    _refuse_literals(objects, settings.not_secret)
    return objects


def _kinds(objects: list[dict[str, Any]]) -> str:
    return ", ".join(str(item.get("kind")) for item in objects)


def _protect(kind: Kind, objects: list[dict[str, Any]], values: Json) -> None:
    """Refuse a template or patch that takes away what finds the deployment again."""
    found = [item.get("kind") for item in objects]
    known = {kind.name, "Service", *kind.beside}
    if found.count(kind.name) != 1 or found.count("Service") != 1 or {*found} - known:
        raise TemplateError(
            f"template: one {kind.name} and one Service are needed, and else only of "
            f"{', '.join(kind.beside)}; given {_kinds(objects)}"
        )
    wanted = {key: values[key] for key in ("name", "namespace")}
    for item in objects:
        metadata = item.get("metadata") or {}
        if {key: metadata.get(key) for key in wanted} != wanted:
            raise TemplateError(
                f"patch: {item['kind']}: metadata.name and metadata.namespace must stay {wanted}"
            )
        _check_labels(item["kind"], metadata, values)
    pod = kind.pods_of(objects[0])
    _check_labels("template", pod.get("metadata") or {}, values)
    spec = pod.get("spec") or {}
    for key, name in (("containers", kind.container), ("initContainers", PREPARE_CONTAINER)):
        if not any(container.get("name") == name for container in spec.get(key) or ()):
            raise TemplateError(f"patch: the container {name!r} in {key} must stay")


def _check_labels(where: str, metadata: Json, values: Json) -> None:
    for key in (LABEL_MANAGED, LABEL_DEPLOYMENT, LABEL_REVISION):
        if (metadata.get("labels") or {}).get(key) != values["labels"][key]:
            raise TemplateError(f"patch: {where}: the label {key!r} finds it and must stay")


def _refuse_literals(objects: list[dict[str, Any]], known_as_none: list[str]) -> None:
    """Refuse secrets that would stand where everybody who sees the head can read them."""
    kind = kind_of(objects[0])
    pod = kind.pods_of(objects[0])["spec"]
    way = f"and everybody who sees the {kind.name} can read it; give it by the setting 'secrets'"
    for container in [*(pod.get("initContainers") or ()), *pod["containers"]]:
        for entry in container.get("env") or ():
            name, value = str(entry.get("name")), str(entry.get("value") or "")
            why = why_secret(name, value, known_as_none) if "value" in entry else ""
            if why:
                raise TemplateError(f"patch: the variable {name}: {why}, {way}")
    exempt = set(known_as_none)
    for text in texts_in(objects):
        if text not in exempt and holds_credentials(text):
            name = kind.template.rpartition("/")[2]
            raise TemplateError(f"a URL in the {name} holds credentials, {way}")
