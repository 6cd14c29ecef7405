"""Runs ``entry.py`` as a container would: its files alone in a folder, nothing else importable."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlflow_exec import runtime
from mlflow_exec.runtime import RUNTIME_FILES
from mlflow_exec.runtime.end import END_LINE_PREFIX, End
from mlflow_exec.testing.collecting import until
from tests.servers import MlflowServer

PYTHON_FOLDER = str(Path(sys.executable).parent)


@dataclass(frozen=True)
class Finished:
    """A container that has exited: its code and its whole output."""

    code: int
    output: bytes

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace")

    @property
    def last_line(self) -> str:
        return self.text.splitlines()[-1]

    @property
    def end(self) -> End:
        assert self.last_line.startswith(END_LINE_PREFIX), self.text[-2000:]
        return End.from_json(self.last_line[len(END_LINE_PREFIX) :])


class Container:
    """A container that runs; its output goes to a file as a kubelet keeps it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def says(self, text: str, timeout_s: float = 60) -> None:
        """Wait until the text is in the output."""
        until(lambda: text.encode() in self.log.read_bytes(), f"{text!r} in the log", timeout_s)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 120) -> Finished:
        return Finished(self.process.wait(timeout_s), self.log.read_bytes())


class Cluster:
    """A folder that plays the cluster: it makes orders and starts containers."""

    def __init__(self, folder: Path, server: MlflowServer) -> None:
        self.folder = folder
        self.server = server
        self.project = folder / "project"
        self.injected = folder / "mlflow-exec"
        self.work = folder / "empty"
        self.tmp = folder / "tmp"
        for path in (self.project, self.injected, self.work, self.tmp):
            path.mkdir()
        for name in RUNTIME_FILES:
            shutil.copy(Path(runtime.__file__).parent / name, self.injected / name)
        self.killed = False
        self._containers: list[Container] = []
        self._count = 0

    def order(self, code: str = "", **changes: Any) -> dict[str, Any]:
        """Return an order that runs the Python code as a submitted project's ``main.py``."""
        info = self.server.create_run()
        (self.project / "main.py").write_text(code, encoding="utf-8")
        order = {
            "format": 1,
            "run_id": info["run_id"],
            "experiment_id": info["experiment_id"],
            "submission": 1,
            "tracking_uri": self.server.url,
            "artifact_uri": info["artifact_uri"],
            "source": {"kind": "directory", "path": str(self.project), "copy": True},
            "entry_point": {"command": "python main.py"},
            "log_part_interval_s": 0.2,
        }
        return {**order, **changes}

    def start(
        self,
        order: Mapping[str, Any],
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        python: str = sys.executable,
    ) -> Container:
        """Start a container with the order."""
        self._count += 1
        order_file = self.folder / f"order-{self._count}.json"
        order_file.write_text(json.dumps(order))
        log = self.folder / f"container-{self._count}.log"
        variables = {
            "PATH": os.pathsep.join([PYTHON_FOLDER, "/usr/local/bin:/usr/bin:/bin"]),
            "TMPDIR": str(self.tmp),
            "HOME": str(self.folder),
            **(env or {}),
        }
        argv = [*wrapper, python, "-I", "-S", "-u", str(self.injected / "entry.py")]
        output: IO[bytes]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*argv, str(order_file)],
                cwd=self.work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._containers.append(Container(process, log))
        return self._containers[-1]

    def end(self) -> None:
        """End the containers that a test left behind."""
        for container in self._containers:
            if container.process.poll() is None:
                container.process.kill()
                container.process.wait()
                self.killed = True

    def run(self, order: Mapping[str, Any], **how: Any) -> Finished:
        """Run a container to its end."""
        return self.start(order, **how).wait()

    def log_artifact(self, run_id: str) -> bytes:
        """Return the whole log as it is kept beside the run."""
        return self.server.artifact(run_id, "mlflow-exec/log.txt")

    def log_parts(self, run_id: str) -> list[str]:
        return self.server.artifacts(run_id, "mlflow-exec/log")


def archive(
    path: Path, files: Mapping[str, str], modes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Write a zip and return the order's source for it."""
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (modes or {}).get(name, 0o100644) << 16
            bundle.writestr(entry, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "archive", "path": str(path), "sha256": digest}
