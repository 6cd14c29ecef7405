"""The gate of a deployment: a model that fails its suite is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlflow_exec.errors import ConfigError, GateError, MlflowExecError
from mlflow_exec.runs.progress import Progress
from mlflow_exec.settings import TargetSettings

if TYPE_CHECKING:
    from mlflow_exec.evaluation.findings import Result
    from mlflow_exec.evaluation.suite.reading import Suite


class Gate:
    """Judges models by the suite that a deployment's settings name.

    A model that it refused once is refused again without a look, until the suite's file changes.
    """

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str, str], str] = {}

    def __call__(self, settings: TargetSettings, pinned_uri: str, progress: Progress) -> None:
        """Return where the model passes, or the settings have no gate.

        Raises:
            GateError: It fails; the message names the validations.
            ConfigError: The suite or the data are wrong.
            ScanError: Data or model cannot be judged here.
        """
        if settings.gate is None:
            return
        from mlflow_exec.evaluation.suite.reading import read_suite

        suite = read_suite(settings.gate)
        data = settings.gate_data or suite.place_of(suite.settings.data)
        if data is None:
            raise ConfigError(
                f"gate: the rows to judge by are needed; give {settings.gate!r} a 'data', or a "
                "file by -C gate_data"
            )
        key = (pinned_uri, data, suite.path.read_text(encoding="utf-8"))
        if key in self._refused:
            raise GateError(self._refused[key])
        try:
            with progress.working("judging the model") as said:
                result = _judged(suite, data, pinned_uri, said)
        except MlflowExecError as error:
            raise type(error)(f"gate: {error}") from error
        if why := _refusal(suite, result, pinned_uri):
            self._refused[key] = why
            raise GateError(why)
        for verdict in result.verdicts:
            state = "passed" if verdict.passed else f"failed ({verdict.severity})"
            progress.say(f"gate: {state} {verdict.name}: {verdict.message}")


def _judged(suite: Suite, data: str, model_uri: str, said: Callable[[str], None]) -> Result:
    from mlflow.utils.autologging_utils import disable_autologging

    from mlflow_exec.evaluation.inputs import load_pyfunc, model_of, read_rows
    from mlflow_exec.evaluation.scan import scan
    from mlflow_exec.evaluation.settings import scan_settings

    config: dict[str, object] = {"suite": str(suite.path)}
    asked = suite.checks()
    if asked is not None and "checks" not in suite.settings.scan:
        config["checks"] = sorted(asked)  # no others: what they find has no say here
    settings = scan_settings(config, "gate")
    rows = read_rows(data, suite.settings.target, settings.reference)
    with disable_autologging():
        return scan(rows, model_of(load_pyfunc(model_uri), rows, settings), settings, said)


def _refusal(suite: Suite, result: Result, model_uri: str) -> str | None:
    from mlflow_exec.evaluation.verdicts import failing

    failed = failing(result.verdicts, suite.settings.fail_on)
    if not failed:
        return None
    lines = [
        f"gate: {model_uri} fails {len(failed)} of the {len(result.verdicts)} validations of "
        f"{str(suite.path)!r}, so nothing was touched; give a model that passes, or leave the gate "
        "out:"
    ]
    lines += [f"  {v.name} ({v.severity}): {v.message}" for v in failed]
    return "\n".join(lines)
