"""The job's log: one stream that goes to the container's output and to a file.

Byte for byte, but for the values of secrets.
"""

from __future__ import annotations

import os
import select
import threading
from dataclasses import replace
from typing import Callable, Iterable, List, Optional

from .end import End, cut
from .masking import Masker

_PREFIX = b"mlflow-exec: "


class JobLog:
    """Writes every byte of the job's output to a file descriptor and to a file.

    Neither of the two can fail the job: one that does not take bytes any more is left out.

    Args:
        path: The file; None where the job has no disk to write to.
        out_fd: The file descriptor of the container's output.

    Attributes:
        size_bytes: How much of the log is in the file.
        trouble: Why the file is not complete; None while it is.
        on_growth: Called with the size after each growth, by the writing thread.
    """

    def __init__(self, path: Optional[str], out_fd: int = 1) -> None:
        self.path = path
        self.size_bytes = 0
        self.trouble: Optional[str] = None
        self.on_growth: List[Callable[[int], None]] = []
        self._out_fd: Optional[int] = out_fd
        self._file_fd: Optional[int] = None
        if path is not None:
            self._file_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self.size_bytes = os.fstat(self._file_fd).st_size
        self._at_line_start = True
        self._masker = Masker()
        self._lock = threading.RLock()

    def hide(self, values: Iterable[str]) -> None:
        """Mask these values from now on; those of fewer than six characters are not."""
        with self._lock:
            self._masker.hide(values)

    def write(self, data: bytes) -> bytes:
        """Append a piece of a program's output to both; return it as it was written.

        What may become a secret with the next piece waits for it, `settle` or `finish`.
        """
        with self._lock:
            return self._append(self._masker.feed(data))

    @property
    def waiting(self) -> bool:
        """Whether something waits that `settle` would append."""
        return self._masker.holding

    def settle(self) -> bytes:
        """Append what waits, as far as it is no secret: nothing came for a moment."""
        with self._lock:
            return self._append(self._masker.settle())

    def finish(self) -> bytes:
        """Append what waits: the program has ended."""
        with self._lock:
            return self._append(self._masker.finish())

    def masked(self, end: End) -> End:
        """Return the end with the secrets in its words masked."""
        mask = self._masker.text
        return replace(end, message=mask(end.message), hint=mask(end.hint))

    def _append(self, data: bytes) -> bytes:
        if not data:
            return data
        with self._lock:
            self._at_line_start = data.endswith(b"\n")
            if self._file_fd is not None:
                trouble = _put(self._file_fd, data)
                if trouble is None:
                    self.size_bytes += len(data)
                else:
                    self.trouble = cut(f"the log file takes no more bytes: {trouble}", 300)
                    self._file_fd = None
            if self._out_fd is not None and _put(self._out_fd, data) is not None:
                self._out_fd = None
        for tell in self.on_growth:
            tell(self.size_bytes)
        return data

    def line(self, text: str) -> None:
        """Append one line of exactly this text, on a line of its own."""
        with self._lock:
            self.finish()
            start = b"" if self._at_line_start else b"\n"
            self._append(start + text.encode("utf-8", "replace") + b"\n")

    def say(self, text: str) -> None:
        """Append our own words: every line with the prefix ``mlflow-exec:``; secrets masked."""
        with self._lock:
            self.finish()
            start = b"" if self._at_line_start else b"\n"
            lines = self._masker.text(text).encode("utf-8", "replace").splitlines() or [b""]
            self._append(start + b"".join(_PREFIX + line + b"\n" for line in lines))


def _put(fd: int, data: bytes) -> Optional[OSError]:
    """Write all of it; return the error of a descriptor that does not take it."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Whoever shares the descriptor may have made it non-blocking.
            select.select([], [fd], [])
        except OSError as error:
            return error
    return None
