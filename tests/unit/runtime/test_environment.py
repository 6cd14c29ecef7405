"""The Python environment of the entry point, built in the job for real."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime.job_in_cluster import PYTHON_FOLDER, Cluster

CODE = "import sys, tiny, os; print('tiny', tiny.VERSION, sys.prefix, os.environ['VIRTUAL_ENV'])"


def tiny_wheel(folder: Path, version: str = "1.0") -> str:
    """Write a package of one line that installs without any index, and return its file name."""
    name = f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("tiny.py", f"VERSION = {version!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
        )
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return name


def image_path(cluster: Cluster, *, uv: bool) -> str:
    """Return a PATH with the tools of an image."""
    folder = cluster.folder / "image-bin"
    folder.mkdir(exist_ok=True)
    found = shutil.which("uv", path=f"{PYTHON_FOLDER}:/usr/local/bin:/usr/bin")
    if uv:
        assert found, "uv belongs to the tests' dependencies"
        (folder / "uv").symlink_to(found)
    return f"{folder}:/usr/bin:/bin"


def environment_order(cluster: Cluster, **environment: Any) -> dict[str, Any]:
    (cluster.project / "requirements.txt").write_text("./" + tiny_wheel(cluster.project) + "\n")
    spec = {"manager": "virtualenv", "dependencies": ["-r requirements.txt"], **environment}
    return cluster.order(CODE, environment=spec)


@pytest.mark.parametrize("uv", [False, True], ids=["venv and pip", "uv"])
def test_the_projects_requirements_are_installed(cluster: Cluster, uv: bool) -> None:
    order = environment_order(cluster)
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=uv)})
    assert finished.code == 0, finished.text
    _, version, prefix, variable = next(
        line for line in finished.text.splitlines() if line.startswith("tiny ")
    ).split()
    assert (version, prefix) == ("1.0", variable)
    assert "virtualenv, ready after" in finished.text
    assert cluster.log_artifact(order["run_id"]) == finished.output


def test_build_dependencies_come_first(cluster: Cluster) -> None:
    newer = tiny_wheel(cluster.project, "2.0")
    order = environment_order(cluster, build_dependencies=[f"./{newer}"])
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=True)})
    assert "\ntiny 1.0 " in finished.text


def test_requirements_that_cannot_be_installed_are_named(cluster: Cluster) -> None:
    order = environment_order(cluster, dependencies=["./missing-1.0-py3-none-any.whl"])
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=False)})
    assert (finished.code, finished.end.category) == (82, "environment_setup")
    assert "missing-1.0-py3-none-any.whl" in finished.end.message
    assert "package index" in finished.end.hint


def test_a_requirements_file_that_is_not_there_is_named(cluster: Cluster) -> None:
    order = environment_order(cluster, dependencies=["-r absent.txt"])
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=True)})
    assert finished.end.category == "environment_setup"
    assert "'-r absent.txt'" in finished.end.message


def test_the_running_python_serves_any_patch_version_of_its_own(cluster: Cluster) -> None:
    version = "{}.{}.99".format(*sys.version_info[:2])
    order = environment_order(cluster, python=version)
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=False)})
    assert finished.code == 0, finished.text


def test_a_python_that_the_image_lacks_is_named(cluster: Cluster) -> None:
    order = environment_order(cluster, python="3.99")
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=False)})
    assert (finished.code, finished.end.category) == (82, "environment_setup")
    assert "3.99" in finished.end.message
    assert "uv" in finished.end.hint


def test_conda_that_the_image_lacks_is_named(cluster: Cluster) -> None:
    (cluster.project / "conda.yaml").write_text("dependencies: []\n")
    order = environment_order(cluster, manager="conda", conda_file="conda.yaml")
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=False)})
    assert (finished.code, finished.end.category) == (82, "environment_setup")
    assert "--env-manager" in finished.end.hint


def test_a_password_in_a_requirement_stays_out_of_the_message(cluster: Cluster) -> None:
    # The installer repeats a line that it cannot read as it is.
    order = environment_order(cluster, dependencies=["tiny == https://me:s3cret@127.0.0.1:9/x"])
    finished = cluster.run(order, env={"PATH": image_path(cluster, uv=False)})
    assert finished.end.category == "environment_setup"
    assert "https://***@127.0.0.1:9/x" in finished.end.message
    assert "s3cret" not in finished.end.message
