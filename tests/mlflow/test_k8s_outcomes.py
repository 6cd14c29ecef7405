"""How projects end on a real Kubernetes, submitted from Python."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import yaml
from mlflow.exceptions import ExecutionException

from mlflow_exec.schedulers.kubernetes.cancel import delete_job
from mlflow_exec.testing.collecting import until
from tests.mlflow.interventions import HELD, ended_in_cluster, release
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.submitted_runs import GREETING, PARAMETERS

# What user code often does with its own run; the status is written before the program fails.
FAILS_AFTER_ITS_RUN = {
    "exit": """
import mlflow
with mlflow.start_run():
    mlflow.log_metric("m", 1)
raise SystemExit(7)
""",
    "raise": """
import mlflow
mlflow.start_run()
mlflow.log_metric("m", 1)
raise ValueError("no luck")
""",
    "memory": """
import mlflow
with mlflow.start_run():
    mlflow.log_metric("m", 1)
print("last words", flush=True)
kept = []
while True:
    kept.append(bytearray(b"x" * (8 << 20)))
""",
}


def test_success(k8s: K8sRuns) -> None:
    project = k8s.project("import sys; print('told:', sys.argv[1:])", PARAMETERS)
    submitted = k8s.run(project, {"greeting": GREETING, "more": 1}, synchronous=True)
    run = k8s.ends(submitted, "SUCCEEDED")
    assert submitted.get_status() == "FINISHED"
    assert run.data.params == {"greeting": GREETING, "depth": "3", "more": "1"}
    tags = run.data.tags
    assert tags["mlflow_exec.backend"] == "k8s"
    assert tags["mlflow_exec.handle"] == str(submitted.handle)
    assert submitted.handle.path == (k8s.namespace, f"mlflow-{submitted.run_id}-1")
    assert tags["mlflow_exec.handle.uid"] == submitted.handle.uid
    assert tags["mlflow_exec.attempt"] == "1"
    assert tags["mlflow_exec.log.complete"] == "true"
    assert tags["mlflow.project.backend"] == "k8s"
    assert tags["mlflow.project.entryPoint"] == "main"
    assert tags["mlflow.source.type"] == "PROJECT"
    log = k8s.log(run.info.run_id)
    assert f"told: {[GREETING, '3', '--more', '1']!r}" in log
    assert "".join(submitted.logs()) == log
    job, *_ = yaml.safe_load_all(k8s.artifact(run.info.run_id, "manifest.yaml"))
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "mlflow-exec",
        "mlflow-exec/run-id": run.info.run_id,
        "mlflow-exec/experiment-id": k8s.experiment_id,
    }


def test_the_programs_own_run_is_the_submitted_one(k8s: K8sRuns) -> None:
    program = """
import sys, mlflow
with mlflow.start_run():
    mlflow.log_param("greeting", sys.argv[1])  # the same value as the submission logged
    mlflow.log_metric("score", 0.5)
