"""``mlflow-exec scan``: look for what is wrong with a model, without an MLflow run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_exec.cli_output import emit, errors, output_option, parsed
from mlflow_exec.credentials import without_credentials
from mlflow_exec.errors import ConfigError, ScanError
from mlflow_exec.evaluation.verdicts import SEVERITIES, failing
from mlflow_exec.settings import cast_options, load_config

if TYPE_CHECKING:
    from mlflow_exec.evaluation.findings import Result


@click.command()
@click.argument("model_uri")
@click.argument("data")
@click.option("--target", "-t", metavar="COLUMN", help="The column with the labels.")
@click.option("--suite", metavar="FILE", help="Validations that the model has to pass, YAML.")
@click.option("--reference", metavar="FILE", help="The rows that the model learnt from.")
@click.option("--config", "-c", "file", metavar="FILE", help="The scan's settings, YAML or JSON.")
@click.option("--set", "-C", "options", metavar="NAME=VALUE", multiple=True, help="A setting.")
@click.option("--report", "-r", metavar="FILE", help="Write the HTML report there.")
@click.option("--result", metavar="FILE", help="Write the JSON result there.")
@click.option(
    "--fail-on", type=click.Choice(SEVERITIES), default=None,
    help="Exit with 1 where a validation of the suite that bad fails, or worse; without a suite, "
    "where there is such a finding.",
)  # fmt: skip
@output_option
def scan(
    model_uri: str, data: str, target: str | None, suite: str | None, reference: str | None,
    file: str | None, options: tuple[str, ...], report: str | None, result: str | None,
    fail_on: str | None, output: str,
) -> None:  # fmt: skip
    """Scan the model MODEL_URI on the rows of DATA (.csv, .parquet, .json, .feather, .tsv).

    Prints the findings, the worst first, and what became of the suite's validations. Exits with 0,
    with 1 where the model fails (see --fail-on; the suite names its own), and with 2 where it
    could not be told: the call, a file or the suite is wrong, or the model cannot be asked.
    """
    from mlflow_exec.evaluation.report_html import as_html
    from mlflow_exec.evaluation.report_json import as_data, as_json

    with errors(2):
        places = {"--report": report, "--result": result}
        _check_places(places)
        given = _settings(file, options)
        given |= {} if suite is None else {"suite": suite}
        given |= {} if reference is None else {"reference": reference}
        found, fail_on = _scanned(model_uri, data, target, given, fail_on)
        for (option, place), write in zip(places.items(), (as_html, as_json), strict=True):
            if place:
                _write(option, place, write(found))
        emit(as_data(found), output, _text(found))
        failed = _fails(found, fail_on)
    sys.exit(1 if failed else 0)


def _check_places(places: dict[str, str | None]) -> None:
    """Refuse what cannot be written before the time of a scan is spent."""
    for option, place in places.items():
        if place and Path(place).is_dir():
            raise ConfigError(f"{option}: {place!r} is a folder; name a file")
        if place and not Path(place).parent.is_dir():
            raise ConfigError(f"{option}: the folder of {place!r} is not there; make it first")


def _write(option: str, place: str, text: str) -> None:
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: {place!r} cannot be written: {error.strerror}") from error


def _fails(result: Result, fail_on: str | None) -> bool:
    """Return whether a model fails.

    Raises:
        ScanError: It cannot be told, since not all was looked at and nothing that bad was found.
    """
    if fail_on is None:
        return False
    if result.verdicts:
        return bool(failing(result.verdicts, fail_on))
    bad = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    if any(finding.severity.value in bad for finding in result.findings):
        return True
    unknown = [one.check for one in result.skipped if not one.expected]
    if unknown:
        raise ScanError(
            f"--fail-on {fail_on}: it cannot be told: these checks were not run to their end: "
            f"{', '.join(unknown)}; leave them out by 'skip', or mend what they say"
        )
    return False


def _settings(file: str | None, options: tuple[str, ...]) -> dict[str, Any]:
    from mlflow_exec.evaluation.settings import own_block

    given = dict(own_block(load_config(file))) if file else {}
    return given | cast_options(parsed(options), "-C")


def _scanned(
    model_uri: str, path: str, target: str | None, config: dict[str, Any], fail_on: str | None
) -> tuple[Result, str | None]:
    from mlflow_exec.evaluation.inputs import load_pyfunc, model_of, read_rows
    from mlflow_exec.evaluation.scan import scan
    from mlflow_exec.evaluation.settings import scan_settings
    from mlflow_exec.evaluation.suite.reading import suite_of
    from mlflow_exec.runs.progress import Progress

    settings = scan_settings(config, "scan")
    suite = suite_of(settings)
    if suite is not None:
        target, fail_on = target or suite.settings.target, fail_on or suite.settings.fail_on
    rows = read_rows(path, target, settings.reference)
    with Progress().working("scanning the model") as said:
        found = scan(rows, model_of(load_pyfunc(model_uri), rows, settings), settings, said)
    told = replace(found, model=without_credentials(model_uri), data=without_credentials(path))
    return told, fail_on


def _text(result: Result) -> str:
    lines = [f"{result.n_rows} rows, {result.n_columns} features, {result.task}"]
    for finding in result.findings:
        p = "" if finding.adjusted_p is None else f", p = {finding.adjusted_p:.2g}"
        lines.append(f"{finding.severity.name:7} {finding.check}: {finding.title}")
        lines.append(f"        {finding.size} rows{p}. {finding.advice}")
    lines += [f"skipped {item.check}: {item.reason}" for item in result.skipped]
    for verdict in result.verdicts:
        state = "passed" if verdict.passed else f"FAILED ({verdict.severity})"
        lines.append(f"{state} {verdict.name}: {verdict.message}")
    counts = ", ".join(f"{result.metrics[name]:.4g} {name}" for name in result.metrics)
    return "\n".join([*lines, counts or "no labels were given"])
