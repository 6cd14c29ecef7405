"""No planted secret is found in anything that jobs on a real YARN leave behind.

What a program itself writes to MLflow is its own business, and so are the project's files. While a
job runs its secrets are in two files that only its user can read: in HDFS, and where its node has
put that file for its container.
"""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.errors import AccessDeniedError
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until
from tests.mlflow.planted import TELLS, Planted, submitted_by_a_client
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import asking_for

FAILS = TELLS + "raise RuntimeError('the token is ' + os.environ['BY_ENV'])"
EATS = TELLS + "eaten = [bytearray(b'x' * (8 << 20)) for _ in range(200)]"
WAITS = TELLS + "print('PATIENT', flush=True); time.sleep(600)"
PYTHON_ENV = "name: x\npython_env: python_env.yaml\nentry_points: {main: {command: python main.py}}"
ENDS = {
    "succeeded": ("SUCCEEDED", ""),
    "failed": ("FAILED", "user_error"),
    "eats": ("FAILED", "out_of_memory"),
    "no environment": ("FAILED", "environment_setup"),
    "no file": ("FAILED", "invalid_config"),
    "cancelled": ("CANCELLED", ""),
}
LOGS = ("application.driver.log", "application.master.log", "launch_container.sh")


def calls(yarn: YarnRuns, planted: Planted, folder: Path, basic: str) -> dict[str, dict[str, Any]]:
    """Return the calls of `mlflow.projects.run`, one for each way to end."""
    file = folder / "secret"
    file.write_text(planted.plant("of a file") + "\n")
    index = f"https://u:{planted.plant('index password', '-')}@127.0.0.1:9/simple"
    by = {"BY_ENV": {"env": "OF_THE_SHELL"}, "BY_FILE": {"file": str(file)}}
    login = {"MLFLOW_TRACKING_USERNAME": {"env": "THE_USER"},
             "MLFLOW_TRACKING_PASSWORD": {"env": "THE_PASSWORD"}}  # fmt: skip
    files = {"python_env.yaml": "dependencies: [-r requirements.txt]",
             "requirements.txt": f"--index-url {index}\ntiny==1\n"}  # fmt: skip
    control = {"env": {"IN_THE_OPEN": planted.values["control"]},
               "application_name": planted.values["control"]}  # fmt: skip

    def call(project: Path, **changes: Any) -> dict[str, Any]:
        config = yarn.config(**{"secrets": by, "infra_retries": 0, **control, **changes})
        return {"uri": str(project), "backend": "yarn", "backend_config": config}

    return {
        "succeeded": call(yarn.project(TELLS)),
        "failed": call(yarn.project(FAILS), tracking_uri=basic, secrets={**by, **login}),
        "eats": call(yarn.project(EATS)),
        "no environment": call(yarn.project(TELLS, PYTHON_ENV, files)),
        "no file": call(
            yarn.project(TELLS), secrets={**by, "NOWHERE": {"file": str(folder / "none")}}
        ),
        "cancelled": call(yarn.project(WAITS)),
    }


def search_the_manager(yarn: YarnRuns, planted: Planted, run_id: str) -> None:
    """Look through what the ResourceManager and the node tell of a run's applications."""
    manager, told = yarn.cluster.resource_manager_url, "?user.name=" + yarn.cluster.superuser
    nodes = [f"http://{node['nodeHTTPAddress']}" for node in yarn.manager().nodes()]
    for application in yarn.applications(run_id):
        name = application["id"]
        pages = [f"{manager}/ws/v1/cluster/apps/{name}", f"{manager}/cluster/app/{name}"]
        for attempt in yarn.manager().attempts(name):
            number = attempt["appAttemptId"]
            pages += [
                f"{manager}/ws/v1/cluster/apps/{name}/appattempts/{number}/containers",
                f"{manager}/cluster/appattempt/{number}",
                f"{manager}/cluster/container/{attempt['containerId']}",
            ]
            for node in nodes:
                place = f"{node}/ws/v1/node/containers/{attempt['containerId']}"
                pages += [place, f"{place}/logs"]
                pages += [f"{place}/logs/{log}" for log in LOGS]
        pages.append(f"{manager}/ws/v1/cluster/apps/{name}/appattempts")
        for page in pages:
            planted.search(_shown(page), _page(page + told))
    for page in ("/ws/v1/cluster/apps", "/cluster/apps", "/cluster", "/ws/v1/cluster/nodes"):
        planted.search(f"the manager's {page}", _page(manager + page + told))
    for node in nodes:
        for page in ("/ws/v1/node/apps", "/ws/v1/node/containers", "/node/allContainers"):
            planted.search(f"the node's {page}", _page(node + page + told))


def _shown(url: str) -> str:
    """Return a page's address without what is different in each."""
    words = url.split("/")[3:]
    return "/" + "/".join("*" if "_" in word and word[-1].isdigit() else word for word in words)


