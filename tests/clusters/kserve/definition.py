"""The InferenceService, as far as a predictor with containers of one's own goes.

A predictor is a PodSpec and some fields of KServe's. The first comes from the API server itself, so
that it is as strict as with pods; the others are
https://kserve.github.io/website/docs/reference/crd-api#componentextensionspec.
"""

from __future__ import annotations

import json
from typing import Any

from kubernetes import client
from kubernetes.dynamic import DynamicClient

Json = dict[str, Any]

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
NAME = f"{PLURAL}.{GROUP}"

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_OF_KSERVE = {
    "minReplicas": _NUMBER, "maxReplicas": _NUMBER, "scaleTarget": _NUMBER, "timeout": _NUMBER,
    "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"], **_TEXT},
    "containerConcurrency": _NUMBER, "canaryTrafficPercent": _NUMBER,
    "labels": _TEXTS, "annotations": _TEXTS,
}  # fmt: skip
# A definition may use these and what they hold; all else in the API server's schemas is of no use.
_KEPT = {
    "additionalProperties", "default", "enum", "format", "items", "properties", "required", "type",
    "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type",
}  # fmt: skip
_EITHER = ("io.k8s.apimachinery.pkg.util.intstr.IntOrString",
           "io.k8s.apimachinery.pkg.api.resource.Quantity")  # fmt: skip


def definition(api: client.ApiClient) -> Json:
    """Return the CustomResourceDefinition."""
    schemas = _schemas(api, "/openapi/v3/apis/apps/v1")
    pod = _structural({"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}, schemas)
    strategy = {"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}
    predictor = {
        "type": "object",
        "properties": {
            **pod["properties"], **_OF_KSERVE, "deploymentStrategy": _structural(strategy, schemas),
        },
    }  # fmt: skip
    spec = {"type": "object", "required": ["predictor"], "properties": {"predictor": predictor}}
    version = {
        "name": VERSION, "served": True, "storage": True, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": spec, "status": _ANYTHING},
        }},
    }  # fmt: skip
    names = {"kind": "InferenceService", "listKind": "InferenceServiceList", "plural": PLURAL,
             "singular": "inferenceservice", "shortNames": ["isvc"]}  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }  # fmt: skip


def _schemas(api: client.ApiClient, path: str) -> Json:
    answer = DynamicClient(api).request("get", path, serialize=False)
    schemas: Json = json.loads(answer.data)["components"]["schemas"]
    return schemas


def _structural(schema: Json, schemas: Json) -> Json:
    """Return a schema of the API server's as a definition may have it: without references."""
    if "allOf" in schema:  # a reference with a default beside it, which says nothing
        return _structural(schema["allOf"][0], schemas)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in _EITHER:
            return {"x-kubernetes-int-or-string": True}
        return _structural(schemas[name], schemas)
    found = {key: value for key, value in schema.items() if key in _KEPT}
    if found.get("default") == {} or ("enum" in found and found.get("default") == ""):
        del found["default"]  # what Go has where nothing is given, and no value that is allowed
    for key in ("items", "additionalProperties"):
        if key in found:
            found[key] = _structural(found[key], schemas)
    if "properties" in found:
        of = found["properties"]
        found["properties"] = {name: _structural(part, schemas) for name, part in of.items()}
    return found
