"""`mlflow-exec scan` on a Ray that was there before, by its address."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_exec.testing.collecting import Collected
from tests.clusters.ray_head import RayHead
from tests.mlflow import scanned_models

pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")
# Workers die of few rows, as often as they are told to.
_CODE = """
import os, signal, sys
from pathlib import Path
import mlflow
from rules_of_the_model.signs import is_positive
class Dies(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        deaths = Path({deaths!r})
        left = int(deaths.read_text())
        if left and len(model_input) == 1 and "default_worker" in sys.argv[0]:
            deaths.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return is_positive(model_input["a"]).astype(int).to_numpy()
mlflow.models.set_model(Dies())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and a model whose file `deaths` says how many of the workers it is to kill.

    It brings a package of its own, which no worker has.
    """
    folder = tmp_path_factory.mktemp("scanned")
    scanned_models.rows(folder)
    (folder / "deaths").write_text("0")
    (folder / "code.py").write_text(_CODE.format(deaths=str(folder / "deaths")))
    package = folder / "brought" / "rules_of_the_model"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "signs.py").write_text("def is_positive(column):\n    return column > 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package.parent)  # MLflow runs the code before it keeps it
        mlflow.pyfunc.save_model(
            folder / "model", python_model=str(folder / "code.py"), code_paths=[str(package)],
            pip_requirements=[],
        )  # fmt: skip
    shutil.rmtree(package.parent)
    return folder


def scanned(place: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """The result of a command, but for how long it took."""
    command = [str(Path(sys.executable).with_name("mlflow-exec")), "scan", "model", "rows.csv"]
    checks = json.dumps(["batch_dependence", "performance_bias"])
    settings = ["-t", "label", "-C", f"checks={checks}", "-o", "json"]
    done = subprocess.run(
        [*command, *settings, *arguments], cwd=place, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    del result["duration_s"]
    for check in result["checks"]:
        del check["duration_s"]
    return result


@pytest.fixture(scope="module")
def here(place: Path) -> dict[str, Any]:
    """The result without Ray."""
    return scanned(place)


def scanned_on(ray: RayHead, place: Path) -> dict[str, Any]:
    """The result of a command that has its tasks done there."""
    return scanned(
        place, "-C", "engine=ray", "-C", f"ray_address=ray://127.0.0.1:{ray.client_port}",
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(ray.token_file),
    )  # fmt: skip


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_the_result_is_that_of_this_process_where_at_most_one_worker_dies(
    place: Path, here: dict[str, Any], own_ray: RayHead, deaths: int
) -> None:
    (place / "deaths").write_text(str(deaths))
    there = scanned_on(own_ray, place)
    assert (place / "deaths").read_text() == "0"
    if deaths < 2:
        assert there == here
    else:
        [skipped] = there.pop("skipped")
        assert skipped["check"] == "batch_dependence"
        assert skipped["reason"].startswith("its task on Ray failed: WorkerCrashedError")
        assert [check["name"] for check in there["checks"]] == ["performance_bias"]
        assert there["findings"] == here["findings"]


@pytest.mark.large  # Ray waits four minutes for what is dead
def test_what_ray_starts_for_a_client_may_die_at_its_start(
    place: Path, here: dict[str, Any], own_ray: RayHead
) -> None:
    killed = Collected(own_ray.kill_a_client_server() for _ in range(1))
    assert scanned_on(own_ray, place) == here
    assert len(killed.all()) == 1
