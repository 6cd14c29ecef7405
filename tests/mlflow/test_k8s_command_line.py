"""``mlflow run --backend k8s`` and ``mlflow-exec``, as a user's shell starts them."""

from __future__ import annotations

import json
import re
import signal
import subprocess

from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected
from tests.mlflow.k8s_runs import WAIT, K8sRuns

DECLARED = """
name: declared
entry_points:
  main:
    parameters:
      code: {type: float, default: 0}
    command: python3 main.py {code}
"""
EXITS = "import sys; print('last words'); raise SystemExit(int(sys.argv[1]))"


def ended(process: subprocess.Popen[str], timeout_s: float = 240) -> tuple[int, str, str]:
    """Return a command's exit code and output; fails when the time is over."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def run_of(k8s: K8sRuns, text: str) -> ExecSubmittedRun:
    """Return the run that a command says it submitted."""
    found = re.search(r"run ([0-9a-f]{32}) is job k8s://", text)
    assert found, text
    submitted = attach(found.group(1), tracking_uri=k8s.server.url)
    k8s.submitted.append(submitted)
    return submitted


def interrupted(process: subprocess.Popen[str], when: str) -> tuple[int, str]:
    """Press Ctrl-C when the text is on the command's stdout; return its exit code and stderr."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = Collected(process.stdout), Collected(process.stderr)
    out.until(lambda lines: any(when in line for line in lines), repr(when), 240)
    process.send_signal(signal.SIGINT)
    code = process.wait(120)
    return code, "".join(err.all())


def test_success_is_exit_code_0_and_its_log_is_stdout(k8s: K8sRuns) -> None:
    project = k8s.project(EXITS, DECLARED)
    code, out, err = ended(k8s.mlflow_run(project, "--run-name", "from the shell"))
    assert code == 0, err
    assert "last words\n" in out
    run = k8s.ends(run_of(k8s, err), "SUCCEEDED")
    assert run.info.run_name == "from the shell"
    assert run.data.params == {"code": "0"}


def test_failure_is_exit_code_1_and_says_why(k8s: K8sRuns) -> None:
    project = k8s.project(EXITS, DECLARED)
    mine = k8s.mlflow.create_run("0").info.run_id
    code, out, err = ended(k8s.mlflow_run(project, "-P", "code=7", "--run-id", mine))
    assert code == 1, err
    assert "last words\n" in out
    assert "user_error" in err
    assert "Traceback" not in err
    submitted = run_of(k8s, err)
    assert submitted.run_id == mine
    k8s.ends(submitted, "FAILED", "user_error")

    status = json.loads(_mlflow_exec(k8s, "status", mine, "--output", "json"))
    assert (status["state"], status["failure"]["category"]) == ("FAILED", "user_error")
    assert "last words" in _mlflow_exec(k8s, "logs", mine)


def test_a_wrong_call_is_one_sentence_and_leaves_nothing(k8s: K8sRuns) -> None:
    before = k8s.run_ids(), k8s.objects()
    code, out, err = ended(k8s.mlflow_run(k8s.project(EXITS, DECLARED), contxt="x"))
    assert code == 1
    assert out == ""
    assert "unknown setting 'contxt' (did you mean 'context'?)" in err
    assert "Traceback" not in err
    assert (k8s.run_ids(), k8s.objects()) == before


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(k8s: K8sRuns) -> None:
    code, err = interrupted(k8s.mlflow_run(k8s.project(WAIT)), "it waits")
    assert code == 130, err
    submitted = run_of(k8s, err)
    assert f"mlflow-exec attach {submitted.run_id}" in err
    assert f"mlflow-exec cancel {submitted.run_id}" in err
    assert submitted.get_status() == "RUNNING"
    assert k8s.mlflow.get_run(submitted.run_id).info.status == "RUNNING"

    _mlflow_exec(k8s, "cancel", submitted.run_id)
    k8s.ends(submitted, "CANCELLED")
    assert not _left(k8s, submitted)


def test_ctrl_c_cancels_where_the_settings_say_so(k8s: K8sRuns) -> None:
    process = k8s.mlflow_run(k8s.project(WAIT), on_interrupt="cancel")
    code, err = interrupted(process, "it waits")
    assert code == 130, err
    submitted = run_of(k8s, err)
    k8s.ends(submitted, "CANCELLED")
    assert not _left(k8s, submitted)
    assert "it waits" in k8s.log(submitted.run_id)


def test_without_waiting_the_command_returns_at_once(k8s: K8sRuns) -> None:
    code, out, err = ended(k8s.mlflow_run(k8s.project(WAIT), wait=False))
    assert (code, out) == (0, ""), err
    submitted = run_of(k8s, err)
    k8s.says(submitted, "it waits")
    attached = k8s.command_line("mlflow-exec", "attach", submitted.run_id)
    assert attached.stdout is not None
    seen = Collected(attached.stdout)
    seen.until(lambda lines: "it waits\n" in lines, "the log from its start")
    submitted.cancel()
    code = attached.wait(120)
    assert code == 1
    assert submitted.run_id in _mlflow_exec(k8s, "list")


def test_a_configuration_in_yaml_and_as_text(k8s: K8sRuns) -> None:
    (k8s.folder / "cfg.yaml").write_text(json.dumps(k8s.config(wait=False)))
    given = json.dumps({"file": str(k8s.folder / "cfg.yaml")})
    process = k8s.command_line(
        "mlflow", "run", str(k8s.project("")), "--backend", "k8s", "--backend-config", given
    )
    code, _, err = ended(process)
    assert code == 0, err
    k8s.ends(run_of(k8s, err), "SUCCEEDED")


def _mlflow_exec(k8s: K8sRuns, *arguments: str) -> str:
    code, out, err = ended(k8s.command_line("mlflow-exec", *arguments))
    assert code == 0, err
    return out


def _left(k8s: K8sRuns, submitted: ExecSubmittedRun) -> list[str]:
    return [name for name in k8s.objects() if submitted.run_id in name]
