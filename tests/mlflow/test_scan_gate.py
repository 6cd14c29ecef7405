"""The gate of a deployment: `-C gate=suite.yaml` refuses a model that fails, touching nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from mlflow_exec.cli import cli
from mlflow_exec.errors import ConfigError, GateError
from mlflow_exec.plugins.gate import Gate
from mlflow_exec.runs import deploy
from mlflow_exec.runs.progress import Progress
from mlflow_exec.settings import RayServeSettings
from tests.answering_server import Answer, Asked, answering
from tests.mlflow import scanned_models

pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a suite, a model that passes (`a`) and one that does not (`b`)."""
    place = tmp_path_factory.mktemp("gate")
    scanned_models.rows(place)
    for column in "ab":
        scanned_models.model(place, column)
    scanned_models.suite(place)
    return place


ASKED: list[Asked] = []


@pytest.fixture(params=["ray-serve", "k8s"])
def target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A target that notes in `ASKED` whatever it is asked, and refuses it."""
    ASKED.clear()

    def refuse(asked: Asked) -> Answer:
        ASKED.append(asked)
        return Answer({"message": "nobody may do this"}, 403)

    with answering(refuse) as url:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield "k8s" if request.param == "k8s" else url.replace("http", "ray-serve")


def gated(folder: Path, **more: Any) -> dict[str, Any]:
    return {"gate": str(folder / "suite.yaml"), **more}


def test_a_model_that_fails_is_refused_and_nothing_is_asked(folder: Path, target: str) -> None:
    client = get_deploy_client(target)
    with pytest.raises(MlflowException) as refused:
        client.create_deployment("iris", str(folder / "model-b"), config=gated(folder))
    said = str(refused.value)
    assert "fails 1 of the 3 validations" in said
    assert "accuracy (major): accuracy is 0." in said
    assert "(our contract)" in said
    with pytest.raises(MlflowException, match=r"accuracy \(major\)"):
        client.update_deployment("iris", str(folder / "model-b"), config=gated(folder))
    assert ASKED == []


def test_a_model_that_passes_goes_on_to_the_target(folder: Path, target: str) -> None:
    client = get_deploy_client(target)
    with pytest.raises(MlflowException, match=r"403|nobody may do this"):
        client.create_deployment("iris", str(folder / "model-a"), config=gated(folder))
    assert ASKED
    assert {asked.method for asked in ASKED} == {"GET"}


def test_both_command_lines_refuse_it(folder: Path, target: str) -> None:
    arguments = ["create", "-t", target, "--name", "iris", "-m", str(folder / "model-b")]
    gate = f"gate={folder / 'suite.yaml'}"
    by_mlflow = CliRunner().invoke(commands, [*arguments, "-C", gate])
    assert by_mlflow.exit_code == 1
    assert "accuracy (major)" in by_mlflow.output
    ours = CliRunner().invoke(cli, ["deployments", *arguments, "-C", gate])
    assert isinstance(ours.exception, GateError)
    assert ASKED == []


def test_a_suite_that_counts_minor_failures_refuses_more(folder: Path, tmp_path: Path) -> None:
    suite = scanned_models.suite(tmp_path, fail_on="minor", data=str(folder / "rows.csv"))
    with pytest.raises(GateError, match=r"by_b \(minor\)"):
        Gate()(RayServeSettings(gate=suite), str(folder / "model-a"), Progress())


def test_other_rows_can_be_given(folder: Path, tmp_path: Path) -> None:
    suite = scanned_models.suite(tmp_path, data=None)
    settings = RayServeSettings(gate=suite)
    with pytest.raises(ConfigError, match=r"give .* a 'data', or a file by -C gate_data"):
        Gate()(settings, str(folder / "model-a"), Progress())
    settings = RayServeSettings(gate=suite, gate_data=str(folder / "rows.csv"))
    Gate()(settings, str(folder / "model-a"), Progress())


def test_a_model_that_was_refused_is_not_judged_again_until_the_suite_changes(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "rows.csv", tmp_path / "rows.csv")
    settings, gate = RayServeSettings(gate=scanned_models.suite(tmp_path)), Gate()
    with pytest.raises(GateError):
        gate(settings, str(folder / "model-b"), Progress())
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(GateError):
        gate(settings, str(folder / "model-b"), Progress())
    scanned_models.suite(tmp_path, fail_on="minor")
    with pytest.raises(Exception, match=r"gate: data: there is no file .*rows.csv"):
        gate(settings, str(folder / "model-b"), Progress())


def test_it_is_of_one_call_and_refused_where_it_has_no_effect(target: str) -> None:
    assert deploy.kept_settings({"gate": "s.yaml", "gate_data": "d.csv", "wait": True}) == {}
    with pytest.raises(ConfigError, match="gate_data: it has no effect without 'gate'"):
        deploy.place(target, {"gate_data": "rows.csv"})
    place = deploy.place(target, {"gate": "suite.yaml"})
    with pytest.raises(ConfigError, match="gate: a way back repeats a revision"):
        deploy.rollback(target, place, "iris", None, Progress())
    with pytest.raises(MlflowException, match="gate"):
        get_deploy_client(target).create_endpoint("e", {"weights": '{"a": 1}', "gate": "s.yaml"})
    assert ASKED == []
