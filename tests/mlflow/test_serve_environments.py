"""`mlflow-exec serve --env-manager`: a real environment, with what this one does not have."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from mlflow_exec.testing.served_models import save_model
from tests.mlflow.test_serve import COMMAND, serving

ASKED = '{"dataframe_split": {"columns": ["x"], "data": [[1.5]]}}'
CLICK = "8.1.7"  # not the version here
NEEDS_CLICK = f"import importlib.metadata as m; assert m.version('click') == '{CLICK}'"


class Places(NamedTuple):
    """Folders of one user."""

    home: Path
    scratch: Path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A home without environments, beside the real cache of packages."""
    packages = os.environ.get("UV_CACHE_DIR") or Path("~/.cache/uv").expanduser()
    found = Places(tmp_path / "home", tmp_path / "scratch")
    for folder in found:
        folder.mkdir()
    monkeypatch.setenv("HOME", str(found.home))
    monkeypatch.setenv("TMPDIR", str(found.scratch))
    monkeypatch.setenv("UV_CACHE_DIR", str(packages))
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    requirements = ("mlflow-skinny", "pandas", f"click=={CLICK}")
    return save_model(tmp_path, 817, predicting=NEEDS_CLICK, requirements=requirements)


@pytest.mark.parametrize("manager", ["uv", "virtualenv"])
def test_a_model_gets_what_it_needs_and_the_server_takes_the_commands_place(
    manager: str, model: Path, places: Places, tmp_path: Path
) -> None:
    assert importlib.metadata.version("click") != CLICK
    # By its URI it is downloaded, though it is here.
    with serving(model.as_uri(), tmp_path, "--env-manager", manager, "--name", "seven") as served:
        assert served.ask("POST", "/invocations", ASKED) == (200, '{"predictions": [817]}')
        assert 'model="seven"' in served.ask("GET", "/metrics")[1]
        command = Path(f"/proc/{served.process.pid}/cmdline").read_bytes().split(b"\0")[0]
        assert command.startswith(os.fsencode(places.home / ".cache/mlflow-exec/environments"))
        assert list(places.scratch.iterdir()) != []
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(120) == 0
    assert list(places.scratch.iterdir()) == []
    with serving(model, tmp_path, "--env-manager", manager) as served:
        assert served.ask("POST", "/invocations", ASKED)[0] == 200
        assert "environment: taken from the cache" in served.log.read_text()


def last_words(model: Path | str, manager: str) -> str:
    """Return how the command ends; before that it tells what it installs."""
    flags = ("-m", str(model), "--port", "0", "--env-manager", manager)
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.rpartition("\nmlflow-exec: ")[2] or done.stderr


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, places: Places) -> None:
    (tmp_path / "requirements.txt").write_text("click==999")
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {}}")
    unknown = last_words(tmp_path, "uv")
    assert unknown.startswith("--env-manager uv: environment: installing dependencies failed")
    assert "there is no version of click==999" in unknown
    assert "neither conda, mamba nor micromamba; Use" in last_words(tmp_path, "conda")
    assert "model /nowhere: cannot be fetched" in last_words("/nowhere", "uv")
    assert "has no flavor python_function" in last_words(places.home, "virtualenv")
    assert list(places.scratch.iterdir()) == []


def test_sigterm_ends_what_is_still_being_made(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {}}")
    with socket.create_server(("127.0.0.1", 0)) as index:  # it takes connections and says nothing
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{index.getsockname()[1]}/")
        monkeypatch.setenv("UV_NO_CACHE", "1")
        process = subprocess.Popen([*COMMAND, "-m", str(tmp_path), "--env-manager", "uv"])
        try:
            index.settimeout(60)
            index.accept()[0].close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 143
        finally:
            process.kill()
            process.wait()
    assert list(places.scratch.glob("mlflow-exec-*")) == []  # uv leaves something
    kept = places.home / ".cache/mlflow-exec/environments"
    assert [path for path in kept.glob("*/*") if path.is_dir()] == []
