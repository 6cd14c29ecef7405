"""Calls that are refused before anything is created: no run, no application, no file in HDFS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow.exceptions import ExecutionException

from mlflow_exec.errors import ClusterError
from mlflow_exec.testing.collecting import until
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.jars import jars
from tests.mlflow.yarn_runs import YarnRuns

QUEUES = "closed, default, ml, small, stopped"

CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown queue": (
        {"queue": "defualt"},
        rf"no queue 'defualt' \(did you mean 'default'\?\)\. Known: {QUEUES}",
    ),
    "a queue that is stopped": ({"queue": "stopped"}, r"root\.stopped is STOPPED"),
    "a queue that others may use": (
        {"queue": "closed"}, r"may not submit to root\.closed; ask for the right",
    ),
    "a queue of queues": ({"queue": "root"}, r"'root' takes no applications by itself; .*default"),
    "a label that there is not": ({"node_label": "gpus"}, "no label 'gpus'. Known: none"),
    "more memory than the largest container": (
        {"resources": {"memory": "100Gi"}}, r"resources\.memory: 102400 MiB .* 8192 MiB at most",
    ),
    "more vcores than the largest container": (
        {"resources": {"cpu": 100}}, r"resources\.cpu: 100 vcores .* 8 vcores at most",
    ),
    "a part of a vcore": ({"resources": {"cpu": 0.5}}, r"resources\.cpu: YARN gives whole vcores"),
    "GPUs that the cluster has not": (
        {"resources": {"gpu": 1}}, r"resources\.gpu: the cluster has no resource 'yarn\.io/gpu'",
    ),
    "a folder without a configuration": (
        {"hadoop_conf_dir": "/no/such/folder"},
        "setting 'hadoop_conf_dir': '/no/such/folder' is no folder with a Hadoop configuration",
    ),
    "a keytab without its principal": (
        {"keytab": "/etc/me.keytab"}, "'principal' and 'keytab' belong together",
    ),
    "a principal where nobody signs in": (
        {"principal": "me@X", "keytab": "/etc/me.keytab"}, "does not sign in by Kerberos",
    ),
    "a user without a home": (
        {"user": "stranger"}, r"/user/stranger does not exist; an administrator makes it",
    ),
    "a staging folder where there is nothing": (
        {"staging_dir": "/no/such/folder"}, r"/no/such/folder does not exist",
    ),
    "a staging folder in another's": (
        {"user": "me", "staging_dir": "/locked"}, "'me' cannot make a folder in it",
    ),
    "a staging folder that is a relative path": (
        {"staging_dir": "staging"}, "an absolute path or a URI is needed; given 'staging'",
    ),
    "an unknown setting": (
        {"qeue": "default"}, r"unknown setting 'qeue' \(did you mean 'queue'\?\)",
    ),
    "a setting of mlflow-yarn that has no meaning here": (
        {"pre_script_hook": "ls"}, "pre_script_hook: .*no meaning here",
    ),
    "a patch that would start it twice": (
        {"patch": {"max_attempts": 2}}, "max_attempts must be 1.*infra_retries",
    ),
    "a password in the tracking URI": (
        {"tracking_uri": "http://me:hunter2@mlflow:5000"}, "MLFLOW_TRACKING_PASSWORD",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_created(request: pytest.FixtureRequest) -> Iterator[None]:
    name = "frail" if "frail" in request.fixturenames else "yarn"
    runs: YarnRuns = request.getfixturevalue(name)
    for user in (runs.cluster.superuser, "me"):
        runs.cluster.make_home(user)
    runs.cluster.make_folder("/locked")

    def there_is() -> tuple[set[str], list[str], int]:
        return runs.run_ids(), runs.staged(), len(runs.manager().apps())

    before = there_is()
    yield
    # A ResourceManager that was away knows its applications after a moment.
    until(lambda: there_is() == before, "all is as it was")


def refused(runs: YarnRuns, message: str, **changes: Any) -> None:
    """Submit and be refused with that message."""
    with pytest.raises(ExecutionException, match=f"(?s){message}") as caught:
        runs.run(runs.project(""), **changes)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS)
def test_it_is_refused(yarn: YarnRuns, call: str) -> None:
    given, message = CALLS[call]
    refused(yarn, message, **given)


def test_a_staging_folder_that_others_can_read(yarn: YarnRuns) -> None:
    yarn.cluster.make_home("careless")
    yarn.cluster.make_folder("/user/careless/.mlflow-exec", owner="careless", permission="750")
    refused(
        yarn, "must be a folder of 'careless' that nobody else can read; .*permission 750",
        user="careless",
    )  # fmt: skip


def test_a_staging_folder_that_is_anothers(yarn: YarnRuns) -> None:
    yarn.cluster.make_folder("/user/unlucky", permission="777")
    yarn.cluster.make_folder("/user/unlucky/.mlflow-exec", owner="another", permission="700")
    refused(
        yarn, "must be a folder of 'unlucky' .* it belongs to 'another'", user="unlucky"
    )


def test_no_hadoop_client_on_this_machine(yarn: YarnRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_dir = str(yarn.cluster.folder / "bin")
    kept = [part for part in os.environ["PATH"].split(os.pathsep) if part != bin_dir]
    monkeypatch.setenv("PATH", os.pathsep.join(kept))
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    refused(yarn, "Hadoop's command 'yarn' is neither on the PATH nor in .*install")


def test_no_java_on_this_machine(yarn: YarnRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/no/such/java")
    refused(yarn, "there is no '/no/such/java/bin/java'; install Java .*or set JAVA_HOME")


# -- clusters that answer in part -----------------------------------------------------------


def test_an_hdfs_in_safe_mode(frail: YarnRuns) -> None:
    safe_mode(frail.cluster, "enter")
    try:
        refused(frail, "HDFS .*safe mode")
    finally:
        safe_mode(frail.cluster, "leave")


def test_an_hdfs_that_is_away(frail: YarnRuns) -> None:
    frail.cluster.kill_daemon("namenode")
    try:
        refused(frail, "HDFS http://.*: no answer: .*refused")
    finally:
        frail.cluster.start_daemon("namenode")
        until(lambda: takes_changes(frail), "its DataNode has told what it has", 60)


def test_a_yarn_that_is_away(frail: YarnRuns) -> None:
    frail.cluster.kill_daemon("resourcemanager")
    try:
        refused(frail, "YARN http://.*: no answer: .*refused")
    finally:
        frail.cluster.start_daemon("resourcemanager")


def takes_changes(runs: YarnRuns) -> bool:
    """Whether HDFS is out of its safe mode."""
    try:
        runs.hdfs().delete("/there-is-none")
    except ClusterError:
        return False
    return True


def safe_mode(cluster: YarnCluster, action: str) -> None:
    """Let HDFS take no changes, or take them again, as `hdfs dfsadmin` does."""
    environment = cluster.environment()
    subprocess.run(
        [f"{environment['JAVA_HOME']}/bin/java", "-cp", f"{cluster.conf_dir}:{jars()}/*",
         "org.apache.hadoop.hdfs.tools.DFSAdmin", "-safemode", action],
        env={**os.environ, **environment}, check=True, capture_output=True,
    )  # fmt: skip
