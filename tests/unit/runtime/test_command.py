"""The command line: computed in the job as MLflow does, every value staying one value."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from mlflow_exec.runtime.command import command_line
from mlflow_exec.runtime.job_order import EntryPoint, SetupError
from tests.servers import file_server
from tests.unit.runtime.job_in_cluster import Cluster

STRANGE = [
    "",
    "two words",
    'it\'s "quoted"',
    "$HOME `id` $(id) ; & | > < * ? ~ !",
    "first\nsecond\n\nlast",
    "key: [yaml, {a: 1}] # no comment",
    "{braces} {{doubled}} {0}",
    "größe 名前 🦊",
    "--looks-like=an-option",
    "back\\slash \\n",
]
ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_values_reach_the_program_unchanged(cluster: Cluster, shell: str) -> None:
    names = [f"p{n}" for n in range(len(STRANGE))]
    order = cluster.order(ECHO)
    order["entry_point"] = {
        "command": "python main.py " + " ".join(f"{{{name}}}" for name in names),
        "parameters": {
            name: {"value": value, "type": "string"}
            for name, value in zip(names, STRANGE, strict=True)
        },
        "extra": {"other": "x y", "odd name": "$HOME"},
    }
    env = {} if shell == "bash" else {"PATH": str(only_sh(cluster))}
    finished = cluster.run(order, env=env)
    arguments = json.loads(next(line for line in finished.text.splitlines() if line[:1] == "["))
    assert arguments == [*STRANGE, "--other", "x y", "--odd name", "$HOME"]


def only_sh(cluster: Cluster) -> Any:
    """Return a folder for PATH as in a small image: sh, and no bash and no python."""
    folder = cluster.folder / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    return folder


def test_an_image_with_python3_only_has_python_too(cluster: Cluster) -> None:
    order = cluster.order("import sys; print('ran', sys.version_info[0])")
    finished = cluster.run(order, env={"PATH": str(only_sh(cluster))})
    assert "\nran 3\n" in finished.text


def test_the_entry_point_sees_its_run_and_the_orders_variables(cluster: Cluster) -> None:
    code = """
import os
names = ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "PYTHONUNBUFFERED", "K"]
print(*[os.environ[name] for name in names])
"""
    order = cluster.order(code, env={"K": "from the order", "MLFLOW_RUN_ID": "another"})
    finished = cluster.run(order, env={"K": "from the container"})
    assert f"\n{order['run_id']} 0 {cluster.server.url} 1 from the order\n" in finished.text


@pytest.mark.parametrize("command", ["python {missing}", "python {", "python {0}", "awk {print}"])
def test_a_command_that_does_not_fit_is_refused(command: str) -> None:
    entry_point = EntryPoint(command, {"x": {"value": "1", "type": "string"}})
    with pytest.raises(SetupError, match="does not fit") as error:
        command_line(entry_point, lambda _, value: str(value))
    assert error.value.end.category == "invalid_config"


def test_a_bundled_path_is_absolute_in_the_job(cluster: Cluster) -> None:
    (cluster.project / "data").mkdir()
    (cluster.project / "data" / "train data.csv").write_text("a,b\n")
    order = path_order(cluster, {"bundled": "data/train data.csv"})
    assert "\n/" in cluster.run(order).text
    assert "holds a,b" in cluster.run(path_order(cluster, {"bundled": "data/train data.csv"})).text


def path_order(cluster: Cluster, value: Any) -> dict[str, Any]:
    order = cluster.order(
        "import sys; print(sys.argv[1]); print('holds', open(sys.argv[1]).read())"
    )
    parameters = {"data": {"value": value, "type": "path"}}
    order["entry_point"] = {"command": "python main.py {data}", "parameters": parameters}
    return order


def test_a_path_behind_http_is_fetched(cluster: Cluster) -> None:
    with file_server() as files:
        files.files["/sets/a%20b.csv"] = (200, b"c,d\n")
        finished = cluster.run(path_order(cluster, f"{files.url}/sets/a%20b.csv?version=2"))
        assert "holds c,d" in finished.text
        missing = cluster.run(path_order(cluster, f"{files.url}/sets/none.csv"))
    assert (missing.code, missing.end.category) == (81, "source_fetch")
    assert "HTTP 404" in missing.end.message


def test_a_local_path_must_exist_in_the_job(cluster: Cluster) -> None:
    local = cluster.folder / "mounted.csv"
    local.write_text("e,f\n")
    assert "holds e,f" in cluster.run(path_order(cluster, str(local))).text
    assert "holds e,f" in cluster.run(path_order(cluster, local.as_uri())).text
    missing = cluster.run(path_order(cluster, "/not/there.csv"))
    assert missing.end.category == "source_fetch"
    assert "'data'" in missing.end.message


def test_a_path_that_mlflow_knows_is_fetched_by_mlflow(cluster: Cluster) -> None:
    order = path_order(cluster, "")
    within = order["artifact_uri"].partition(":/")[2]
    url = f"{cluster.server.url}/api/2.0/mlflow-artifacts/artifacts/{within}/sets/train.csv"
    request = urllib.request.Request(url, data=b"g,h\n", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    parameter = order["entry_point"]["parameters"]["data"]
    parameter["value"] = f"runs:/{order['run_id']}/sets/train.csv"
    finished = cluster.run(order)
    assert "holds g,h" in finished.text


def test_a_path_that_mlflow_cannot_fetch_names_the_parameter(cluster: Cluster) -> None:
    finished = cluster.run(path_order(cluster, "runs:/00000000000000000000000000000000/x"))
    assert (finished.code, finished.end.category) == (81, "source_fetch")
    assert "'data'" in finished.end.message
