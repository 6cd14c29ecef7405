"""Follows a job's log while it runs, for the people who wait and for the run that is to keep it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_exec.errors import MlflowExecError
from mlflow_exec.runs.resubmission import next_submission

if TYPE_CHECKING:
    from mlflow_exec.runs.job import Job
    from mlflow_exec.runs.logs import LogKeeper
    from mlflow_exec.runs.progress import Progress

Follower = Callable[[str], None]

# A log whose end comes later than this after the job's is worth a word,
_SOON_S = 2.0
# and after so long again it must not keep the job's end from being written.
_FLUSH_S = 30.0


class FollowedLog:
    """Follows one job's log in a thread, into a file and to ``on_log``; a context manager.

    It does so where somebody needs it: a reader, or the run of a job that uploads no log itself.
    """

    def __init__(
        self, job: Job, keeper: LogKeeper, on_log: Follower | None, progress: Progress | None
    ) -> None:
        """Take the job.

        Args:
            job: The job.
            keeper: Told what was captured.
            on_log: Called with each piece; one that raises an `OSError` is called no more.
            progress: Told when the log's end is late, or cannot be shown.
        """
        self._job, self._keeper = job, keeper
        self._on_log, self._progress = on_log, progress
        self._folder = tempfile.TemporaryDirectory(prefix="mlflow-exec-")
        self._path = Path(self._folder.name) / "log.txt"
        self._left = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="mlflow-exec-log", daemon=True)

    def __enter__(self) -> FollowedLog:
        if self._on_log is not None or not self._job.uploads_log:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def flush(self) -> None:
        """Wait a while for the end of the log of a job that has ended."""
        if self._thread.is_alive():
            self._thread.join(_SOON_S)
        if self._thread.is_alive():
            if self._progress is not None:
                self._progress.changed("the job has ended; waiting for the end of its log")
            self._thread.join(_FLUSH_S)

    def show_rest(self) -> None:
        """Show what came too late or broke off, as the run keeps it by now."""
        with self._lock:
            self._left = True
            if self._keeper.captured is not None or self._on_log is None:
                return
        try:
            kept = "".join(self._keeper.read()).encode()
        except Exception:  # each artifact store has errors of its own
            kept = b""
        shown = self._path.read_bytes() if self._path.exists() else b""
        # Where nothing was shown of a job that goes on for another, that one's log is not to be
        # shown again.
        again = next_submission(str(self._job.handle)) > 2
        place = -1 if again and not shown else kept.find(shown)
        if place < 0:
            if self._progress is not None:
                way = f"mlflow-exec logs {self._job.run_id}"
                self._progress.say(f"the log above may lack its end; what there is of it: {way}")
            return
        if rest := kept[place + len(shown) :].decode():
            self._show(rest)

    def _run(self) -> None:
        try:
            with open(self._path, "wb") as file:
                for piece in self._job.scheduler.logs(self._job.handle, follow=True):
                    with self._lock:
                        if self._left:
                            return
                        self._show(piece)
                        file.write(piece.encode())
                        file.flush()
            self._keeper.captured = self._path
        except (MlflowExecError, OSError):
            self._keeper.cut = self._path  # read again at the end, if it is still there

    def _show(self, piece: str) -> None:
        if self._on_log is not None:
            try:
                self._on_log(piece)
            except OSError:  # nobody reads any more (``| head``)
                self._on_log = None
