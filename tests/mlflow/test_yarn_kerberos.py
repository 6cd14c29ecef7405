"""Projects on a YARN and an HDFS that ask everybody for a Kerberos ticket."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.exceptions import ExecutionException

from mlflow_exec.cli import cli
from tests.clusters.yarn.kerberos import KerberosYarnCluster
from tests.mlflow.submitted_runs import WAIT
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer
from tests.yarn_client import use


@pytest.fixture
def yarn(
    kerberos_yarn_cluster: KerberosYarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[YarnRuns]:
    """Submissions of a user who has just run kinit."""
    use(kerberos_yarn_cluster, monkeypatch, "ada")
    monkeypatch.delenv("HADOOP_USER_NAME", raising=False)
    mlflow.set_tracking_uri(yarn_tracking.url)
    runs = YarnRuns(yarn_tracking, tmp_path, kerberos_yarn_cluster)
    yield runs
    runs.close()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def keytab(kerberos_yarn_cluster: KerberosYarnCluster) -> dict[str, Any]:
    """The settings of a user who has a keytab."""
    kdc = kerberos_yarn_cluster.kdc
    return {"principal": "ada", "keytab": str(kdc.keytab("ada"))}


@pytest.fixture
def no_ticket(yarn: YarnRuns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take the ticket away."""
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/no-tickets")


def test_with_a_ticket(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project("print('by a ticket')"))
    run = yarn.ends(submitted, "SUCCEEDED")
    assert run.info.status == "FINISHED"
    assert "by a ticket" in yarn.log(run.info.run_id)
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    (application,) = yarn.applications(submitted.run_id)
    assert application["user"] == "ada"
    assert yarn.staged() == []


@pytest.mark.usefixtures("no_ticket")
def test_with_a_keytab(yarn: YarnRuns, keytab: dict[str, Any]) -> None:
    submitted = yarn.run(yarn.project("print('by a keytab'); raise SystemExit(7)"), **keytab)
    run = yarn.ends(submitted, "FAILED", "user_error")
    assert "by a keytab" in yarn.log(run.info.run_id)


def test_the_command_line_ends_finished(yarn: YarnRuns, keytab: dict[str, Any]) -> None:
    away = {"KRB5CCNAME": f"FILE:{yarn.folder}/none"}
    process = yarn.mlflow_run(yarn.project("print('hello')"), env=away, **keytab)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "hello" in out
    assert "SUCCEEDED" in err


def test_who_may_acts_as_another_user(
    yarn: YarnRuns, kerberos_yarn_cluster: KerberosYarnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(kerberos_yarn_cluster, monkeypatch, "gateway")
    submitted = yarn.run(yarn.project("print('for another')"), user="ada")
    run = yarn.ends(submitted, "SUCCEEDED")
    assert "for another" in yarn.log(run.info.run_id)
    use(kerberos_yarn_cluster, monkeypatch, "ada")
    (application,) = yarn.applications(submitted.run_id)
    assert application["user"] == "ada"
    assert yarn.staged() == []


def test_a_running_job_is_cancelled_and_a_finished_one_looked_at(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project(WAIT))
    yarn.says(submitted, "it waits")
    submitted.cancel()
    yarn.ends(submitted, "CANCELLED")
    shown = CliRunner().invoke(cli, ["status", submitted.run_id, "--output", "json"])
    assert json.loads(shown.stdout)["state"] == "CANCELLED"


@pytest.mark.usefixtures("no_ticket")
def test_without_a_ticket_nothing_is_touched(yarn: YarnRuns) -> None:
    before = yarn.run_ids()
    with pytest.raises(ExecutionException, match=r"Kerberos: no valid ticket.*run kinit, or give"):
        yarn.run(yarn.project("print('never')"))
    assert yarn.run_ids() == before


@pytest.mark.usefixtures("no_ticket")
@pytest.mark.parametrize(
    ("principal", "file", "message"),
    [
        ("eve", "ada", "holds no key of 'eve'"),
        ("ada", "none", "cannot be read"),
        ("ada", "text", "is no keytab"),
    ],
)
def test_a_keytab_that_does_not_fit_is_refused(
    yarn: YarnRuns, keytab: dict[str, Any], principal: str, file: str, message: str
) -> None:
    (yarn.folder / "text").write_text("no keytab")
    before = yarn.run_ids()
    path = keytab["keytab"] if file == "ada" else str(yarn.folder / file)
    with pytest.raises(ExecutionException, match=message):
        yarn.run(yarn.project("print('never')"), principal=principal, keytab=path)
    assert yarn.run_ids() == before


def test_a_kerberos_that_is_away_is_no_wrong_key(
    yarn: YarnRuns, keytab: dict[str, Any]
) -> None:
    nobody = Path(os.environ["KRB5_CONFIG"]).read_text()
    config = yarn.folder / "krb5.conf"
    config.write_text(re.sub(r"kdc = \S+", "kdc = 127.0.0.1:1", nobody))
    before = yarn.run_ids()
    # Another process, because this one may have a ticket of that key.
    away = {"KRB5_CONFIG": str(config), "KRB5CCNAME": f"FILE:{yarn.folder}/none"}
    process = yarn.mlflow_run(yarn.project("print('never')"), env=away, **keytab)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Cannot contact any KDC" in err
    assert "try again later" in err
    assert yarn.run_ids() == before


def test_doctor_tells_how_one_signs_in(yarn: YarnRuns, keytab: dict[str, Any]) -> None:
    by_ticket = doctor(yarn)
    assert "ada, Kerberos by the ticket cache" in by_ticket
    by_keytab = doctor(yarn, **keytab)
    assert "ada, Kerberos by the keytab" in by_keytab


@pytest.mark.usefixtures("no_ticket")
def test_doctor_tells_that_there_is_no_ticket(yarn: YarnRuns) -> None:
    assert "no valid ticket" in doctor(yarn)


def doctor(yarn: YarnRuns, **changes: Any) -> str:
    config = json.dumps(yarn.config(**changes))
    return CliRunner().invoke(cli, ["doctor", "yarn", "-c", config]).output
