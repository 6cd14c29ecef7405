"""How projects end on a real YARN, submitted from Python."""

from __future__ import annotations

import yaml

from tests.mlflow.submitted_runs import GREETING, PARAMETERS
from tests.mlflow.yarn_runs import YarnRuns


def test_success(yarn: YarnRuns) -> None:
    project = yarn.project("import sys; print('told:', sys.argv[1:])", PARAMETERS)
    submitted = yarn.run(project, {"greeting": GREETING, "more": 1}, synchronous=True)
    run = yarn.ends(submitted, "SUCCEEDED")
    assert submitted.get_status() == "FINISHED"
    assert run.data.params == {"greeting": GREETING, "depth": "3", "more": "1"}
    tags = run.data.tags
    assert tags["mlflow_exec.backend"] == "yarn"
    assert tags["mlflow_exec.handle"] == str(submitted.handle)
    assert submitted.handle.path == (f"mlflow-{submitted.run_id}-1",)
    (application,) = yarn.applications(submitted.run_id)
    assert tags["mlflow_exec.handle.uid"] == submitted.handle.uid == application["id"]
    assert tags["mlflow_exec.attempt"] == "1"
    assert tags["mlflow_exec.log.complete"] == "true"
    log = yarn.log(run.info.run_id)
    assert f"told: {[GREETING, '3', '--more', '1']!r}" in log
    assert "".join(submitted.logs()) == log
    (manifest,) = yaml.safe_load_all(yarn.artifact(run.info.run_id, "manifest.yaml"))
    assert manifest["tags"][:2] == ["mlflow-exec", f"mlflow-{run.info.run_id}"]
    assert manifest["queue"] == "default"


def test_what_a_job_used_is_on_its_run(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project("import time; time.sleep(3)"), synchronous=True)
    metrics = yarn.ends(submitted, "SUCCEEDED").data.metrics
    (application,) = yarn.applications(submitted.run_id)
    # YARN goes on counting until the container is gone, a moment after the job's end.
    assert 3 * 512 <= metrics["mlflow_exec.memory_mib_seconds"] <= application["memorySeconds"]
    assert 3 <= metrics["mlflow_exec.vcore_seconds"] <= application["vcoreSeconds"]


def test_nothing_stays_in_hdfs(yarn: YarnRuns) -> None:
    before = yarn.staged()
    good = yarn.run(yarn.project("print('fine')"))
    bad = yarn.run(yarn.project("raise SystemExit(7)"))
    yarn.ends(good, "SUCCEEDED")
    yarn.ends(bad, "FAILED", "user_error")
    assert yarn.staged() == before


def test_an_exit_code_is_the_users(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project("print('last words'); raise SystemExit(7)"))
    run = yarn.ends(submitted, "FAILED", "user_error")
    assert "7" in run.data.tags["mlflow_exec.failure.message"]
    assert "last words" in yarn.log(run.info.run_id)


def test_a_job_that_uses_too_much_memory(yarn: YarnRuns) -> None:
    program = """
print("last words", flush=True)
kept = []
while True:
    kept.append(bytearray(b"x" * (8 << 20)))
"""
    run = yarn.ends(yarn.run(yarn.project(program)), "FAILED", "out_of_memory")
    assert "resources.memory" in run.data.tags["mlflow_exec.failure.hint"]
    assert "last words" in yarn.log(run.info.run_id)
