"""What people see while they wait: one live line on a terminal, plain lines elsewhere.

Everything goes to stderr; stdout belongs to the job's log and to ``--output json``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Tells of long work. Thread-safe."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._lock = threading.Lock()
        self._said = ""

    def say(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            self._console.print(f"mlflow-exec: {text}", markup=False)

    def changed(self, text: str) -> None:
        """Print a line unless it was the last one that this method printed."""
        if text != self._said:
            self._said = text
            self.say(text)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something is being done, and how long it took when that was noticeable."""
        start_s = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(f"mlflow-exec: {text} …"):
                yield
        else:
            yield
        took_s = time.monotonic() - start_s
        if took_s >= 1:
            self.say(f"{text}: {took_s:.1f} s")
