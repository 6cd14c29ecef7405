"""``mlflow run --backend yarn`` and ``mlflow-exec``, from shells with the same and other settings.

All commands that submit are started at once, and the tests look at one after the other.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_exec.clients.ports import free_port
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected
from tests.clusters.yarn.cluster import YarnCluster
from tests.mlflow.conftest import yarn_submissions
from tests.mlflow.submitted_runs import WAIT
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer

TAKES_A_CODE = """
name: takes a code
entry_points:
  main:
    parameters:
      code: {type: float, default: 0}
    command: python3 main.py {code}
"""
ENDS = "import sys; print('last words'); raise SystemExit(int(sys.argv[1]))"
COMMAND_S = 300.0


@dataclass
class Command:
    """A command of a user's shell, and what it says as it comes."""

    process: subprocess.Popen[str]
    out: Collected[str]
    err: Collected[str]

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> Command:
        assert process.stdout is not None
        assert process.stderr is not None
        return cls(process, Collected(process.stdout), Collected(process.stderr))

    def ended(self) -> tuple[int, str, str]:
        """Return its exit code and what it said; fails when that takes too long."""
        out, err = "".join(self.out.all(COMMAND_S)), "".join(self.err.all(COMMAND_S))
        return self.process.wait(COMMAND_S), out, err


@dataclass
class Shells:
    """The commands of this module."""

    runs: YarnRuns
    good: Command
    bad: Command
    interrupted: Command

    def run_of(self, text: str) -> ExecSubmittedRun:
        """Return the run that a command says it submitted."""
        found = re.search(r"run ([0-9a-f]{32}) is job yarn://", text)
        assert found, text
        submitted = attach(found.group(1), tracking_uri=self.runs.server.url)
        self.runs.submitted.append(submitted)
        return submitted


@pytest.fixture(scope="module")
def shells(
    yarn_cluster: YarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shells]:
    folder = tmp_path_factory.mktemp("shells")
    with pytest.MonkeyPatch.context() as patch, yarn_submissions(
        yarn_cluster, yarn_tracking, folder, patch
    ) as runs:
        ends, waits = runs.project(ENDS, TAKES_A_CODE), runs.project(WAIT)
        yield Shells(
            runs,
            Command.of(runs.mlflow_run(ends, "--run-name", "from the shell")),
            Command.of(runs.mlflow_run(ends, "-P", "code=7")),
            Command.of(runs.mlflow_run(waits)),
        )


def mlflow_exec(runs: YarnRuns, *arguments: str, conf_dir: Path | None = None) -> tuple[int, str]:
    """Run a command of ours; return its exit code and its stdout, or its stderr where it fails."""
    env = {"HADOOP_CONF_DIR": str(conf_dir or runs.cluster.conf_dir)}
    code, out, err = Command.of(runs.command_line("mlflow-exec", *arguments, env=env)).ended()
    assert "Traceback" not in err
    return code, out if code == 0 else err


def other_configuration(runs: YarnRuns, copy: Path, old: str, new: str) -> Path:
    """Write the cluster's configuration with a text replaced."""
    shutil.copytree(runs.cluster.conf_dir, copy)
    for file in copy.glob("*-site.xml"):
        file.write_text(file.read_text().replace(old, new))
    return copy


def test_success_is_exit_code_0_and_its_log_is_stdout(shells: Shells) -> None:
    code, out, err = shells.good.ended()
    assert code == 0, err
    assert out.count("last words\n") == 1
    run = shells.runs.ends(shells.run_of(err), "SUCCEEDED")
    assert run.info.run_name == "from the shell"
    assert run.data.params == {"code": "0"}


def test_failure_is_exit_code_1_and_says_why(shells: Shells) -> None:
    code, out, err = shells.bad.ended()
    assert code == 1, err
    assert out.count("last words\n") == 1
    assert "user_error" in err
    assert "Traceback" not in err
    submitted = shells.run_of(err)
    shells.runs.ends(submitted, "FAILED", "user_error")

    code, out = mlflow_exec(shells.runs, "status", submitted.run_id, "--output", "json")
    status = json.loads(out)
    assert (code, status["state"], status["failure"]["category"]) == (0, "FAILED", "user_error")
    code, out = mlflow_exec(shells.runs, "logs", submitted.run_id, "--output", "json")
    assert "last words" in "".join(json.loads(line)["log"] for line in out.splitlines())
    code, out = mlflow_exec(shells.runs, "list", "--output", "json")
    (row,) = [row for row in json.loads(out) if row["run_id"] == submitted.run_id]
    assert (row["backend"], row["state"]) == ("yarn", "FAILED")


