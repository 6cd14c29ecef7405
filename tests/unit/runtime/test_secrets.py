"""Secrets in the job: found where it runs, given to the program, masked in all that it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_exec.runtime.end import TAG_FAILURE_MESSAGE
from tests.servers import MlflowServer, asking_for
from tests.unit.runtime.job_in_cluster import Cluster

VALUE = "correct horse/battery+staple"
SAYS = """
import os, sys
for name in sys.argv[1:]:
    print(name, len(os.environ[name]), os.environ[name])
"""


def says(cluster: Cluster, *names: str, **changes: Any) -> dict[str, Any]:
    """Return an order whose program prints the variables."""
    command = " ".join(["python main.py", *names])
    return cluster.order(SAYS, entry_point={"command": command}, **changes)


def test_values_come_from_variables_and_files_of_the_node(cluster: Cluster) -> None:
    file = cluster.folder / "secret.txt"
    file.write_text(f"{VALUE}-2\n")
    secrets = {"FROM_ENV": {"env": "OF_THE_NODE"}, "FROM_FILE": {"file": str(file)},
               "FROM_HOME": {"file": "~/secret.txt"}}  # fmt: skip
    finished = cluster.run(says(cluster, *secrets, secrets=secrets), env={"OF_THE_NODE": VALUE})
    assert finished.code == 0
    size = len(VALUE)
    for line in (f"FROM_ENV {size} ***", f"FROM_FILE {size + 2} ***", f"FROM_HOME {size + 2} ***"):
        assert f"\n{line}\n" in finished.text


def test_a_reference_that_leads_nowhere_ends_the_job_before_it_runs(cluster: Cluster) -> None:
    lost = cluster.folder / "nothing"
    sources: list[tuple[dict[str, str], str]] = [
        ({"env": "MISSING"}, "no variable 'MISSING'"),
        ({"file": str(lost)}, f"the file '{lost}' cannot be read: No such file"),
    ]
    for source, what in sources:
        order = says(cluster, "X", secrets={"KNOWN": {"env": "KNOWN"}, "X": source})
        finished = cluster.run(order, env={"KNOWN": VALUE})
        assert (finished.code, finished.end.category) == (83, "invalid_config")
        assert "secrets.X: where the job runs, " in finished.end.message
        assert what in finished.end.message
        assert "running:" not in finished.text
        assert cluster.server.status(order["run_id"]) == "FAILED"
        assert what in cluster.server.tags(order["run_id"])[TAG_FAILURE_MESSAGE]


def test_what_the_container_has_as_secrets_is_masked_by_its_names(cluster: Cluster) -> None:
    order = says(cluster, "API", "MLFLOW_TRACKING_PASSWORD", "PLAIN", secret_names=["API"])
    env = {"API": VALUE, "MLFLOW_TRACKING_PASSWORD": "tracking-password", "PLAIN": "in the open"}
    text = cluster.run(order, env=env).text
    assert f"API {len(VALUE)} ***\n" in text
    assert "MLFLOW_TRACKING_PASSWORD 17 ***\n" in text
    assert "PLAIN 11 in the open\n" in text


def test_the_kept_log_and_the_end_are_masked_too(cluster: Cluster, tmp_path: Path) -> None:
    code = """
