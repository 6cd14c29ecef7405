"""How a job ends: each exit of the entry point becomes one true end of the run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from mlflow_exec.runtime.end import EXIT_OVER
from mlflow_exec.testing.collecting import until
from tests.servers import MlflowServer
from tests.unit.runtime.job_in_cluster import Cluster

STATE = "mlflow_exec.state"
CATEGORY = "mlflow_exec.failure.category"
MESSAGE = "mlflow_exec.failure.message"


def ending(server: MlflowServer, run_id: str) -> tuple[str, str, str | None]:
    tags = server.tags(run_id)
    return server.status(run_id), tags[STATE], tags.get(CATEGORY)


def test_success_finishes_the_run(cluster: Cluster) -> None:
    order = cluster.order("print('trained')")
    finished = cluster.run(order)
    assert finished.code == 0
    assert finished.end.state == "SUCCEEDED"
    assert ending(cluster.server, order["run_id"]) == ("FINISHED", "SUCCEEDED", None)
    assert cluster.server.tags(order["run_id"])["mlflow_exec.attempt"] == "1"
    assert cluster.server.tags(order["run_id"])["mlflow_exec.state.by"] == "entry"


def test_a_failure_keeps_the_exit_code_and_says_so(cluster: Cluster) -> None:
    order = cluster.order("raise SystemExit(7)")
    finished = cluster.run(order)
    assert finished.code == 7
    assert (finished.end.category, finished.end.exit_code) == ("user_error", 7)
    assert ending(cluster.server, order["run_id"]) == ("FAILED", "FAILED", "user_error")
    message = cluster.server.tags(order["run_id"])[MESSAGE]
    assert message == "The entry point exited with code 7."


def test_a_run_that_its_own_code_finished_fails_with_the_exit_code(cluster: Cluster) -> None:
    code = "import mlflow, sys\nwith mlflow.start_run(): pass\nsys.exit(7)"
    order = cluster.order(code)
    assert cluster.run(order).code == 7
    assert ending(cluster.server, order["run_id"]) == ("FAILED", "FAILED", "user_error")


def test_an_exception_outside_of_a_with_block_fails_the_run(cluster: Cluster) -> None:
    order = cluster.order("import mlflow\nmlflow.start_run()\nraise ValueError('no data')")
    finished = cluster.run(order)
    assert finished.code == 1
    assert "ValueError: no data" in finished.text
    assert ending(cluster.server, order["run_id"]) == ("FAILED", "FAILED", "user_error")


def test_a_signal_is_named(cluster: Cluster) -> None:
    order = cluster.order("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    finished = cluster.run(order)
    assert finished.code == 128 + signal.SIGSEGV
    assert finished.end.category == "user_error"
    assert "SIGSEGV" in finished.end.message


def test_a_killed_entry_point_is_no_memory_failure_by_itself(cluster: Cluster) -> None:
    order = cluster.order("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    finished = cluster.run(order)
    assert finished.code == 137
    assert finished.end.category == "user_error"
    assert "SIGKILL" in finished.end.message


def test_a_reserved_exit_code_of_the_user_is_not_taken_for_ours(cluster: Cluster) -> None:
    finished = cluster.run(cluster.order("raise SystemExit(82)"))
    assert finished.code == 1
    assert (finished.end.category, finished.end.exit_code) == ("user_error", 82)


def test_sigterm_reaches_the_entry_point_and_leaves_the_end_to_others(cluster: Cluster) -> None:
    code = """
