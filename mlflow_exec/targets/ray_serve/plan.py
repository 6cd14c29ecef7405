"""A release as one application of Ray Serve, and the packages it needs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_exec import shipping
from mlflow_exec.clients.ray_packages import package_name
from mlflow_exec.credentials import holds_credentials, why_secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.releases import EndpointRelease, Release, Revision
from mlflow_exec.settings import RayServeSettings
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.requirements import merged_requirements
from mlflow_exec.templates import load_patch, merge, render, texts_in

TEMPLATE = "ray_serve/application.yaml.j2"
IMPORT_PATH = "mlflow_exec.scoring.ray_serve:build"
ROUTER_IMPORT_PATH = "mlflow_exec.scoring.ray_router:build"
DEPLOYMENTS = {IMPORT_PATH: "Model", ROUTER_IMPORT_PATH: "Router"}
"""The one deployment of each of our applications, by what builds it."""

# The runtime's own, where the model names none; the rest comes with Ray.
_OWN_REQUIREMENTS = ("orjson>=3.10,<4",)
# More than Ray's 5, because what is not being computed is being read or written meanwhile.
_ONGOING_REQUESTS = 64
_ROUTED_REQUESTS = 1024
_RAY = re.compile(r"^ray(\[|[^\w.-]|$)", re.IGNORECASE)


def make_plan(release: Release, settings: RayServeSettings) -> ReleasePlan:
    """Return the application of a release, and its packages as data.

    Raises:
        ConfigError: A template, a patch or a setting cannot be honoured.
    """
    data: dict[str, bytes] = {}
    code, content = _package(shipping.code_files())
    data[code] = content
    packages = [code]
    model: dict[str, Any] = {"uri": release.model.pinned_uri}
    if release.model.package is not None:
        folder = f"mlflow_exec_model_{release.model.package.sha256[:16]}"
        files = shipping.files_below(release.model.package.path)
        name, content = _package({f"{folder}/{path}": body for path, body in files.items()})
        data[name] = content
        packages.append(name)
        model = {"folder": folder}
    application = _rendered(release, settings, packages, model)
    return ReleasePlan(Revision.of(release, [application]), data)


def _package(files: Mapping[str, bytes]) -> tuple[str, bytes]:
    sha256, content = shipping.zipped(files)
    return package_name(sha256), content


def make_endpoint_plan(release: EndpointRelease, settings: RayServeSettings) -> ReleasePlan:
    """Return the application of an endpoint's router, and its package as data.

    Raises:
        ConfigError: A patch or a setting cannot be honoured.
    """
    code, content = _package(shipping.code_files())
    router = {"name": release.name, **settings.router_options()}
    application = _application(
        release.name, settings,
        import_path=ROUTER_IMPORT_PATH,
        runtime_env=_environment({}, settings, [code]),
        args={"python": "", "router": router},
        cpu=0,  # it waits more than it computes, and must not take a model's place
        ongoing_requests=_ROUTED_REQUESTS,
    )  # fmt: skip
    return ReleasePlan(Revision.of_endpoint(release, [application]), {code: content})


def _rendered(
    release: Release, settings: RayServeSettings, packages: Sequence[str], model: Mapping[str, Any]
) -> dict[str, Any]:
    return _application(
        release.name, settings,
        import_path=IMPORT_PATH,
        runtime_env=_runtime_env(release, settings, packages),
        args=_args(release, settings, model),
        cpu=1,
        ongoing_requests=max(_ONGOING_REQUESTS, 4 * settings.batch.max_rows),
    )  # fmt: skip


def _application(
    name: str,
    settings: RayServeSettings,
    *,
    import_path: str,
    runtime_env: Mapping[str, Any],
    args: Mapping[str, Any],
    cpu: float,
    ongoing_requests: int,
) -> dict[str, Any]:
    template: str | Path = Path(settings.template) if settings.template else TEMPLATE
    asked = settings.resources
    options: dict[str, Any] = {"num_cpus": cpu if asked.cpu is None else asked.cpu}
    options |= {"num_gpus": asked.gpu} if asked.gpu else {}
    options |= {"memory": asked.memory} if asked.memory else {}
    options |= {"resources": asked.custom} if asked.custom else {}
    values = {
        "name": name,
        "route_prefix": settings.route_prefix or f"/{name}",
        "import_path": import_path,
        "deployment": DEPLOYMENTS[import_path],
        "runtime_env": runtime_env,
        "args": args,
        "num_replicas": settings.num_replicas,
        "max_replicas": settings.max_replicas,
        "max_ongoing_requests": settings.max_ongoing_requests or ongoing_requests,
        "max_queued_requests": settings.max_queued_requests,
        "grace_s": settings.request_timeout_s + settings.drain_s,
        "ray_actor_options": options,
    }
    objects = render(template, values)
    if len(objects) != 1:
        raise TemplateError(f"template {str(template)!r}: exactly one object is needed")
    application = merge(objects[0], load_patch(settings.patch))
    _protect(application, name, import_path)
    _refuse_literals(application, settings.not_secret)
    return application


def _args(
    release: Release, settings: RayServeSettings, model: Mapping[str, Any]
) -> dict[str, Any]:
    scoring: dict[str, Any] = {
        "name": release.name,
        "model_version": release.model.version,
        **settings.scoring_options(),
    }
    if settings.token is not None:
        scoring["token_file" if settings.token.file else "token_env"] = (
            settings.token.file or settings.token.node_env
        )
    secrets = {
        name: {"env": reference.node_env, "file": reference.file}
        for name, reference in settings.secrets.items()
    }
    python = "" if settings.any_python else release.model.python
    return {"model": dict(model), "python": python, "scoring": scoring, "secrets": secrets}


def _runtime_env(
    release: Release, settings: RayServeSettings, packages: Sequence[str]
) -> dict[str, Any]:
    variables = dict(release.env)
    if release.tracking_uri:
        variables["MLFLOW_TRACKING_URI"] = release.tracking_uri
    result = _environment(variables, settings, packages)
    if settings.environment == "uv":
        found, options = requirements(release.model.requirements, settings.requirements)
        result["uv"] = {"packages": found}
        if options:
            result["uv"]["uv_pip_install_options"] = options
    elif settings.requirements:
        raise ConfigError(
            "requirements: nothing is installed with 'environment' local; set 'environment' to uv"
        )
    return result


def _environment(
    variables: Mapping[str, str], settings: RayServeSettings, packages: Sequence[str]
) -> dict[str, Any]:
    both = {**variables, **settings.env}
    for name, value in both.items():
        if "$" in value:
            raise ConfigError(f"env.{name}: Ray replaces what follows a '$'; given {value!r}")
    result: dict[str, Any] = {"py_modules": [f"gcs://{name}" for name in packages]}
    return {**result, "env_vars": both} if both else result


def requirements(model: Sequence[str], further: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what to install for a model, and the options to install it with.

    Ray itself is left out: another version than the cluster's could not join it.

    Raises:
        ConfigError: A line names a file, which is not there.
    """
    lines = merged_requirements(_OWN_REQUIREMENTS, model, further)
    options = [line.replace("=", " ", 1) for line in lines if line.startswith("-")]
    packages = [line for line in lines if not line.startswith("-") and not _RAY.match(line)]
    return packages, [part for option in options for part in option.split(None, 1)]


