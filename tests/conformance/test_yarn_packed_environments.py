"""Packed environments in a real HDFS, and unpacked by a real YARN."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_exec.clients.hadoop_config import read_config
from mlflow_exec.clients.hadoop_http import Login
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn_cli import yarn_logs
from mlflow_exec.schedulers.yarn.packing import Packing
from mlflow_exec.schedulers.yarn.packing_build import provide
from mlflow_exec.schedulers.yarn.packing_store import clean, find, put
from tests.clusters.processes import appears
from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.skein_application import skein_application
from tests.unit.packed_environments import OWN_PACKAGE, described, job

DAY_S = 86400
KEY = "ab" * 32
PINNED = Packing("venv-pack", KEY, f"{KEY[:40]}.tar.gz", True)
LOOSE = replace(PINNED, pinned=False)


@pytest.fixture(scope="module")
def hdfs(yarn_cluster: YarnCluster) -> WebHdfs:
    yarn_cluster.make_home("me")
    return WebHdfs(read_config(str(yarn_cluster.conf_dir)), Login("me"))


@pytest.fixture
def folder(hdfs: WebHdfs) -> Iterator[str]:
    """The archives' folder, which is not there yet."""
    path = f"{hdfs.home()}/.mlflow-exec/environments"
    yield path
    hdfs.delete(path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "packed.tar.gz"
    path.write_bytes(b"packed" * 1000)
    return path


def path_of(uri: str) -> str:
    return urlsplit(uri).path


def names(hdfs: WebHdfs, folder: str) -> set[str]:
    return {str(entry["pathSuffix"]) for entry in hdfs.list(folder)}


def set_age(hdfs: WebHdfs, path: str, age_s: float) -> None:
    """Let a file seem to be that old."""
    hdfs.set_times(path, int((time.time() - age_s) * 1000))


# -- one archive ----------------------------------------------------------------------------


def test_an_archive_is_uploaded_for_its_owner(hdfs: WebHdfs, folder: str, archive: Path) -> None:
    uri = put(hdfs, folder, PINNED, archive)
    assert uri == f"{hdfs.filesystem}{folder}/{PINNED.file_name}"
    assert b"".join(hdfs.read(path_of(uri))) == archive.read_bytes()
    file, above = hdfs.status(path_of(uri)), hdfs.status(folder)
    assert file is not None
    assert above is not None
    assert (file["permission"], above["permission"]) == ("600", "700")
    assert names(hdfs, folder) == {PINNED.file_name, f"{PINNED.file_name}.used"}


def test_one_that_is_there_is_used_and_stays_as_it_is(
    hdfs: WebHdfs, folder: str, archive: Path, tmp_path: Path
) -> None:
    uri = put(hdfs, folder, PINNED, archive)
    set_age(hdfs, path_of(uri), 100 * DAY_S)
    set_age(hdfs, f"{path_of(uri)}.used", 100 * DAY_S)
    before = hdfs.status(path_of(uri))
    of_another_client = tmp_path / "another.tar.gz"
    of_another_client.write_bytes(b"packed by another client, so a little different")
    assert put(hdfs, folder, PINNED, of_another_client) == uri
    assert hdfs.status(path_of(uri)) == before, "YARN takes no file whose time has changed"
    marker = hdfs.status(f"{path_of(uri)}.used")
    assert marker is not None
    assert time.time() - marker["modificationTime"] / 1000 < 60


def test_what_is_not_pinned_is_made_anew_when_it_is_old_beside_the_old_one(
    hdfs: WebHdfs, folder: str, archive: Path
) -> None:
    first = put(hdfs, folder, LOOSE, archive, max_age_s=3600)
    assert put(hdfs, folder, LOOSE, archive, max_age_s=3600) == first
    set_age(hdfs, path_of(first), 4000)
    assert find(hdfs, folder, LOOSE, max_age_s=3600) is None
    assert find(hdfs, folder, PINNED, max_age_s=3600) == first
    before = hdfs.status(path_of(first))
    second = put(hdfs, folder, LOOSE, archive, max_age_s=3600)
    assert second != first
    assert find(hdfs, folder, LOOSE, max_age_s=3600) == second
    assert hdfs.status(path_of(first)) == before, "a waiting job may still need it"


def test_nothing_is_found_where_nothing_finished_is(hdfs: WebHdfs, folder: str) -> None:
    assert find(hdfs, folder, PINNED) is None
    hdfs.make_folder(folder)
    hdfs.write(f"{folder}/{PINNED.file_name}.0123456789ab.uploading", b"half")
    hdfs.write(f"{folder}/{PINNED.file_name}.used", b"")
    assert find(hdfs, folder, PINNED) is None


def test_of_two_clients_that_upload_at_once_the_first_to_finish_wins(
    yarn_cluster: YarnCluster, hdfs: WebHdfs, folder: str, archive: Path, tmp_path: Path
) -> None:
    class Slow(WebHdfs):
        """While it uploads another client starts and finishes."""

        def write(self, path: str, content: Any, **how: Any) -> int:
            written = super().write(path, content, **how)
            if path.endswith(".uploading"):
                put(hdfs, folder, PINNED, quick)
            return written

    quick = tmp_path / "quick.tar.gz"
    quick.write_bytes(b"of the quick client")
    slow = Slow(read_config(str(yarn_cluster.conf_dir)), Login("me"))
    uri = put(slow, folder, PINNED, archive)
    assert b"".join(hdfs.read(path_of(uri))) == b"of the quick client"
    assert names(hdfs, folder) == {PINNED.file_name, f"{PINNED.file_name}.used"}


# -- cleaning -------------------------------------------------------------------------------


def stored(
    hdfs: WebHdfs, folder: str, archive: Path, letter: str, *, built_s: float, used_s: float
) -> str:
    """Store an archive that was built and used some time ago; returns its name."""
    packing = replace(PINNED, key=letter * 64, file_name=f"{letter * 40}.tar.gz")
    path = path_of(put(hdfs, folder, packing, archive))
    set_age(hdfs, path, built_s)
    set_age(hdfs, f"{path}.used", used_s)
    return path.rpartition("/")[2]


def test_archives_unused_for_long_go_and_their_marks_with_them(
    hdfs: WebHdfs, folder: str, archive: Path
) -> None:
    stored(hdfs, folder, archive, "a", built_s=90 * DAY_S, used_s=40 * DAY_S)
    used = stored(hdfs, folder, archive, "b", built_s=90 * DAY_S, used_s=3 * DAY_S)
    new = stored(hdfs, folder, archive, "c", built_s=60, used_s=90 * DAY_S)
    assert clean(hdfs, folder, max_age_s=30 * DAY_S, limit_bytes=10**9) == 1
    assert names(hdfs, folder) == {used, f"{used}.used", new, f"{new}.used"}


def test_over_the_limit_those_used_longest_ago_go_first(
    hdfs: WebHdfs, folder: str, archive: Path
) -> None:
    size_bytes = archive.stat().st_size
    oldest, older, newer = (
        stored(hdfs, folder, archive, letter, built_s=9 * DAY_S, used_s=days * DAY_S)
        for letter, days in (("a", 5), ("b", 4), ("c", 3))
    )
    assert clean(hdfs, folder, 30 * DAY_S, limit_bytes=3 * size_bytes) == 0
    assert clean(hdfs, folder, 30 * DAY_S, limit_bytes=2 * size_bytes) == 1
    assert {older, newer} < names(hdfs, folder)
    assert oldest not in names(hdfs, folder)


def test_one_used_in_the_last_day_stays_whatever_the_limit(
    hdfs: WebHdfs, folder: str, archive: Path
) -> None:
    used = stored(hdfs, folder, archive, "a", built_s=9 * DAY_S, used_s=DAY_S / 2)
    assert clean(hdfs, folder, max_age_s=0, limit_bytes=0) == 0
    assert used in names(hdfs, folder)


def test_what_broken_uploads_left_goes_after_a_day(hdfs: WebHdfs, folder: str) -> None:
    hdfs.make_folder(folder)
    for name, age_s in (("x.tar.gz.1.uploading", 2 * DAY_S), ("y.tar.gz.2.uploading", 60),
                        ("gone.tar.gz.used", 2 * DAY_S), ("coming.tar.gz.used", 60)):  # fmt: skip
        hdfs.write(f"{folder}/{name}", b"")
        set_age(hdfs, f"{folder}/{name}", age_s)
    clean(hdfs, folder, 30 * DAY_S, 10**9)
    assert names(hdfs, folder) == {"y.tar.gz.2.uploading", "coming.tar.gz.used"}


def test_cleaning_where_nothing_was_ever_uploaded_is_fine(hdfs: WebHdfs, folder: str) -> None:
    assert clean(hdfs, folder, 0, 0) == 0


# -- YARN -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """An application that has ended."""

    state: str
    diagnostics: str
    log: str


def run(cluster: YarnCluster, home: Path, uri: str, script: str) -> Ran:
    """Run a script as an application beside an unpacked archive."""
    service = {
        "instances": 1, "script": script, "resources": {"memory": "256 MiB", "vcores": 1},
        "files": {"environment": {"source": uri, "type": "archive", "visibility": "private"}},
    }  # fmt: skip
    name = skein_application(cluster, "me", home, services={"it": service})
    ended = applications.ended(cluster, name, timeout_s=120)
    config = read_config(str(cluster.conf_dir))
    log = b""

    def aggregated() -> bool:
        nonlocal log
        log = b"".join(yarn_logs(config, name, owner="me", timeout_s=60))
        return b"the end" in log or ended["finalStatus"] != "SUCCEEDED"

    with pytest.MonkeyPatch.context() as patch:
        for variable, value in cluster.environment("me").items():
            patch.setenv(variable, value)
        assert appears(aggregated, timeout_s=60, interval_s=1)
    return Ran(str(ended["finalStatus"]), str(ended["diagnostics"]), log.decode())


def test_an_environment_runs_in_a_container_where_it_is_read_only(
    yarn_cluster: YarnCluster, hdfs: WebHdfs, folder: str, tmp_path: Path
) -> None:
    said: list[str] = []
    with job(tmp_path, OWN_PACKAGE, "./own") as spec:
        packing = described("venv-pack", spec)
        uris = {
            provide(hdfs, folder, packing, spec, tmp_path / "local", said.append)
            for _ in range(2)
        }
    (uri,) = uris
    assert len([line for line in said if "uploading" in line]) == 1
    script = (
        "export PATH=$PWD/environment/bin:$PATH; own; stat -c 'mode %a' environment/bin/own; "
        "stat -c 'mode %a' environment/pyvenv.cfg; readlink environment/bin/python; echo the end"
    )
    ran = run(yarn_cluster, tmp_path, uri, script)
    assert ran.state == "SUCCEEDED", ran
    assert "own 1.0 in /" in ran.log
    assert "/environment by /" in ran.log
    assert ran.log.count("mode 500") == 2