import signal, sys, time
def bye(*_):
    print("saved a checkpoint", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("ready", flush=True)
signal.pause()
"""
    order = cluster.order(code)
    container = cluster.start(order)
    container.says("\nready\n")
    container.signal(signal.SIGTERM)
    finished = container.wait()
    assert finished.code == 143
    assert "saved a checkpoint" in finished.text
    assert "mlflow-exec-end" not in finished.text
    assert ending(cluster.server, order["run_id"]) == ("RUNNING", "RUNNING", None)
    assert cluster.log_artifact(order["run_id"]) == finished.output


def test_an_entry_point_that_ignores_sigterm_is_killed_after_its_grace(cluster: Cluster) -> None:
    code = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid(), "ready", flush=True)
while True:
    signal.pause()
"""
    container = cluster.start(cluster.order(code, term_grace_s=0.3))
    container.says(" ready\n")
    container.signal(signal.SIGTERM)
    finished = container.wait(120)
    assert finished.code == 143
    pid = finished.text.split("pid ")[1].split()[0]
    assert not Path(f"/proc/{pid}").exists()


def test_sigterm_while_the_environment_is_built_stops_that_too(cluster: Cluster) -> None:
    (cluster.project / "requirements.txt").write_text("")
    slow_uv = cluster.folder / "bin" / "uv"
    slow_uv.parent.mkdir()
    slow_uv.write_text("#!/bin/sh\necho building\nexec sleep 600\n")
    slow_uv.chmod(0o755)
    order = cluster.order("", environment={"manager": "uv"})
    path = f"{slow_uv.parent}:/usr/bin:/bin"
    container = cluster.start(order, env={"PATH": path})
    container.says("\nbuilding\n")
    container.signal(signal.SIGTERM)
    assert container.wait(120).code == 143
    assert cluster.server.tags(order["run_id"])[STATE] == "STARTING"


def test_the_deadline_ends_the_job(cluster: Cluster) -> None:
    code = "import time; print('long', flush=True); time.sleep(600)"
    order = cluster.order(code, deadline_s=2, term_grace_s=1)
    finished = cluster.run(order)
    assert finished.code == 85
    assert ending(cluster.server, order["run_id"]) == ("FAILED", "FAILED", "deadline")
    assert "2 s" in finished.end.message


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_run_that_has_ended_is_not_run_again(cluster: Cluster, state: str) -> None:
    order = cluster.order("print('user code')")
    run_id = order["run_id"]
    body = {"run_id": run_id, "key": STATE, "value": state}
    cluster.server.api("POST", "runs/set-tag", body)
    finished = cluster.run(order)
    assert finished.code == EXIT_OVER
    assert "\nuser code" not in finished.text
    assert state in finished.text
    assert cluster.server.tags(run_id)[STATE] == state


def test_a_grandchild_that_keeps_the_output_open_neither_hangs_nor_survives(
    cluster: Cluster,
) -> None:
    code = """
import subprocess
child = subprocess.Popen(["sleep", "600"])
print("left", child.pid, "behind", flush=True)
"""
    finished = cluster.run(cluster.order(code))
    assert finished.code == 0
    pid = finished.text.split("left ")[1].split()[0]
    until(lambda: not alive(int(pid)), "the grandchild is gone")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_an_entry_step_killed_outright_takes_the_entry_point_with_it(cluster: Cluster) -> None:
    code = "import os, signal; print('pid', os.getpid(), 'ready', flush=True); signal.pause()"
    container = cluster.start(cluster.order(code))
    container.says(" ready\n")
    pid = int(container.log.read_text().split("pid ")[1].split()[0])
    container.signal(signal.SIGKILL)
    container.wait()
    until(lambda: not alive(pid), "the entry point is gone")
    cluster.killed = True


def test_the_end_is_also_in_the_pods_status(cluster: Cluster) -> None:
    message = cluster.folder / "termination-log"
    env = {"MLFLOW_EXEC_TERMINATION_LOG": str(message)}
    cluster.run(cluster.order("raise SystemExit(7)"), env=env)
    assert json.loads(message.read_text())["exit_code"] == 7


def test_without_a_tracking_server_by_http_the_log_alone_tells_the_end(cluster: Cluster) -> None:
    order = cluster.order("import os; print(os.environ['MLFLOW_TRACKING_URI'])")
    order.update(tracking_uri="sqlite:///shared/mlflow.db", artifact_uri="/shared/artifacts")
    finished = cluster.run(order)
    assert finished.end.state == "SUCCEEDED"
    assert "\nsqlite:///shared/mlflow.db\n" in finished.text


def memory_cgroup() -> Path | str:
    """Return an own empty memory cgroup, or why there can be none."""
    if os.geteuid() != 0:
        return "a memory cgroup can be made by root only"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            parent = Path("/sys/fs/cgroup/memory" + path)
        elif not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            parent = Path("/sys/fs/cgroup" + path)
        else:
            continue
        group = parent / f"mlflow-exec-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            return f"a memory cgroup cannot be made: {error}"
        for limit in ("memory.limit_in_bytes", "memory.max"):
            if (group / limit).exists():
                (group / limit).write_text(str(128 * 1024 * 1024))
                return group
        group.rmdir()
    return "the machine offers no memory cgroup"


def test_a_job_that_the_kernel_kills_for_memory_is_out_of_memory(cluster: Cluster) -> None:
    group = memory_cgroup()
    if isinstance(group, str):
        if os.environ.get("MLFLOW_EXEC_FORBID_SKIP") == "1":
            pytest.fail(group)
        pytest.skip(group)
    try:
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "enter"]
        order = cluster.order("held = [bytearray(b'x' * 2**24) for _ in range(64)]")
        finished = cluster.run(order, wrapper=enter)
        assert finished.code == 137
        assert ending(cluster.server, order["run_id"]) == ("FAILED", "FAILED", "out_of_memory")
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        group.rmdir()
