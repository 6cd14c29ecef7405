"""The job's log: complete and in order beside the run, and never a reason for a job to fail."""

from __future__ import annotations

import signal

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until
from tests.servers import relay_to
from tests.unit.runtime.job_in_cluster import Cluster

COMPLETE = "mlflow_exec.log.complete"


def test_a_long_log_is_complete_and_in_order(cluster: Cluster) -> None:
    code = "for n in range(100_000): print(f'{n:06d}'.ljust(299, '.'))"
    order = cluster.order(code, env={"PYTHONUNBUFFERED": ""})
    finished = cluster.run(order)
    kept = cluster.log_artifact(order["run_id"])
    assert kept == finished.output
    numbers = [int(line[:6]) for line in kept.splitlines() if line.endswith(b"...")]
    assert numbers == list(range(100_000))
    assert cluster.server.tags(order["run_id"])[COMPLETE] == "true"
    assert cluster.log_parts(order["run_id"]) == []


def test_the_log_can_be_read_in_parts_while_the_job_runs(cluster: Cluster) -> None:
    order = cluster.order("import signal; print('first words', flush=True); signal.pause()")
    container = cluster.start(order)
    run_id = order["run_id"]

    def so_far() -> bytes:
        parts = cluster.log_parts(run_id)
        return b"".join(cluster.server.artifact(run_id, part) for part in parts)

    until(lambda: b"first words\n" in so_far(), "the words are beside the run")
    assert COMPLETE not in cluster.server.tags(run_id)
    container.signal(signal.SIGTERM)
    finished = container.wait()
    assert cluster.log_artifact(run_id) == finished.output


def ends_after(parts: list[str], offset: int) -> bool:
    return bool(parts) and int(parts[-1].rpartition("/")[2].removesuffix(".txt")) >= offset


def test_parts_of_a_killed_job_are_a_prefix_of_its_log(cluster: Cluster) -> None:
    code = """
import sys, time
for n in range(10**9):
    print(n, "#" * 100, flush=True)
    time.sleep(0.001)
"""
    order = cluster.order(code, log_part_bytes=20_000)
    container = cluster.start(order)
    until(lambda: ends_after(cluster.log_parts(order["run_id"]), 80_000), "several parts")
    container.signal(signal.SIGKILL)
    finished = container.wait()
    cluster.killed = True
    parts = cluster.log_parts(order["run_id"])
    together = b""
    for part in parts:
        assert part == f"mlflow-exec/log/{len(together):012d}.txt", "a gap"
        together += cluster.server.artifact(order["run_id"], part)
    assert len(together) > 80_000
    assert finished.output.startswith(together)


def test_a_log_server_that_is_away_fails_nothing(cluster: Cluster) -> None:
    order = cluster.order("print('trained')")
    within = order["artifact_uri"].partition(":")[2]
    order["artifact_uri"] = f"mlflow-artifacts://127.0.0.1:{free_port()}{within}"
    finished = cluster.run(order)
    assert finished.code == 0
    assert finished.end.state == "SUCCEEDED"
    assert "the uploaded log is not complete" in finished.text
    tags = cluster.server.tags(order["run_id"])
    assert tags["mlflow_exec.state"] == "SUCCEEDED"
    assert COMPLETE not in tags


def test_parts_missed_while_the_server_was_away_come_later(cluster: Cluster) -> None:
    with relay_to(cluster.server.url) as relay:
        code = """
import os, time
print("before", flush=True)
while not os.path.exists(os.environ["GO_ON"]):
    time.sleep(0.01)
print("while away", flush=True)
"""
        go_on = cluster.folder / "go-on"
        order = cluster.order(code, env={"GO_ON": str(go_on)})
        order["tracking_uri"] = f"http://127.0.0.1:{relay.port}"
        container = cluster.start(order)
        until(lambda: cluster.log_parts(order["run_id"]), "a first part")
        relay.away = True
        go_on.touch()
        container.says("mlflow-exec-end:")
        until(lambda: relay.turned_away >= 3, "requests are turned away")
        relay.away = False
        finished = container.wait()
    assert cluster.log_artifact(order["run_id"]) == finished.output
    assert b"\nwhile away\n" in finished.output