def test_ctrl_c_leaves_the_job_to_whoever_comes_back(shells: Shells, tmp_path: Path) -> None:
    command, runs = shells.interrupted, shells.runs
    command.out.until(lambda lines: "it waits\n" in lines, "its log is followed", COMMAND_S)
    command.process.send_signal(signal.SIGINT)
    code, _, err = command.ended()
    assert code == 130, err
    job = shells.run_of(err)
    assert f"mlflow-exec attach {job.run_id}" in err
    assert f"mlflow-exec cancel {job.run_id}" in err

    # The same cluster by another name of its hosts, as another machine may know it.
    elsewhere = other_configuration(runs, tmp_path / "same", "127.0.0.1", "localhost")
    code, out = mlflow_exec(runs, "status", job.run_id, "--output", "json", conf_dir=elsewhere)
    assert (code, json.loads(out)["state"]) == (0, "RUNNING"), out
    code, out = mlflow_exec(runs, "logs", job.run_id, conf_dir=elsewhere)
    assert out.count("it waits\n") == 1
    attached = runs.command_line(
        "mlflow-exec", "attach", job.run_id, env={"HADOOP_CONF_DIR": str(elsewhere)}
    )
    follower = Command.of(attached)
    follower.out.until(lambda lines: "it waits\n" in lines, "the log from its start", COMMAND_S)
    address = runs.cluster.resource_manager_url.removeprefix("http://")
    nobody = f"127.0.0.1:{free_port()}"
    other = other_configuration(runs, tmp_path / "other", address, nobody)
    code, err = mlflow_exec(runs, "cancel", job.run_id, conf_dir=other)
    assert (code, f"YARN http://{nobody}: no answer" in err) == (1, True), err
    code, out = mlflow_exec(
        runs, "cancel", job.run_id, "--output", "json", conf_dir=elsewhere
    )
    assert (code, json.loads(out)["state"]) == (0, "CANCELLED"), out
    assert follower.ended()[0] == 1
    runs.ends(job, "CANCELLED")
    assert "it waits\n" in runs.log(job.run_id)
    assert not [path for path in runs.staged() if job.run_id in path or job.handle.uid in path]


def test_render_prints_the_application_and_makes_nothing(shells: Shells) -> None:
    runs = shells.runs
    before = runs.run_ids(), runs.staged()
    project, config = str(runs.project(ENDS, TAKES_A_CODE)), json.dumps(runs.config())
    arguments = ["render", project, "--backend", "yarn", "-c", config, "-P", "code=3"]
    code, out = mlflow_exec(runs, *arguments)
    (application,) = yaml.safe_load_all(out)
    assert (code, application["queue"], application["max_attempts"]) == (0, "default", 1)
    code, out = mlflow_exec(runs, *arguments, "--output", "json")
    found: dict[str, Any] = json.loads(out)
    assert found["objects"][0]["master"]["resources"]["memory"] == 512
    assert found["settings"]["hadoop_conf_dir"]["value"] == str(runs.cluster.conf_dir)
    assert (runs.run_ids(), runs.staged()) == before


def test_doctor_says_what_there_is_and_what_is_missing(shells: Shells, tmp_path: Path) -> None:
    runs = shells.runs
    code, out = mlflow_exec(runs, "doctor", "yarn", "--output", "json")
    assert code == 0, out
    found = {item["subject"].removeprefix("yarn: "): item for item in json.loads(out)}
    assert runs.cluster.resource_manager_url in found["cluster"]["detail"]
    assert "not root.closed" in found["queues"]["detail"]
    assert found["staging"]["detail"].endswith(f"/user/{runs.cluster.superuser}/.mlflow-exec")

    address = runs.cluster.resource_manager_url.removeprefix("http://")
    other = other_configuration(runs, tmp_path / "other", address, f"127.0.0.1:{free_port()}")
    env = {"HADOOP_CONF_DIR": str(other)}
    command = Command.of(runs.command_line("mlflow-exec", "doctor", "yarn", "-o", "json", env=env))
    code, out, err = command.ended()
    assert (code, "Traceback" in err) == (1, False)
    missing = {item["subject"]: item for item in json.loads(out) if not item["ok"]}
    assert list(missing) == ["yarn: cluster"]
    assert "no answer" in missing["yarn: cluster"]["detail"]
    assert "ResourceManager" in missing["yarn: cluster"]["way_on"]