"""
    submitted = k8s.run(
        k8s.project(program, PARAMETERS), {"greeting": GREETING}, image=k8s.cluster.image_mlflow
    )
    run = k8s.ends(submitted, "SUCCEEDED")
    assert run.data.metrics == {"score": 0.5}
    assert run.data.params["greeting"] == GREETING


def test_an_exit_code(k8s: K8sRuns) -> None:
    project = k8s.project("print('last words'); raise SystemExit(7)")
    with pytest.raises(ExecutionException, match="failed"):
        k8s.run(project, synchronous=True)
    run_id = max(k8s.mlflow.search_runs(["0"]), key=lambda r: int(r.info.start_time)).info.run_id
    tags = k8s.mlflow.get_run(run_id).data.tags
    assert k8s.mlflow.get_run(run_id).info.status == "FAILED"
    assert tags["mlflow_exec.failure.category"] == "user_error"
    assert "7" in tags["mlflow_exec.failure.message"]
    assert tags["mlflow_exec.failure.hint"]
    assert "last words" in k8s.log(run_id)


@pytest.mark.parametrize(
    ("way", "category"),
    [("exit", "user_error"), ("raise", "user_error"), ("memory", "out_of_memory")],
)
def test_a_program_that_fails_after_its_run_ended(k8s: K8sRuns, way: str, category: str) -> None:
    submitted = k8s.run(
        k8s.project(FAILS_AFTER_ITS_RUN[way]),
        image=k8s.cluster.image_mlflow,
        resources={"memory": "512Mi"},
    )
    run = k8s.ends(submitted, "FAILED", category)
    assert run.data.metrics == {"m": 1}
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    if way == "memory":
        assert "last words" in k8s.log(submitted.run_id)


def test_an_image_that_does_not_exist(k8s: K8sRuns) -> None:
    submitted = k8s.run(
        k8s.project(""), image="registry.invalid/there-is/none:1", image_pull_grace_s=1
    )
    run = k8s.ends(submitted, "FAILED", "image_pull")
    assert "registry.invalid/there-is/none:1" in run.data.tags["mlflow_exec.failure.message"]
    assert run.data.tags["mlflow_exec.failure.hint"]
    assert not any(submitted.handle.name in name for name in k8s.objects()), "the Job is gone"


def test_no_node_fits(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(""), node_selector={"none": "such"}, queue_timeout_s=1)
    run = k8s.ends(submitted, "FAILED", "unschedulable")
    assert "queue_timeout_s" in run.data.tags["mlflow_exec.failure.message"]
    assert run.data.tags["mlflow_exec.failure.hint"]


def test_out_of_memory(k8s: K8sRuns) -> None:
    eats = "print('last words', flush=True); x = [bytearray(b'x' * (8 << 20)) for _ in range(999)]"
    submitted = k8s.run(k8s.project(eats), resources={"memory": "64Mi"})
    run = k8s.ends(submitted, "FAILED", "out_of_memory")
    assert run.data.tags["mlflow_exec.failure.hint"]
    assert "last words" in k8s.log(submitted.run_id)


def test_an_environment_that_cannot_be_built(k8s: K8sRuns) -> None:
    project = k8s.project(
        "print('it ran')",
        PLAIN_WITH_ENVIRONMENT,
        {"python_env.yaml": "dependencies: [mlflow-exec-there-is-no-such-package==1]"},
    )
    submitted = k8s.run(project, patch={"spec": {"template": k8s.cluster.pod_patch}})
    run = k8s.ends(submitted, "FAILED", "environment_setup")
    assert "mlflow-exec-there-is-no-such-package" in k8s.log(submitted.run_id)
    assert "it ran" not in k8s.log(submitted.run_id)
    assert run.data.tags["mlflow_exec.failure.hint"]


PLAIN_WITH_ENVIRONMENT = """
name: needs
python_env: python_env.yaml
entry_points:
  main:
    command: python main.py
"""


@pytest.mark.parametrize("manager", ["virtualenv", "uv", "local"])
def test_the_environment_of_the_project_is_built_in_the_job(k8s: K8sRuns, manager: str) -> None:
    program = (
        "import importlib.util as u; print('installed:', u.find_spec('iniconfig') is not None)"
    )
    project = k8s.project(
        program,
        PLAIN_WITH_ENVIRONMENT.replace("python main", "python3 main"),
        {"python_env.yaml": "dependencies: [iniconfig]"},
    )
    submitted = k8s.run(
        project, env_manager=manager, patch={"spec": {"template": k8s.cluster.pod_patch}}
    )
    run = k8s.ends(submitted, "SUCCEEDED")
    assert f"installed: {manager != 'local'}" in k8s.log(submitted.run_id)
    assert run.data.tags["mlflow.project.env"] == manager


def test_conda_needs_an_image_that_has_it(k8s: K8sRuns) -> None:
    conda = "name: c\nentry_points: {main: {command: python3 main.py}}\nconda_env: conda.yaml\n"
    project = k8s.project("", conda, {"conda.yaml": "dependencies: [python=3.11]"})
    run = k8s.ends(k8s.run(project), "FAILED", "environment_setup")
    assert "conda" in run.data.tags["mlflow_exec.failure.message"]


def test_the_whole_log_is_kept_past_the_rotation_of_the_nodes_files(k8s: K8sRuns) -> None:
    program = """