def test_the_end_is_written_once_the_tracking_server_is_back(cluster: Cluster) -> None:
    with relay_to(cluster.server.url) as relay:
        order = cluster.order(artifact_uri="s3://elsewhere/artifacts")
        order["tracking_uri"] = f"http://127.0.0.1:{relay.port}"
        go_on = cluster.folder / "go-on"
        command = f"echo runs; until [ -e {go_on} ]; do sleep 0.01; done; exit 7"
        order["entry_point"] = {"command": command}
        container = cluster.start(order)
        container.says("\nruns\n")
        relay.away = True
        go_on.touch()
        container.says("mlflow-exec-end:")
        until(lambda: relay.turned_away >= 3, "requests are turned away")
        assert "mlflow_exec.failure.category" not in cluster.server.tags(order["run_id"])
        relay.away = False
        assert container.wait().code == 7
    assert cluster.server.status(order["run_id"]) == "FAILED"
    assert cluster.server.tags(order["run_id"])["mlflow_exec.state"] == "FAILED"


def test_a_later_container_of_the_run_continues_its_log(cluster: Cluster) -> None:
    order = cluster.order("import signal; print('first try', flush=True); signal.pause()")
    first = cluster.start(order)
    first.says("\nfirst try\n")
    until(lambda: cluster.log_parts(order["run_id"]), "a part")
    first.signal(signal.SIGTERM)
    before = first.wait().output

    (cluster.project / "main.py").write_text("print('second try')")
    second = cluster.run(order)
    assert cluster.log_artifact(order["run_id"]) == before + second.output
    assert cluster.server.tags(order["run_id"])["mlflow_exec.attempt"] == "2"
    assert cluster.log_parts(order["run_id"]) == []


def test_a_later_container_continues_the_parts_of_a_killed_one(cluster: Cluster) -> None:
    order = cluster.order("import signal; print('first try', flush=True); signal.pause()")
    first = cluster.start(order)
    first.says("\nfirst try\n")
    run_id = order["run_id"]

    def kept() -> bytes:
        return b"".join(cluster.server.artifact(run_id, p) for p in cluster.log_parts(run_id))

    until(lambda: b"first try" in kept(), "its words are kept")
    first.signal(signal.SIGKILL)
    first.wait()
    cluster.killed = True
    before = kept()
    (cluster.project / "main.py").write_text("print('second try')")
    second = cluster.run(order)
    assert cluster.log_artifact(run_id) == before + second.output
    assert cluster.log_parts(run_id) == []


def test_output_that_is_not_text_is_kept_byte_for_byte(cluster: Cluster) -> None:
    order = cluster.order("import os; os.write(1, bytes(range(256)))")
    finished = cluster.run(order)
    assert bytes(range(256)) in finished.output
    assert finished.end.state == "SUCCEEDED"
    assert cluster.log_artifact(order["run_id"]) == finished.output


def test_a_reader_of_the_output_that_went_away_fails_nothing(cluster: Cluster) -> None:
    order = cluster.order("for n in range(10_000): print(n)")
    deaf = ["bash", "-c", 'set -o pipefail; "$@" | head -c 1; exit ${PIPESTATUS[0]}', "deaf"]
    assert cluster.run(order, wrapper=deaf).code == 0
    kept = cluster.log_artifact(order["run_id"])
    assert b"\n9999\n" in kept
    assert cluster.server.tags(order["run_id"])[COMPLETE] == "true"


def test_a_disk_that_is_full_fails_nothing_and_is_told(cluster: Cluster) -> None:
    order = cluster.order("for n in range(50_000): print(n)")
    limited = ["bash", "-c", '(ulimit -f 100; exec "$@") | cat; exit ${PIPESTATUS[0]}', "limited"]
    finished = cluster.run(order, wrapper=limited)
    assert finished.code == 0
    assert b"\n49999\n" in finished.output
    assert "the log file takes no more bytes" in finished.text
    assert finished.output.startswith(cluster.log_artifact(order["run_id"]))
    assert COMPLETE not in cluster.server.tags(order["run_id"])
    assert cluster.server.tags(order["run_id"])["mlflow_exec.state"] == "SUCCEEDED"
