"""Where the project comes from, and what is refused before any of it is used."""

from __future__ import annotations

import hashlib
import os
import stat
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.runtime.end import EXIT_OVER
from tests.servers import file_server
from tests.unit.runtime.job_in_cluster import Cluster, archive

SHOW = {"command": "cat data/words.txt && ./run.sh && pwd"}
FILES = {"data/words.txt": "from the archive\n", "run.sh": "#!/bin/sh\necho executed\n"}
MODES = {"run.sh": 0o100755}


def source_order(cluster: Cluster, source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return cluster.order(source=source, entry_point=SHOW, **changes)


def test_a_local_archive_is_verified_and_unpacked(cluster: Cluster) -> None:
    source = archive(cluster.folder / "source.zip", FILES, MODES)
    finished = cluster.run(source_order(cluster, source))
    assert finished.code == 0
    assert "\nfrom the archive\nexecuted\n" in finished.text


def test_an_archive_behind_a_secret_url_is_fetched_and_the_secret_is_kept(
    cluster: Cluster,
) -> None:
    source = archive(cluster.folder / "source.zip", FILES, MODES)
    content = Path(source.pop("path")).read_bytes()
    with file_server() as files:
        files.files["/bucket/source.zip"] = (200, content)
        source["url_env"] = "SOURCE_URL"
        order = source_order(cluster, source)
        order["entry_point"] = {"command": "cat data/words.txt; echo url=$SOURCE_URL."}
        url = f"{files.url}/bucket/source.zip?signature=s3cret"
        finished = cluster.run(order, env={"SOURCE_URL": url})
        assert finished.code == 0
        assert "\nfrom the archive\nurl=.\n" in finished.text
        assert files.requests[0][0].endswith("signature=s3cret")
        files.files["/bucket/source.zip"] = (403, b"expired")
        again = source_order(cluster, source)
        refused = cluster.run(again, env={"SOURCE_URL": url})
    assert refused.code == 81
    assert "HTTP 403" in refused.end.message
    assert "s3cret" not in finished.text + refused.text


def test_an_archive_among_the_runs_artifacts_is_fetched_through_the_server(
    cluster: Cluster,
) -> None:
    source = archive(cluster.folder / "source.zip", FILES, MODES)
    content = Path(source.pop("path")).read_bytes()
    source["artifact_path"] = "mlflow-exec/source.zip"
    order = source_order(cluster, source)
    within = order["artifact_uri"].partition(":/")[2]
    url = f"{cluster.server.url}/api/2.0/mlflow-artifacts/artifacts/{within}"
    url = f"{url}/{source['artifact_path']}"
    request = urllib.request.Request(url, data=content, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    finished = cluster.run(order)
    assert finished.code == 0
    assert "\nfrom the archive\n" in finished.text


def test_an_archive_elsewhere_is_fetched_by_the_images_own_mlflow(cluster: Cluster) -> None:
    source = archive(cluster.folder / "source.zip", FILES, MODES)
    content = Path(source.pop("path")).read_bytes()
    order = source_order(cluster, {**source, "mlflow_uri": ""})
    within = order["artifact_uri"].partition(":/")[2]
    url = f"{cluster.server.url}/api/2.0/mlflow-artifacts/artifacts/{within}/source.zip"
    request = urllib.request.Request(url, data=content, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    order["source"]["mlflow_uri"] = f"runs:/{order['run_id']}/source.zip"
    assert "\nfrom the archive\n" in cluster.run(order).text
    order = source_order(cluster, {**source, "mlflow_uri": "runs:/" + "0" * 32 + "/source.zip"})
    refused = cluster.run(order)
    assert (refused.code, refused.end.category) == (81, "source_fetch")
    assert "image needs mlflow" in refused.end.hint


def test_a_directory_is_used_as_it_is_or_copied(cluster: Cluster) -> None:
    (cluster.project / ".mlflow_exec").mkdir()
    entry_point = {"command": "touch made-by-job; ls -a"}
    source = {"kind": "directory", "path": str(cluster.project)}
    copied = {**source, "copy": True, "exclude": [".mlflow_exec"]}
    finished = cluster.run(cluster.order(source=copied, entry_point=entry_point))
    assert "made-by-job" in finished.text
    assert "\n.mlflow_exec\n" not in finished.text
    assert not (cluster.project / "made-by-job").exists()
    cluster.run(cluster.order(source=source, entry_point=entry_point))
    assert (cluster.project / "made-by-job").exists()


def test_the_entry_point_runs_in_the_projects_subdirectory(cluster: Cluster) -> None:
    source = archive(cluster.folder / "source.zip", {"a/b/here.txt": "", "top.txt": ""})
    order = cluster.order(source={**source, "subdirectory": "a/b"}, entry_point={"command": "ls"})
    assert "\nhere.txt\n" in cluster.run(order).text
    order["source"]["subdirectory"] = "../.."
    refused = cluster.run(order)
    assert refused.code == EXIT_OVER
    again = cluster.order(source=order["source"], entry_point={"command": "ls"})
    assert "leaves the project" in cluster.run(again).end.message


def test_a_changed_archive_is_refused(cluster: Cluster) -> None:
    source = archive(cluster.folder / "source.zip", FILES)
    source["sha256"] = hashlib.sha256(b"another").hexdigest()
    finished = cluster.run(source_order(cluster, source))
    assert (finished.code, finished.end.category) == (81, "source_fetch")
    assert source["sha256"] in finished.end.message


def test_a_broken_archive_is_refused(cluster: Cluster) -> None:
    path = cluster.folder / "source.zip"
    path.write_bytes(b"PK, but no zip")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = {"kind": "archive", "path": str(path), "sha256": digest}
    assert cluster.run(source_order(cluster, source)).end.category == "source_fetch"


UNSAFE = {
    "parent": ("../outside.txt", 0o100644),
    "inner parent": ("a/../../outside.txt", 0o100644),
    "absolute": ("/tmp/outside.txt", 0o100644),
    "double slash": ("a//b.txt", 0o100644),
    "symlink": ("link", stat.S_IFLNK | 0o777),
    "symlinked folder": ("link/", stat.S_IFLNK | 0o777),
    "device": ("null", stat.S_IFCHR | 0o666),
    "pipe": ("pipe", stat.S_IFIFO | 0o666),
    "socket": ("socket", stat.S_IFSOCK | 0o666),
    "file as folder": ("folder/", stat.S_IFREG | 0o644),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_archive_is_refused_before_anything_is_written(
    cluster: Cluster, name: str
) -> None:
    entry, mode = UNSAFE[name]
    files = {"main.py": "print('ran')", entry: "/etc/passwd"}
    source = archive(cluster.folder / "source.zip", files, {entry: mode})
    finished = cluster.run(source_order(cluster, source))
    assert finished.code == 81
    assert repr(entry) in finished.end.message
    assert not (cluster.tmp / "outside.txt").exists()
    assert not Path("/tmp/outside.txt").exists()


@pytest.mark.parametrize("names", [("a.txt", "a.txt"), ("a", "a/b"), ("a/b", "a")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_an_entry_twice_is_refused(
    cluster: Cluster, names: tuple[str, str]
) -> None:
    path = cluster.folder / "source.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for name in names:
            bundle.writestr(name, "content")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = {"kind": "archive", "path": str(path), "sha256": digest}
    assert "twice" in cluster.run(source_order(cluster, source)).end.message


def test_strange_names_are_unpacked_as_they_are(cluster: Cluster) -> None:
    names = ["a b.txt", "quote'\".txt", "zeile\nzwei.txt", "größe/名前.txt", "back\\slash.txt"]
    source = archive(cluster.folder / "source.zip", dict.fromkeys(names, ""))
    code = """
import os
for root, _, files in os.walk('.'):
    for name in files: print(repr(os.path.join(root, name)))
"""
    order = cluster.order(source=source, entry_point={"command": f'python -c "{code}"'})
    finished = cluster.run(order, env={"PYTHONUTF8": "1"})
    for name in names:
        assert repr(os.path.join(".", name)) in finished.text
