"""The Ray that is started on this machine when none is configured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.clients.ray_embedded import EmbeddedRay
from mlflow_exec.clients.ray_processes import Family
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import AccessDeniedError, MissingExtraError, UnreachableError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.schedulers.ray.preflight import unsent_secrets
from mlflow_exec.settings import RaySettings
from tests.clusters.processes import Process, appears
from tests.clusters.pytest_ray import in_home, require_ray

START = "from mlflow_exec.clients import ray_embedded; ray_embedded.start_or_reuse(print)"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An MLFLOW_EXEC_HOME of the test's own; a Ray in it is stopped afterwards."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(folder))
    yield folder
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(folder))
    ray_embedded.stop()


def processes_of(ray: EmbeddedRay) -> list[int]:
    return ray.processes().living()


def submit(client: RayClient, job: dict[str, str]) -> None:
    """Submit a job; the agent that takes it may come late after what answers first."""
    repeated(lambda: client.submit(job), patience_s=120)


def run_forever(ray: EmbeddedRay, name: str) -> None:
    """Start a job that leaves a process in a session of its own behind."""
    client = ray.client()
    submit(client, {"submission_id": name, "entrypoint": "setsid sleep 1000 & sleep 1000"})
    assert appears(lambda: b"sleep\x001000" in titles_of(processes_of(ray)), timeout_s=60)


def titles_of(pids: list[int]) -> bytes:
    found = b""
    for pid in pids:
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/cmdline").read_bytes() + b" "
    return found


def test_two_that_start_it_at_once_get_the_same_and_stop_ends_all_of_it(home: Path) -> None:
    require_ray()
    output: list[str] = []
    starts = [
        threading.Thread(target=lambda: output.append(in_home(home, START))) for _ in range(2)
    ]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    assert len(output) == 2
    text = "".join(output)
    assert text.count("ray: started http://127.0.0.1:") == 1
    assert "stop it with: mlflow-exec ray stop" in text

    ray = ray_embedded.status()
    assert ray is not None
    assert ray_embedded.start_or_reuse() == ray
    for path in (home / "ray.json", Path(ray.token_file)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run_forever(ray, "forever")
    before = processes_of(ray)
    # Among them one that writes its title over its environment.
    assert b"ray-dashboard-JobHead" in titles_of(before)
    assert ray_embedded.stop()
    assert processes_of(ray) == []
    assert not [pid for pid in before if Process.of(pid)]
    assert not Path(ray.folder).exists()
    assert ray_embedded.status() is None
    assert not ray_embedded.stop()


def test_it_serves_only_its_owner_and_passes_on_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_ray()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a secret of the test")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the submitting process")
    ray = ray_embedded.start_or_reuse()
    with pytest.raises(AccessDeniedError, match=r"token_file' or RAY_AUTH_TOKEN"):
        RayClient(ray.address).jobs()

    client = ray.client()
    look = "test \"$MLFLOW_TRACKING_TOKEN\" = 'a secret of the test' -a -z \"$MLFLOW_RUN_ID\""
    submit(client, {"submission_id": "look", "entrypoint": look})
    assert appears(lambda: (client.job("look") or {})["status"] == "SUCCEEDED", timeout_s=60)

    same = {"MLFLOW_TRACKING_TOKEN": Secret.of("a secret of the test", "a test")}
    other = {"MLFLOW_TRACKING_TOKEN": Secret.of("rotated since", "a test")}
    assert unsent_secrets(same, ray) == []
    (warning,) = unsent_secrets(other, ray)
    assert warning.startswith("MLFLOW_TRACKING_TOKEN: ")
    assert "mlflow-exec ray stop" in warning
    assert "rotated" not in warning


def test_temporary_files_of_its_jobs_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_ray()
    monkeypatch.delenv("TMPDIR", raising=False)
    ray = ray_embedded.start_or_reuse()
    client = ray.client()
    make = "exec python -c 'import tempfile; print(tempfile.mkdtemp())'"
    submit(client, {"submission_id": "make", "entrypoint": make})
    assert appears(lambda: (client.job("make") or {})["status"] == "SUCCEEDED", timeout_s=60)
    made = Path(client.job_log("make").split()[-1])
    assert made.is_dir()
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    assert ray_embedded.stop()
    assert not made.exists()
    assert not Path(ray.folder).exists()


def test_another_ray_is_left_alone_and_a_stopped_ones_jobs_are_known_to_be_lost(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_ray()
    mine = ray_embedded.start_or_reuse()
    other_home = tmp_path / "other"
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(other_home))
    other = ray_embedded.start_or_reuse()
    try:
        assert other.address != mine.address
        run_forever(other, "forever")
        monkeypatch.setenv("MLFLOW_EXEC_HOME", str(home))
        handle = JobHandle.parse(
            mine.address.replace("http:", "ray-job+http:") + "/mlflow-x-1", mine.session_name
        )
        assert ray_embedded.stop()
        assert processes_of(mine) == []
        assert list(RayScheduler(RaySettings()).watch([handle])) == [(handle, None)]
        assert other.is_alive()
        assert (other.client().job("forever") or {})["status"] == "RUNNING"
    finally:
        monkeypatch.setenv("MLFLOW_EXEC_HOME", str(other_home))
        ray_embedded.stop()


def test_one_that_was_killed_is_replaced_with_what_it_left_cleaned_up(home: Path) -> None:
    require_ray()
    killed = ray_embedded.start_or_reuse()
    for pid in processes_of(killed):
        if pid == killed.pid or b"dashboard" in titles_of([pid]):
            os.kill(pid, signal.SIGKILL)
    assert appears(lambda: not killed.is_alive(), timeout_s=120)
    fresh = ray_embedded.start_or_reuse()
    assert fresh.session_name != killed.session_name
    assert fresh.is_alive()
    assert processes_of(killed) == []
    assert ray_embedded.was_here(killed.session_name)


def test_a_damaged_record_is_no_ray(home: Path) -> None:
    home.mkdir()
    (home / "ray.json").write_text('{"address": "http://127.0.0.1:1"')
    assert ray_embedded.status() is None
    assert not ray_embedded.stop()


def test_without_ray_installed_the_error_tells_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"mlflow-exec\[ray\]"):
        ray_embedded.start_or_reuse()


def test_one_that_does_not_start_says_why(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "ray"
    program.write_text("#!/bin/sh\necho 'no room on the device' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UnreachableError, match="no room on the device"):
        ray_embedded.start_or_reuse()
    assert not (home / "ray.json").exists()


def test_a_number_used_again_is_not_the_process_that_was_started() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            assert Family(process.pid, "0", "A_MARK=nobody's").end(timeout_s=5) == []
            assert process.poll() is None
        finally:
            process.kill()


def test_the_state_is_readable_by_other_tools(home: Path) -> None:
    home.mkdir()
    ray = EmbeddedRay("http://127.0.0.1:1", "session_x", 99999999, "0", "m", "/none", "/none")
    (home / "ray.json").write_text(json.dumps(ray.__dict__))
    assert ray_embedded.recorded() == ray
    assert ray_embedded.status() is None
