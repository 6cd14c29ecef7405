"""How a model's files get into a pod, and how the first step becomes the server."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec import runtime
from mlflow_exec.shipping import zipped
from mlflow_exec.testing.collecting import until

SERVER = "import sys; print('served', *sys.argv[1:])"


class Pod:
    """A folder with what a pod has: the first step's files, a model's package, a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in runtime.RUNTIME_FILES:
            (folder / name).write_text(runtime.read(name))
        self.package = folder / "model.zip"
        self.package.write_bytes(zipped({"MLmodel": b"flavors: {}", "data/x": b"1"})[1])
        self.model = folder / "cache" / "models" / "abc"
        self.message = folder / "termination-log"

    def order(self, **changes: Any) -> dict[str, Any]:
        model = {"uri": "models:/x/1", "path": str(self.model), "package": str(self.package)}
        return {"format": 1, "model": model, "command": ["-c", SERVER, "it"], **changes}

    def start(self, verb: str, order: Any = None) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            "ORDER": json.dumps(self.order() if order is None else order),
            "MLFLOW_EXEC_TERMINATION_LOG": str(self.message),
        }
        entry = str(self.folder / "entry.py")
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-u", entry, verb, "env:ORDER"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, verb: str, order: Any = None) -> tuple[int, str]:
        with self.start(verb, order) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def told(self) -> dict[str, Any]:
        """Return what is in the pod's status then."""
        found: dict[str, Any] = json.loads(self.message.read_text())
        return found


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_a_model_is_unpacked_once_and_the_server_takes_the_steps_place(pod: Pod) -> None:
    assert pod.run("prepare") == (0, f"mlflow-exec: model: models:/x/1 is in {pod.model}\n")
    assert (pod.model / "data" / "x").read_text() == "1"
    assert pod.run("prepare") == (0, "")
    with pod.start("serve") as process:
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "served it"
    assert "/tmp/mlflow-exec-" not in str(sorted(pod.model.parent.iterdir()))


def test_pods_that_start_together_bring_a_model_once(pod: Pod) -> None:
    together = [pod.start("prepare") for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in together]
    assert [process.returncode for process in together] == [0] * 4
    assert sum("is in" in output for output in outputs) == 1


def test_what_an_earlier_one_has_left_half_done_is_done_anew(pod: Pod) -> None:
    pod.model.mkdir(parents=True)
    (pod.model / "rest").write_text("of a pod that was killed")
    pod.run("prepare")
    assert (pod.model / "MLmodel").exists()
    assert not (pod.model / "rest").exists()


@pytest.mark.parametrize(
    ("changes", "category", "words"),
    [
        ({"environment": {"manager": "local", "python": "2.7"}}, "invalid_config", "Python 2.7"),
        ({"format": 0}, "invalid_config", "format 1 is expected"),
        ({"unknown": 1}, "invalid_config", "unknown key 'unknown'"),
        ({"secrets": {"A": {"file": "/not/there"}}}, "invalid_config", "/not/there"),
        ({"package": {"nothing": b""}}, "source_fetch", "has no file MLmodel"),
    ],
)
def test_what_is_wrong_is_in_the_pods_status(
    pod: Pod, changes: dict[str, Any], category: str, words: str
) -> None:
    if files := changes.pop("package", None):
        pod.package.write_bytes(zipped(files)[1])
    code, output = pod.run("prepare", pod.order(**changes))
    assert code in (81, 83)
    assert (pod.told()["category"], words in pod.told()["message"]) == (category, True)
    assert words in output


def test_a_stop_signal_ends_the_wait_for_another_pod(pod: Pod) -> None:
    pod.model.parent.mkdir(parents=True)
    with open(f"{pod.model}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pod.start("prepare") as process:
            try:
                until(lambda: handles(process.pid, signal.SIGCHLD), "it minds signals")
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=120) == 143
            finally:
                process.kill()
    assert not pod.message.exists()


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def test_the_server_holds_the_environment_that_it_uses(pod: Pod, tmp_path: Path) -> None:
    lock = tmp_path / "entry.lock"
    hold = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from mlflow_exec.runtime.file_lock import FileLock\n"
        "lock = FileLock(sys.argv[1]); assert lock.try_shared()\n"
        "lock.outlive_exec()\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'print(1, flush=True); input()'])\n"
    )
    root = str(Path(runtime.__file__).parents[2])
    command = [sys.executable, "-c", hold, str(lock), root]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        server.stdout.readline()
        with open(lock, "w") as other:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            server.stdin.close()
            server.wait(timeout=120)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
