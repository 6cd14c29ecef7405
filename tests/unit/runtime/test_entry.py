"""The first moments of a container, before the job's first step has read its own files."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from mlflow_exec import runtime

IMPORTED = "import signal; print('being imported', flush=True); signal.pause()"


def test_a_container_that_is_stopped_in_its_first_moment_ends_at_once(tmp_path: Path) -> None:
    shutil.copy(Path(runtime.__file__).with_name("entry.py"), tmp_path)
    (tmp_path / "job.py").write_text(IMPORTED)
    arguments = [sys.executable, "-I", "-S", "-u", str(tmp_path / "entry.py"), "order"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "being imported\n"
        process.send_signal(signal.SIGTERM)
        # -15 is the end of a process without a handler, which the first of a container survives.
        assert process.wait(120) == 143
