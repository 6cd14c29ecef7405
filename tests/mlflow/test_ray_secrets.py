"""No planted secret is found in anything that jobs on a real Ray leave behind.

What a program itself writes to MLflow is its own business, and what tasks print that it starts in
Ray: Ray writes that by itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_exec.clients.ray import find_token
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.mlflow.planted import TELLS, Planted, submitted_by_a_client
from tests.servers import asking_for, mlflow_server

MLPROJECT = "name: x\nentry_points: {main: {command: python main.py}}"
FAILS = TELLS + "raise RuntimeError('the token is ' + os.environ['BY_NODE'])"
WAITS = TELLS + "print('PATIENT', flush=True); time.sleep(600)"
ENDS = {
    "succeeded": ("SUCCEEDED", ""),
    "failed": ("FAILED", "user_error"),
    "no environment": ("FAILED", "environment_setup"),
    "no file": ("FAILED", "invalid_config"),
    "no variable": ("FAILED", "invalid_config"),
    "cancelled": ("CANCELLED", ""),
}
# What Ray tells everybody who has its token; some of it is there on some versions only.
API = ("api/jobs/", "nodes?view=summary", "logical/actors", "api/cluster_status", "events",
       "api/v0/actors?detail=1", "api/v0/workers?detail=1", "api/v0/tasks?detail=1",
       "api/v0/runtime_envs", "api/v0/jobs?detail=1", "api/component_activities")  # fmt: skip


def calls(cluster: RayCluster, planted: Planted, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the calls of `mlflow.projects.run`, one for each way to end."""
    file, token = folder / "secret", folder / "token"
    file.write_text(planted.plant("of a file") + "\n")
    token.write_text(planted.values["tracking token"] + "\n")
    declared = {"BY_NODE": {"node_env": "NODE_SECRET"}, "BY_FILE": {"file": str(file)},
                "MLFLOW_TRACKING_TOKEN": {"file": str(token)}}  # fmt: skip
    environment = {
        "python_env.yaml": "dependencies: [-r requirements.txt]",
        "MLproject": MLPROJECT.replace("entry", "python_env: python_env.yaml\nentry"),
        "requirements.txt": f"--index-url https://u:{planted.plant('index password', '-')}"
        f"@127.0.0.1:9/simple\ntiny==1\n",
    }

    def call(name: str, program: str, files: dict[str, str], **more: Any) -> dict[str, Any]:
        project = folder / name
        project.mkdir()
        for path, text in {"MLproject": MLPROJECT, "main.py": program, **files}.items():
            (project / path).write_text(text)
        config = cluster.settings(
            resources={"cpu": 0.25},
            secrets={**declared, **more},
            env={"IN_THE_OPEN": planted.values["control"]},
        )
        return {"uri": str(project), "backend": "ray", "backend_config": config}

    return {
        "succeeded": call("succeeded", TELLS, {}),
        "failed": call("failed", FAILS, {}),
        "no environment": call("environment", TELLS, environment),
        "no file": call("file", TELLS, {}, NOWHERE={"file": str(folder / "none")}),
        "no variable": call("variable", TELLS, {}, NOWHERE={"node_env": "NOT_SET_THERE"}),
        "cancelled": call("cancelled", WAITS, {}),
    }


def search_ray(cluster: RayCluster, planted: Planted) -> None:
    """Look through what Ray's API tells, and through its files."""
    headers = {"Authorization": f"Bearer {find_token(cluster.token_file)}"}

    def ask(path: str) -> requests.Response:
        return requests.get(f"{cluster.address}/{path}", headers=headers, timeout=60)

    answers = {path: ask(path) for path in API}
    jobs = answers["api/jobs/"].json()
    assert jobs
    for job in jobs:
        path = f"api/jobs/{job['submission_id']}"
        answers |= {path: ask(path), f"{path}/logs": ask(f"{path}/logs")}
    for path, answer in answers.items():
        planted.search(f"Ray's API: {path.split('/mlflow-')[0]}", answer.content)
    assert sum(answer.ok for answer in answers.values()) > len(jobs) * 2 + 4
    assert cluster.home is not None
    folder = Path(json.loads((cluster.home / "ray.json").read_text())["folder"])
    assert planted.search_files("Ray's logs", folder.glob("session_2*/logs")) > 10
    planted.search_files("temporary files", [folder / "tmp"])
    planted.search("Ray's own output", (cluster.home / "ray.log").read_bytes())


def test_no_planted_secret_is_found_in_anything_that_jobs_leave(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    if ray_cluster.node_secret is None:
        unavailable("the nodes of this Ray have no variable of the test's")
    planted = Planted({"of the nodes": ray_cluster.node_secret})
    planted.plant("control")
    token = planted.plant("tracking token", "-")
    (tmp_path / "tracking").mkdir()
    with mlflow_server(tmp_path / "tracking") as server:
        with asking_for(f"Bearer {token}", server.url) as url:
            shell = {**os.environ, "MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_TOKEN": token}
            made = calls(ray_cluster, planted, tmp_path)
            runs = submitted_by_a_client(tmp_path, made, shell, planted)
        for kind, run_id in runs.items():
            tags = server.tags(run_id)
            ended = (tags["mlflow_exec.state"], tags.get("mlflow_exec.failure.category", ""))
            assert ended == ENDS[kind], f"{kind}: {tags}"
            planted.search_run(server, run_id, tmp_path)
            if kind.startswith("no "):
                assert tags["mlflow_exec.state.by"] in ("entry", "client")
    search_ray(ray_cluster, planted)
    planted.assert_unseen("control")
    seen = planted.places("control")
    for place in ("Ray's API: api/jobs", "Ray's logs", "an artifact: mlflow-exec/log.txt",
                  "an artifact: mlflow-exec/manifest.yaml", "the client's stdout"):  # fmt: skip
        assert place in seen, "the search itself does not look there"


def test_a_declared_token_of_the_tracking_server_is_not_warned_of(
    ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow_exec.runs.progress import Progress
    from mlflow_exec.runs.submit import Call, check, prepare

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of this shell")
    (tmp_path / "MLproject").write_text(MLPROJECT)
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda _self, text: said.append(text))
    for secrets, warned in (({}, True), ({"MLFLOW_TRACKING_TOKEN": {"file": "/x"}}, False)):
        said.clear()
        config = ray_cluster.settings(secrets=secrets)
        call = Call("ray", str(tmp_path), "main", {}, None, config, "http://127.0.0.1:1", "0")
        prepared = prepare(call, Progress())
        try:
            check(prepared, Progress())
        finally:
            prepared.close()
        assert any("MLFLOW_TRACKING_TOKEN: not sent" in text for text in said) == warned
