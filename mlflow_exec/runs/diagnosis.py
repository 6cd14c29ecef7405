"""What is installed, what is reached, what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_exec import registry
from mlflow_exec.credentials import hide, without_credentials
from mlflow_exec.errors import MissingExtraError, MlflowExecError
from mlflow_exec.reports import Finding
from mlflow_exec.runs.deploy import place
from mlflow_exec.runs.diagnosis_artifacts import open_passwords
from mlflow_exec.runs.diagnosis_sign_in import diagnose_sign_in
from mlflow_exec.settings import parse_settings

_SDKS = {"k8s": "kubernetes", "ray": "ray", "yarn": "skein"}


def diagnose(backend: str | None, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings about this installation, the tracking server, and the backends.

    Args:
        backend: Only this one; None for all whose extra is installed.
        config: Settings of that backend.
    """
    yield Finding(True, "mlflow-exec", f"{version('mlflow-exec')} with MLflow {version('mlflow')}")
    yield from _tracking()
    for item in registry.BACKENDS:
        if backend in (None, item.name):
            yield from _backend(item, config if backend else {}, asked=backend is not None)


def diagnose_target(target_uri: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings about this installation, the tracking server, and a deployment target.

    Args:
        target_uri: Such as ``ray-serve://host:8265``.
        config: Settings of it.
    """
    yield Finding(True, "mlflow-exec", f"{version('mlflow-exec')} with MLflow {version('mlflow')}")
    yield from _tracking()
    try:
        for finding in place(target_uri, config).target.diagnose():
            subject = f"{target_uri}: {finding.subject}"
            yield Finding(finding.ok, subject, finding.detail, finding.way_on)
    except MlflowExecError as error:
        yield Finding(False, target_uri, str(error))


def _tracking() -> Iterator[Finding]:
    uri = mlflow.get_tracking_uri()
    shown = without_credentials(uri)
    yield from diagnose_sign_in()
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        yield Finding(True, "tracking server", shown)
        yield from open_passwords(client)
    except (MlflowException, OSError) as error:
        way = "Set MLFLOW_TRACKING_URI, and MLFLOW_TRACKING_TOKEN or _USERNAME and _PASSWORD."
        yield Finding(False, "tracking server", f"{shown}: {hide(str(error))}", way)


def _backend(
    item: registry.Backend, config: Mapping[str, Any], *, asked: bool
) -> Iterator[Finding]:
    sdk = _SDKS[item.extra]
    try:
        yield Finding(True, item.name, f"{sdk} {version(sdk)} is installed")
    except PackageNotFoundError:
        way = f"pip install 'mlflow-exec[{item.extra}]'"
        yield Finding(not asked, item.name, f"{sdk} is not installed", way)
        return
    try:
        settings = parse_settings(registry.load(item.settings), config, "--backend-config")
        scheduler = registry.load(item.scheduler, item.extra)(settings)
        for finding in scheduler.diagnose():
            yield Finding(
                finding.ok, f"{item.name}: {finding.subject}", finding.detail, finding.way_on
            )
    except MissingExtraError as error:
        yield Finding(False, item.name, str(error))
    except MlflowExecError as error:
        yield Finding(False, f"{item.name}: cluster", str(error))