import time
for number in range(100_000):
    print(f"line {number:06d} ".ljust(299, "x"))
    if number % 10_000 == 0:
        time.sleep(2.5)  # the node looks at its files every ten seconds
"""
    submitted = k8s.run(k8s.project(program))
    run = k8s.ends(submitted, "SUCCEEDED", timeout_s=300)
    lines = [x for x in k8s.log(run.info.run_id).splitlines() if x.startswith("line ")]
    assert [int(line[5:11]) for line in lines] == list(range(100_000))
    assert {len(line) for line in lines} == {299}
    assert run.data.tags["mlflow_exec.log.complete"] == "true"


def test_a_failed_program_is_started_again(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project("print('a start'); raise SystemExit(7)"), retries=1)
    run = k8s.ends(submitted, "FAILED", "user_error")
    assert run.data.tags["mlflow_exec.attempt"] == "2"
    assert k8s.log(run.info.run_id).count("\na start") == 2


def test_two_jobs_at_once(k8s: K8sRuns) -> None:
    one = k8s.run(k8s.project(WAIT))
    two = k8s.run(k8s.project("print('the other one'); raise SystemExit(7)"))
    k8s.says(one, "it waits")
    k8s.ends(two, "FAILED", "user_error")
    assert one.get_status() == "RUNNING"
    one.cancel()
    k8s.ends(one, "CANCELLED")
    assert "the other one" not in k8s.log(one.run_id)


@pytest.mark.parametrize("moment", ["queued", "starting", "running"])
def test_cancelling(k8s: K8sRuns, moment: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "queued": {"node_selector": {"none": "such"}},
        "starting": {"image": "registry.invalid/there-is/none:1"},
        "running": {},
    }
    submitted = k8s.run(k8s.project(WAIT), **settings[moment])
    k8s.state_becomes(submitted, moment.upper())
    submitted.cancel()
    submitted.cancel()
    k8s.ends(submitted, "CANCELLED")
    assert not any(submitted.handle.name in name for name in k8s.objects())
    if moment == "running":
        assert "it waits" in k8s.log(submitted.run_id)


def test_cancelling_a_finished_job_changes_nothing(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(""))
    k8s.ends(submitted, "SUCCEEDED")
    submitted.cancel()
    k8s.ends(submitted, "SUCCEEDED")


@pytest.mark.parametrize("stopped_by", ["a user", "a clock"])
def test_a_job_that_ends_while_it_is_being_stopped_keeps_its_result(
    k8s: K8sRuns, monkeypatch: pytest.MonkeyPatch, stopped_by: str
) -> None:
    elsewhere = f"{k8s.server.url}/elsewhere"  # so the job does not write its end itself
    clock: dict[str, Any] = {"queue_timeout_s": 1} if stopped_by == "a clock" else {}
    submitted = k8s.run(k8s.project("print('done')"), tracking_uri=elsewhere, patch=HELD, **clock)

    def ends_first(*job: Any, **more: Any) -> None:
        release(k8s, submitted)
        until(lambda: ended_in_cluster(k8s, submitted), "the job is over")
        delete_job(*job, **more)

    monkeypatch.setattr(sys.modules[delete_job.__module__], "delete_job", ends_first)
    if stopped_by == "a user":
        submitted.cancel()
    k8s.ends(submitted, "SUCCEEDED")
    assert "done" in k8s.log(submitted.run_id)