def _page(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as answer:
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:  # what a page says when it refuses counts as well
        with error:
            content = error.read()
    return content


def search_commands(yarn: YarnRuns, planted: Planted, run_id: str) -> None:
    """Look through what Hadoop's own commands print of a run's application."""
    (application,) = yarn.applications(run_id)
    for command in (["application", "-status"], ["logs", "-applicationId"]):
        done = subprocess.run(
            ["yarn", *command, application["id"]], capture_output=True, env=yarn.environment()
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        planted.search(f"yarn {' '.join(command)}", done.stdout + done.stderr)


def search_this_machine(planted: Planted) -> None:
    """Look through what everybody on this machine sees, and what this client has written."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            planted.search("a command line", process.read_bytes())
    own = [*Path(tempfile.gettempdir()).glob("mlflow-exec-*"), Path.home() / ".skein"]
    assert planted.search_files("this client's temporary files", own), "skein's driver has a log"


def owner_only(folder: Path) -> Iterator[Path]:
    """Yield the files of secrets on the node, which only their user reads."""
    for path in folder.rglob("secret-*"):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(".crc"):
            assert path.stat().st_mode & 0o077 == 0, path
            yield path


def waits_to_be_cancelled(
    yarn: YarnRuns, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> ExecSubmittedRun:
    monkeypatch.setenv("OF_THE_SHELL", planted.values["of the shell"])
    submitted = yarn.run(
        yarn.project(WAITS),
        secrets={"BY_ENV": {"env": "OF_THE_SHELL"}},
        application_name=planted.values["control"],
    )
    yarn.says(submitted, "PATIENT")
    return submitted


def test_a_running_jobs_secrets_are_in_two_files_that_only_its_user_reads(
    yarn: YarnRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    yarn.cluster.require_processes()
    planted = Planted(opens_zips=True)
    planted.plant("control", "-")
    value = planted.plant("of the shell")
    submitted = waits_to_be_cancelled(yarn, planted, monkeypatch)
    hdfs, others = yarn.hdfs(), yarn.hdfs("mallory")
    root = f"{hdfs.home()}/.mlflow-exec"
    folder = f"{root}/{submitted.handle.name}"
    for place in (root, folder, f"{hdfs.home()}/.skein/{submitted.handle.uid}"):
        assert (hdfs.status(place) or {})["permission"] == "700"
    files = {file["pathSuffix"]: file["permission"] for file in hdfs.list(folder)}
    assert set(files.values()) == {"600"}
    assert b"".join(hdfs.read(f"{folder}/secret-BY_ENV")) == value.encode()
    with pytest.raises(AccessDeniedError):
        b"".join(others.read(f"{folder}/secret-BY_ENV"))

    search_the_manager(yarn, planted, submitted.run_id)
    search_this_machine(planted)
    for kept in ("nodes", "resourcemanager-state", "log", "hdfs/name"):
        assert planted.search_files(kept, [yarn.cluster.folder / kept])
    found = {path.name for path in owner_only(yarn.cluster.folder / "nodes")}
    assert "secret-BY_ENV" in found
    inside = planted.seen.pop("of the shell")
    assert {Path(place.partition(": ")[2]).name for place in inside} <= {"secret-BY_ENV"}, inside
    planted.assert_unseen("control")
    seen = planted.places("control")
    for place in ("/ws/v1/cluster/apps/*", "/cluster/app/*", "resourcemanager-state", "log"):
        assert place in seen, f"the search itself does not look there: {place}"
    submitted.cancel()
    everything_is_gone(yarn, planted, {value})


def everything_is_gone(yarn: YarnRuns, planted: Planted, values: set[str]) -> None:
    """Wait until nothing on the disks of the cluster holds a secret; its daemons clean up late."""

    def left() -> list[str]:
        again = Planted({value: value for value in values}, opens_zips=True)
        again.search_files("the cluster", [yarn.cluster.folder])
        return sorted(place for places in again.seen.values() for place in places)

    until(lambda: not left(), "no secret is left on the cluster's disks", 90)


def test_no_planted_secret_is_found_in_anything_that_jobs_leave(
    yarn: YarnRuns, tmp_path_factory: pytest.TempPathFactory
) -> None:
    yarn.cluster.require_processes()
    planted = Planted(opens_zips=True)
    planted.plant("control", "-")
    token = planted.plant("tracking token", "-")
    pair = f"someone:{planted.plant('tracking password', '-')}"
    basic = "Basic " + base64.b64encode(pair.encode()).decode()
    folder = tmp_path_factory.mktemp("planted")
    secret_folder = tmp_path_factory.mktemp("of-the-node")
    before = yarn.staged()
    with (
        asking_for(f"Bearer {token}", yarn.server.url) as by_token,
        asking_for(basic, yarn.server.url) as by_password,
    ):
        made = calls(yarn, planted, secret_folder, by_password)
        shell = {
            "MLFLOW_TRACKING_URI": by_token,
            "MLFLOW_TRACKING_TOKEN": token,
            "OF_THE_SHELL": planted.plant("of the shell"),
            "THE_USER": "someone",
            "THE_PASSWORD": planted.values["tracking password"],
        }
        runs = submitted_by_a_client(folder, made, yarn.environment(**shell), planted)
    for kind, run_id in runs.items():
        tags = yarn.server.tags(run_id)
        ended = (tags["mlflow_exec.state"], tags.get("mlflow_exec.failure.category", ""))
        assert ended == ENDS[kind], f"{kind}: {tags}"
        planted.search_run(yarn.server, run_id, folder)
        search_the_manager(yarn, planted, run_id)
    for kind in ("failed", "eats"):
        search_commands(yarn, planted, runs[kind])
    assert yarn.staged() == before
    secrets = set(planted.values.values()) - {planted.values["control"]}
    # The password of an index stands in a file of the project, which is the user's own.
    everything_is_gone(yarn, planted, secrets)
    planted.search_files("the cluster", [yarn.cluster.folder])
    planted.assert_unseen("control")
    seen = planted.places("control")
    for place in ("/ws/v1/cluster/apps/*", "/cluster/app/*", "yarn application -status",
                  "yarn logs -applicationId", "the cluster: resourcemanager-state",
                  "the cluster: hdfs/data", "the cluster: log", "an artifact: mlflow-exec/log.txt",
                  "an artifact: mlflow-exec/manifest.yaml", "the client's stdout"):  # fmt: skip
        assert place in seen, f"the search itself does not look there: {place}"
    assert os.listdir(secret_folder) == ["secret"]
