"""Templates: every native object is rendered from a file in ``deploy_templates/``.

Jinja2 in YAML. Every expression is emitted as JSON, so a value can never break out of its place;
unknown names are errors; templates reach no Python object but the values given to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template, Undefined
from jinja2 import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlflow_exec.errors import TemplateError

# libyaml's parser, ten times as fast, where PyYAML was built with it.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PACKAGE = Path(__file__).resolve().parent

# To YAML 1.1 a number with an exponent and no point is a text. Strings are passed over.
_POWER_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?e[-+]?\d+')
# What YAML does not allow, or changes, inside a double-quoted scalar (https://yaml.org/spec/1.1/
# #c-printable); JSON escapes only the characters below U+0020.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

# Lists of named objects are merged by these keys, as the API server's strategic merge does:
# https://github.com/kubernetes/kubernetes/blob/v1.34.1/staging/src/k8s.io/api/core/v1/types.go
# (`patchMergeKey`); all other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "deployments": "name",  # of an application of Ray Serve
}


def folder() -> Path:
    """Return the folder of the built-in templates: in the wheel, or at the checkout's root."""
    inside = _PACKAGE / "deploy_templates"
    return inside if inside.is_dir() else _PACKAGE.parent / "deploy_templates"


def to_yaml_scalar(value: object) -> str:
    """Write a value as JSON that every YAML 1.1 parser reads back as the same value.

    Raises:
        TemplateError: The value has no place in JSON.
    """
    if isinstance(value, Undefined):
        str(value)  # StrictUndefined raises the error that names the variable
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise TemplateError(f"template: the value {value!r} cannot be written: {error}") from error
    text = _POWER_OR_STRING.sub(_with_point, text)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _with_point(match: re.Match[str]) -> str:
    mantissa, _, exponent = match.group().partition("e")
    if mantissa.startswith('"') or "." in mantissa:
        return match.group()
    return f"{mantissa}.0e{exponent}"


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    """Return a template; a process that submits many jobs compiles each once."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=to_yaml_scalar,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.from_string(source)


def render(template: str | Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Render a template to the objects in it.

    Args:
        template: The path below ``deploy_templates/`` (a str), or any file (a Path).
        values: The names that the template may use.

    Raises:
        TemplateError: It cannot be read, uses an unknown name, or is not YAML of objects.
    """
    path = template if isinstance(template, Path) else folder() / template
    try:
        text = _compiled(path.read_text(encoding="utf-8")).render(dict(values))
        objects = [item for item in yaml.load_all(text, _LOADER) if item is not None]
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"template {str(template)!r}: cannot be read: {error}") from error
    except JinjaError as error:
        raise TemplateError(f"template {str(template)!r}: {error}") from error
    except yaml.YAMLError as error:
        raise TemplateError(f"template {str(template)!r}: not valid YAML: {error}") from error
    if not all(isinstance(item, dict) for item in objects):
        raise TemplateError(f"template {str(template)!r}: every document must be a mapping")
    return objects


def to_yaml(objects: Iterable[Mapping[str, Any]]) -> str:
    """Return objects as YAML documents for people and for ``kubectl apply``."""
    return yaml.dump_all(objects, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=100)


# libyaml's emitter, several times as fast, where PyYAML was built with it.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Readable(_Dumper):  # type: ignore[misc]
    """Writes texts of several lines as blocks, and repeated objects in full."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _block)


def load_patch(patch: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return a patch given inline or as the path of a YAML file.

    Raises:
        TemplateError: The file cannot be read, or is not a mapping.
    """
    if patch is None:
        return {}
    if not isinstance(patch, str):
        return dict(patch)
    try:
        data = yaml.safe_load(Path(patch).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateError(f"patch {patch!r}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise TemplateError(f"patch {patch!r}: a mapping is needed")
    return data


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a patch into an object by Kubernetes' rules and return the result.

    Mappings are merged key by key, null deletes a key, lists of named objects are merged by name
    (``$patch: delete`` removes one, ``$patch: replace`` keeps only the patch), other lists are
    replaced. Neither argument is changed.

    Raises:
        TemplateError: A named object in the patch has no name.
    """
    if patch.get("$patch") == "replace":
        return {key: deepcopy(value) for key, value in patch.items() if key != "$patch"}
    result = deepcopy(dict(base))
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            old = result.get(key)
            result[key] = merge(old if isinstance(old, Mapping) else {}, value)
        elif isinstance(value, list) and key in MERGE_KEYS and isinstance(result.get(key), list):
            result[key] = _merge_named(result[key], value, key)
        else:
            result[key] = deepcopy(value)
    return result


def texts_in(value: object) -> Iterator[str]:
    """Yield every text in an object, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)


def _merge_named(base: list[Any], patch: list[Any], where: str) -> list[Any]:
    key = MERGE_KEYS[where]
    if any(isinstance(item, Mapping) and item.get("$patch") == "replace" for item in patch):
        return [deepcopy(i) for i in patch if not (isinstance(i, Mapping) and "$patch" in i)]
    result = {item.get(key): item for item in base if isinstance(item, Mapping)}
    for item in patch:
        if not isinstance(item, Mapping) or item.get(key) is None:
            raise TemplateError(f"patch: an entry of {where!r} has no {key!r}; given {item!r}")
        if item.get("$patch") == "delete":
            result.pop(item[key], None)
        else:
            result[item[key]] = merge(result.get(item[key], {}), item)
    return list(result.values())
