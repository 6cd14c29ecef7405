"""A job in an environment that was packed elsewhere and unpacked beside it, read-only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.packed_environments import (
    OWN_PACKAGE,
    conda_from_here,
    conda_yaml,
    everything_in,
    job,
    localized,
    packed,
)
from tests.unit.runtime.job_in_cluster import Cluster, Finished

PLACE = "mlflow_exec_environment"
VERSION = "{}.{}".format(*sys.version_info[:2])
OTHER = "3.8" if VERSION != "3.8" else "3.9"


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a venv with the package ``own``."""
    folder = tmp_path_factory.mktemp("venv")
    with job(folder, OWN_PACKAGE, "./own") as spec:
        return packed("venv-pack", spec, folder / "archives")


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The archive of a conda environment with the program ``tool``."""
    folder = tmp_path_factory.mktemp("conda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{conda_from_here(folder)}:{os.environ['PATH']}")
        environment = {"manager": "conda", "conda_file": "conda.yaml"}
        with job(folder, {"conda.yaml": conda_yaml("python")}, **environment) as spec:
            yield packed("conda-pack", spec, folder / "archives")


def on_node(archive: Path, cluster: Cluster) -> Path:
    """Localize an archive for the next container, as a link in its working folder."""
    folder = localized(archive, cluster.folder / "node")
    (cluster.work / PLACE).symlink_to(folder)
    return folder


def run(cluster: Cluster, code: str = "", **changes: Any) -> Finished:
    order = cluster.order(code, environment={"manager": "packed", "path": PLACE}, **changes)
    return cluster.run(order, env={"PATH": "/usr/bin:/bin"}, python="/usr/bin/python3")


def test_programs_of_a_venv_run_in_it(cluster: Cluster, venv: Path) -> None:
    folder = on_node(venv, cluster)
    before = everything_in(folder)
    code = "import own, sys, os; print('python', sys.prefix, os.environ['VIRTUAL_ENV'])"
    finished = run(cluster, code, entry_point={"command": "own && python main.py"})
    assert finished.code == 0, finished.text
    assert f"own 1.0 in {cluster.work}/{PLACE} by {folder}/bin/own\n" in finished.text
    assert f"python {cluster.work}/{PLACE} {cluster.work}/{PLACE}\n" in finished.text
    assert "environment: packed, ready after" in finished.text
    assert everything_in(folder) == before, "other jobs use it, too"


def test_programs_of_a_conda_environment_run_in_it(cluster: Cluster, conda: Path) -> None:
    folder = on_node(conda, cluster)
    before = everything_in(folder)
    code = "import os; print('told', os.environ['TOOL_DATA'], os.environ['SSL_CERT_FILE'])"
    finished = run(cluster, code, entry_point={"command": "tool && python main.py"})
    assert finished.code == 0, finished.text
    place = f"{cluster.work}/{PLACE}"
    assert f"tool in {place} {place}\n" in finished.text
    assert f"told {place}/share {place}/ssl/cert.pem\n" in finished.text
    assert "activating\n" in finished.text, "what the activation says belongs to the log"
    assert everything_in(folder) == before


def test_certificates_that_the_user_names_stay(cluster: Cluster, conda: Path) -> None:
    on_node(conda, cluster)
    code = "import os; print('told', os.environ['SSL_CERT_FILE'])"
    assert "told /etc/mine.pem\n" in run(cluster, code, env={"SSL_CERT_FILE": "/etc/mine.pem"}).text


def test_an_activation_that_fails_is_named(cluster: Cluster, conda: Path) -> None:
    folder = on_node(conda, cluster)
    (folder / "etc/conda/activate.d/broken.sh").write_text("echo no data here >&2; exit 3")
    finished = run(cluster)
    assert (finished.code, finished.end.category) == (82, "environment_setup")
    assert "no data here" in finished.end.message


def test_a_python_that_the_node_lacks_is_named(cluster: Cluster, venv: Path) -> None:
    folder = on_node(venv, cluster)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to(f"/opt/python/bin/python{VERSION}")
    finished = run(cluster)
    assert (finished.code, finished.end.category) == (82, "environment_setup")
    assert (
        f"wants Python {VERSION} at /opt/python/bin/python{VERSION}, which this node does not have"
        in finished.end.message
    )
    assert "'environment': 'build'" in finished.end.hint


def test_another_version_of_python_in_its_place_is_named(cluster: Cluster, venv: Path) -> None:
    folder = on_node(venv, cluster)
    (folder / "lib" / f"python{VERSION}").rename(folder / "lib" / f"python{OTHER}")
    finished = run(cluster)
    assert finished.end.category == "environment_setup"
    assert f"wants Python {OTHER} at " in finished.end.message
    assert f"which is Python {VERSION} on this node" in finished.end.message


def test_a_python_that_does_not_start_is_named_with_its_last_words(
    cluster: Cluster, conda: Path
) -> None:
    folder = on_node(conda, cluster)
    python = folder / "bin" / f"python{VERSION}"
    python.unlink()
    python.write_text("#!/bin/sh\necho 'libc.so.6: version GLIBC_2.99 not found' >&2\nexit 1\n")
    python.chmod(0o500)
    finished = run(cluster)
    assert finished.end.category == "environment_setup"
    assert "GLIBC_2.99 not found" in finished.end.message


def test_an_environment_that_did_not_arrive_is_named(cluster: Cluster) -> None:
    finished = run(cluster)
    assert finished.end.category == "environment_setup"
    assert f"no packed environment at {cluster.work}/{PLACE}" in finished.end.message
