"""The evaluator ``mlflow-exec-scan`` of ``mlflow.models.evaluate``.

MLflow runs every evaluator that says it can, where none is named: so this one says so only where
its own settings have ``enabled: true``. Nothing of the scan is imported before one is asked for.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.models.evaluation.base import EvaluationResult, ModelEvaluator
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from mlflow_exec.credentials import hide
from mlflow_exec.errors import MlflowExecError

if TYPE_CHECKING:
    from mlflow_exec.evaluation.findings import Result

_log = logging.getLogger(__name__)
_FOLDER = "scan"
_MODEL_TYPES = ("classifier", "regressor", "text", None)
# Whoever is asked here was named by the user, or has said before that it is enabled:
# https://github.com/mlflow/mlflow/blob/v3.5.0/mlflow/models/evaluation/base.py (`_evaluate`;
# without names it is `resolve_evaluators_and_configs` that asks).
_ASKS_THE_CHOSEN = "_evaluate"


class ScanEvaluator(ModelEvaluator):  # type: ignore[misc]
    """Scans a model for faults; leaves counts, a JSON result and an HTML report on the run."""

    @classmethod
    def can_evaluate(cls, *, model_type: Any, evaluator_config: Any, **kwargs: Any) -> bool:
        """Whether the user wants it: it is named, or its own settings say ``enabled: true``."""
        if model_type not in _MODEL_TYPES:
            return False
        from mlflow_exec.evaluation.settings import own_block

        with _mlflow_errors():
            block = own_block(evaluator_config)
        if sys._getframe(1).f_code.co_name == _ASKS_THE_CHOSEN:
            return block.get("enabled") is not False
        return block.get("enabled") is True and _is_ours(block)

    def evaluate(
        self,
        *,
        model_type: Any,
        dataset: Any,
        run_id: str,
        evaluator_config: Any,
        model: Any = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        predictions: Any = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Scan the model, and log what is found to the run.

        Raises:
            MlflowException: The settings are wrong, or data or model cannot be scanned.
        """
        from mlflow.models import list_evaluators
        from mlflow.utils.autologging_utils import disable_autologging

        from mlflow_exec.evaluation.settings import NAME

        # Settings by evaluator, none of which is ours: MLflow hands all of them on as if flat.
        if evaluator_config and set(evaluator_config) <= set(list_evaluators()) - {NAME}:
            evaluator_config = {}
        # The scan fits small models of its own, which are nothing to log.
        with _mlflow_errors(), disable_autologging():
            result = _scan(model_type, dataset, evaluator_config, model, predictions)
            result = replace(result, model=_name_of(model), data=_name_of_data(dataset))
        return _logged(result, run_id)


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    try:
        yield
    except MlflowExecError as error:
        raise MlflowException(hide(str(error)), error_code=INVALID_PARAMETER_VALUE) from error


def _is_ours(block: Mapping[str, Any]) -> bool:
    """Whether settings are meant for the scan.

    MLflow hands a flat configuration to every evaluator, so one with keys of others is none of
    ours; a key that is nearly one of ours is a slip, and `evaluate` names it.
    """
    from difflib import get_close_matches

    from mlflow_exec.evaluation.settings import NAME, ScanSettings
    from mlflow_exec.settings import known_keys

    known = known_keys(ScanSettings)
    foreign = [key for key in block if not get_close_matches(str(key), [*known, "file"], n=1)]
    if foreign:
        _log.warning(
            "%s: not run, although the settings have enabled: true: %s is none of its settings; "
            "give it settings of its own, as evaluator_config={%r: {...}}", NAME,
            ", ".join(map(repr, foreign)), NAME,
        )  # fmt: skip
    return not foreign


def _scan(model_type: Any, dataset: Any, config: Any, model: Any, predictions: Any) -> Result:
    from mlflow_exec.evaluation.data import Data
    from mlflow_exec.evaluation.inputs import model_of, read_reference
    from mlflow_exec.evaluation.outputs import Task
    from mlflow_exec.evaluation.scan import scan
    from mlflow_exec.evaluation.settings import scan_settings
    from mlflow_exec.evaluation.suite.reading import suite_of
    from mlflow_exec.runs.progress import Progress

    settings = scan_settings(config)
    if settings.predictions is None and isinstance(predictions, str):
        settings = settings.model_copy(update={"predictions": predictions})
    data = Data(dataset.features_data, dataset.labels_data, feature_names=dataset.feature_names)
    if settings.reference is not None:
        suite = suite_of(settings)
        target = dataset.targets_name or (suite.settings.target if suite else None)
        data.reference = read_reference(settings.reference, data, target)
    task = {"classifier": Task.CLASSIFICATION, "regressor": Task.REGRESSION}.get(model_type)
    known = dataset.predictions_data if model is None else None
    with Progress().working("scanning the model") as said:
        return scan(data, model_of(model, data, settings, task=task, predictions=known),
                    settings, said)  # fmt: skip


def _name_of(model: Any) -> str:
    """Return which model it is; one that is not logged has no name."""
    logged = getattr(model, "model_id", None)
    return f"models:/{logged}" if logged else ""


def _name_of_data(dataset: Any) -> str:
    """Return which data it is; MLflow calls what the user has given no name ``dataset``."""
    return "" if dataset.name in (None, "dataset") else str(dataset.name)


def _logged(result: Result, run_id: str) -> EvaluationResult:
    import time

    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact, TextEvaluationArtifact
    from mlflow.utils.uri import append_to_uri_path

    from mlflow_exec.evaluation.report_html import as_html
    from mlflow_exec.evaluation.report_json import as_data, as_json

    client = MlflowClient()
    metrics = result.scan_metrics()
    now_ms = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(k, v, now_ms, 0) for k, v in metrics.items()])
    report = as_html(result)
    client.log_text(run_id, as_json(result), f"{_FOLDER}/result.json")
    client.log_text(run_id, report, f"{_FOLDER}/report.html")
    place = client.get_run(run_id).info.artifact_uri
    artifacts = {
        "scan_result": JsonEvaluationArtifact(
            append_to_uri_path(place, _FOLDER, "result.json"), as_data(result)
        ),
        "scan_report": TextEvaluationArtifact(
            append_to_uri_path(place, _FOLDER, "report.html"), report
        ),
    }
    return EvaluationResult(metrics=metrics, artifacts=artifacts, run_id=run_id)