import os, time
print("it is", os.environ["X"], "and more", flush=True)
print(repr({"X": os.environ["X"]}))
raise SystemExit(3)
"""
    termination = tmp_path / "termination"
    order = cluster.order(code, secrets={"X": {"env": "X"}})
    env = {"X": VALUE, "MLFLOW_EXEC_TERMINATION_LOG": str(termination)}
    finished = cluster.run(order, env=env)
    assert cluster.log_artifact(order["run_id"]) == finished.output
    assert "it is *** and more\n{'X': '***'}\n" in finished.text
    assert VALUE not in finished.text + termination.read_text()


def test_the_message_of_a_failed_environment_is_masked(cluster: Cluster) -> None:
    (cluster.project / "requirements.txt").write_text("-r more.txt\n")
    (cluster.project / "more.txt").write_text(
        "--index-url https://u:hunter2hunter@127.0.0.1:9/x\n"
        "tiny == nonsense hunter2hunter as such\n"
    )
    environment = {"manager": "virtualenv", "dependencies": ["-r requirements.txt"]}
    finished = cluster.run(cluster.order("", environment=environment))
    assert finished.end.category == "environment_setup"
    assert "tiny == nonsense ***" in finished.text
    assert "hunter2hunter" not in finished.text


def test_our_own_reasons_are_masked(cluster: Cluster) -> None:
    order = cluster.order("", secret_names=["X"])
    parameters = {"data": {"value": f"/none/{VALUE}.csv", "type": "path"}}
    order["entry_point"] = {"command": "python main.py {data}", "parameters": parameters}
    finished = cluster.run(order, env={"X": VALUE})
    assert "there is no /none/***.csv in the job" in finished.end.message
    tags = cluster.server.tags(order["run_id"])
    assert VALUE not in finished.text + tags[TAG_FAILURE_MESSAGE]


def test_our_own_words_and_marks_survive_a_secret_that_is_among_them(cluster: Cluster) -> None:
    order = cluster.order("", secret_names=["A", "B", "C"])
    finished = cluster.run(order, env={"A": "mlflow-exec", "B": "SUCCEEDED", "C": "category"})
    assert finished.end.state == "SUCCEEDED"
    assert finished.text.startswith("mlflow-exec-start: ")
    assert cluster.server.tags(order["run_id"])["mlflow_exec.state"] == "SUCCEEDED"


def test_a_prompt_that_begins_like_a_secret_shows_while_the_program_waits(
    cluster: Cluster,
) -> None:
    code = """
import os, time
os.write(1, b"name: corr")
while not os.path.exists(os.environ["GO_ON"]):
    time.sleep(0.01)
os.write(1, b"ect horse/battery+staple\\nPIN corre")
"""
    go_on = cluster.folder / "go-on"
    order = cluster.order(code, env={"GO_ON": str(go_on)}, secret_names=["X"])
    container = cluster.start(order, env={"X": VALUE})
    container.says("name: corr", timeout_s=30)
    go_on.touch()
    text = container.wait().text
    assert "name: corr***\nPIN corre\n" in text
    assert "ect horse" not in text


def test_output_with_secrets_elsewhere_is_byte_for_byte_the_same(cluster: Cluster) -> None:
    code = """
import os
os.write(1, b"<begin>" + bytes(range(256)) * 300 + b"correct horse/battery+" + b"<end>")
"""
    order = cluster.order(code, secret_names=["X"])
    finished = cluster.run(order, env={"X": VALUE})
    found = finished.output.partition(b"<begin>")[2].partition(b"<end>")[0]
    assert found == bytes(range(256)) * 300 + b"correct horse/battery+"


def test_the_first_step_writes_with_credentials_that_it_found(
    cluster: Cluster, tracking_server: MlflowServer
) -> None:
    token = cluster.folder / "token"
    token.write_text("a-token-of-the-node\n")
    with asking_for("Bearer a-token-of-the-node", tracking_server.url) as url:
        order = cluster.order("print('trained')", tracking_uri=url)
        order["secrets"] = {"MLFLOW_TRACKING_TOKEN": {"file": str(token)}}
        finished = cluster.run(order)
    assert finished.code == 0
    assert cluster.server.tags(order["run_id"])["mlflow_exec.state"] == "SUCCEEDED"
    assert b"trained" in cluster.log_artifact(order["run_id"])


def test_a_crash_of_the_first_step_itself_is_masked(cluster: Cluster) -> None:
    job = cluster.injected / "job.py"
    job.write_text(
        job.read_text().replace(
            "        self._stop.shield_for_good()\n        return self._finish(",
            "        raise RuntimeError(self._environ['X'])\n        return self._finish(",
        )
    )
    finished = cluster.run(cluster.order("", secret_names=["X"]), env={"X": VALUE})
    cluster.killed = True
    assert "RuntimeError: ***" in finished.text
    assert VALUE not in finished.text