def _protect(application: Mapping[str, Any], name: str, import_path: str) -> None:
    """Refuse a template or patch that takes away what finds or starts the application."""
    for key, wanted in (("name", name), ("import_path", import_path)):
        if application.get(key) != wanted:
            given = application.get(key)
            raise TemplateError(f"patch: {key} must stay {wanted!r}; given {given!r}")
    deployments = application.get("deployments")
    names = [d.get("name") for d in deployments or () if isinstance(d, Mapping)]
    if names != [DEPLOYMENTS[import_path]]:
        raise TemplateError(
            f"patch: deployments: one, {DEPLOYMENTS[import_path]!r}, is needed; given {names}"
        )
    assert isinstance(deployments, list)
    if "user_config" in deployments[0]:
        raise TemplateError("patch: user_config holds the revision and is ours")


def _refuse_literals(application: Mapping[str, Any], known_as_none: list[str]) -> None:
    """Refuse secrets that a template or a patch would show to everybody who can see Serve."""
    way = "and everybody who can see the application could read it; give it by 'secrets'"
    for name, value in _variables(application):
        if why := why_secret(name, value, known_as_none):
            raise ConfigError(f"env_vars.{name}: {why}, {way}")
    for text in texts_in(application):
        if holds_credentials(text):
            raise ConfigError(f"patch, requirements: a URL holds credentials, {way}")


def _variables(value: object) -> Iterator[tuple[str, str]]:
    """Yield the variables of all runtime environments in an object."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "env_vars" and isinstance(inner, Mapping):
                yield from ((str(name), str(text)) for name, text in inner.items())
            else:
                yield from _variables(inner)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _variables(item)
