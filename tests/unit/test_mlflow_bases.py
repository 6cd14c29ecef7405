"""What MLflow's base classes want of a plugin, of the MLflow that is installed.

Most of them do not refuse what is missing: the method of the base returns None, and nobody sees.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.schemes import BY_NAME, CAPABILITIES, SCHEMES, Authority, Scheme

# MLflow's own store of runs, which is in the process of the tests here.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

BASES = {
    "mlflow.artifact_repository": "mlflow.store.artifact.artifact_repo:ArtifactRepository",
    "mlflow.default_experiment_provider":
        "mlflow.tracking.default_experiment.abstract_context:DefaultExperimentProvider",
    "mlflow.deployments": "mlflow.deployments:BaseDeploymentClient",
    "mlflow.model_evaluator": "mlflow.models.evaluation.base:ModelEvaluator",
    "mlflow.model_registry_store": "mlflow.store.model_registry.abstract_store:AbstractStore",
    "mlflow.project_backend": "mlflow.projects.backend.abstract_backend:AbstractBackend",
    "mlflow.request_auth_provider": "mlflow.tracking.request_auth.abstract_request_auth_provider"
        ":RequestAuthProvider",
    "mlflow.request_header_provider":
        "mlflow.tracking.request_header.abstract_request_header_provider:RequestHeaderProvider",
    "mlflow.run_context_provider": "mlflow.tracking.context.abstract_context:RunContextProvider",
    "mlflow.tracking_store": "mlflow.store.tracking.abstract_store:AbstractStore",
}  # fmt: skip
# MLflow's bases only describe them, and do nothing.
ALSO_WANTED = {"mlflow.artifact_repository": ["delete_artifacts"]}
PLUGINS = [
    point for point in distribution("mlflow-exec").entry_points if point.group.startswith("mlflow.")
]
each_plugin = pytest.mark.parametrize("point", PLUGINS, ids=lambda p: f"{p.group[7:]}-{p.name}")


def base_of(group: str) -> type:
    module, _, name = BASES[group].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def scheme_of(point: EntryPoint) -> Scheme:
    """Return the scheme, also of the spelling without '+'."""
    return BY_NAME[point.name.replace("fsspec-", "fsspec+")]


def class_of(point: EntryPoint, folder: Path) -> type:
    """Return the class that MLflow gets: the entry point, in that module, or what that makes."""
    found = point.load()
    if inspect.ismodule(found):
        of_clients = inspect.getmembers(found, inspect.isclass)
        (found,) = [c for _, c in of_clients if issubclass(c, base_of(point.group))]
    elif inspect.isfunction(found):
        scheme = scheme_of(point)
        is_folder = scheme.authority is Authority.FOLDER
        found = type(found(f"{point.name}:{folder}" if is_folder else scheme.example))
    assert inspect.isclass(found)
    return found


def wanted(cls: type) -> set[str]:
    """Return the names of all methods and properties that some base has as an abstract one."""
    return {
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if getattr(member, "__isabstractmethod__", False)
    }


def missing(cls: type, *further: str) -> list[str]:
    """Return those of them that a class has not, or has from a base of MLflow only to say so."""
    found = []
    for name in sorted({*wanted(cls), *further}):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        of_mlflow = name in further and owner.__module__.partition(".")[0] == "mlflow"
        if of_mlflow or getattr(vars(owner)[name], "__isabstractmethod__", False):
            found.append(name)
    return found


def unlike(cls: type) -> Iterator[str]:
    """Yield which method of ours does not take what MLflow's own takes, or wants more."""
    for name, member in inspect.getmembers(cls, inspect.isfunction):
        if not member.__module__.startswith("mlflow_exec"):
            continue
        for base in cls.__mro__:
            theirs: Any = vars(base).get(name)
            if base.__module__.startswith("mlflow.") and inspect.isfunction(theirs):
                yield from (f"{name}: {why}" for why in refused(member, theirs))


def refused(ours: Any, theirs: Any) -> Iterator[str]:
    """Yield what somebody may give who reads the signature of the base."""
    mine, their = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    kinds = {parameter.kind for parameter in mine.values()}
    for name, parameter in their.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in mine and inspect.Parameter.VAR_KEYWORD not in kinds:
            yield f"{name!r} is not taken"
    for name, parameter in mine.items():
        is_needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD,
        )  # fmt: skip
        if is_needed and name not in their:
            yield f"{name!r} is needed"


@each_plugin
def test_a_plugin_has_all_that_its_base_class_wants(point: EntryPoint, tmp_path: Path) -> None:
    cls = class_of(point, tmp_path)
    assert issubclass(cls, base_of(point.group))
    assert missing(cls, *ALSO_WANTED.get(point.group, [])) == []
    assert list(unlike(cls)) == []


def test_what_signs_urls_is_what_tells_clients_so() -> None:
    """By their class; the page of schemes says it of the same ones."""
    telling = {scheme_of(p).name for p in PLUGINS if ".bucket_artifacts:" in p.value}
    assert telling == {s.name for s in SCHEMES if CAPABILITIES[s.store].signed_urls}


def test_so_has_what_a_backend_returns() -> None:
    assert wanted(ExecSubmittedRun)
    assert missing(ExecSubmittedRun) == []
    assert list(unlike(ExecSubmittedRun)) == []


@pytest.mark.parametrize("group", BASES)
def test_the_walk_sees_what_is_missing_in_each_base_class(group: str) -> None:
    base = base_of(group)

    class Nothing(base):  # type: ignore[misc, valid-type]
        pass

    assert set(missing(Nothing)) == wanted(base)
    assert wanted(base)


def test_the_walk_sees_what_is_not_taken() -> None:
    base = base_of("mlflow.artifact_repository")

    class Old(base):  # type: ignore[misc, valid-type]
        __module__ = "mlflow_exec.old"

        def __init__(self, artifact_uri: str) -> None: ...

        def delete_artifacts(self, path: str) -> None: ...

    for method in (Old.__init__, Old.delete_artifacts):
        method.__module__ = "mlflow_exec.old"
    told = list(unlike(Old))
    assert "__init__: 'tracking_uri' is not taken" in told
    assert "delete_artifacts: 'path' is needed" in told
