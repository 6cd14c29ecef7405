"""The checks by name: sorted data, imported only when a scan runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_exec.registry import load

if TYPE_CHECKING:
    from mlflow_exec.evaluation.checks.base import Check

CHECKS: dict[str, str] = {
    "baseline": "mlflow_exec.evaluation.checks.baseline:Baseline",
    "batch_dependence": "mlflow_exec.evaluation.checks.batch_dependence:BatchDependence",
    "calibration": "mlflow_exec.evaluation.checks.calibration:Calibration",
    "data_leakage": "mlflow_exec.evaluation.checks.data_leakage:DataLeakage",
    "drift": "mlflow_exec.evaluation.checks.drift:Drift",
    "ethical_bias": "mlflow_exec.evaluation.checks.ethical_bias:EthicalBias",
    "label_issues": "mlflow_exec.evaluation.checks.label_issues:LabelIssues",
    "overconfidence": "mlflow_exec.evaluation.checks.overconfidence:Overconfidence",
    "performance_bias": "mlflow_exec.evaluation.checks.performance_bias:PerformanceBias",
    "robustness": "mlflow_exec.evaluation.checks.robustness:Robustness",
    "spurious_correlation":
        "mlflow_exec.evaluation.checks.spurious_correlation:SpuriousCorrelation",
    "stochasticity": "mlflow_exec.evaluation.checks.stochasticity:Stochasticity",
    "underconfidence": "mlflow_exec.evaluation.checks.underconfidence:Underconfidence",
}
assert list(CHECKS) == sorted(CHECKS), "keep CHECKS sorted"


def check_class(name: str) -> type[Check[Any]]:
    """Return the class of the check of that name, which is one of `CHECKS`."""
    found: type[Check[Any]] = load(CHECKS[name])
    return found
