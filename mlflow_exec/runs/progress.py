"""What people see while they wait: one live line on a terminal, plain lines elsewhere.

Everything goes to stderr; stdout belongs to the job's log and to ``--output json``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from mlflow_exec.credentials import hide


class _Told(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.say(record.getMessage())


class Progress:
    """Tells of long work. Thread-safe."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._said = ""

    def say(self, text: str) -> None:
        """Print a line, without the secrets that this process knows."""
        with self._lock:
            self._console.print(f"mlflow-exec: {hide(text)}", markup=False)

    def changed(self, text: str) -> None:
        """Print a line unless it was the last one that this method printed."""
        if text != self._said:
            self._said = text
            self.say(text)

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Print what the lower layers, which know of no progress, tell by ``logging``."""
        logger = logging.getLogger("mlflow_exec")
        before = (logger.level, logger.propagate)
        handler = _Told(self)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]

    @contextmanager
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show that something is being done, and how long it took when that was noticeable.

        What it yields takes words about how far that is, which are shown on a terminal only.
        """
        start_s = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(f"mlflow-exec: {text} …") as live:
                yield lambda words: live.update(f"mlflow-exec: {text}: {escape(words)} …")
        else:
            yield lambda words: None
        took_s = time.monotonic() - start_s
        if took_s >= 1:
            self.say(f"{text}: {took_s:.1f} s")
