"""Locks between the jobs that share a folder; the kernel frees those of a process that died."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Optional


class FileLock:
    """A lock on a file, which who holds it exclusively may remove.

    Every method raises OSError where the file system has no such locks, or takes no files.

    Args:
        path: The file; it is made where it is not there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: Optional[int] = None

    def try_shared(self) -> bool:
        """Take it beside others that share it; returns whether it was to be had."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take it alone; returns whether it was to be had."""
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        """Free it, if it is held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def outlive_exec(self) -> None:
        """Keep it, if it is held, in the program that takes this process's place."""
        if self._fd is not None:
            os.set_inheritable(self._fd, True)

    def remove(self) -> None:
        """Free it and remove its file."""
        try:
            if self._fd is not None:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        finally:
            self.release()

    def _try(self, kind: int) -> bool:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
                # Its last holder may have removed the file after it was opened here.
                if os.path.samestat(os.fstat(self._fd), os.stat(self._path)):
                    return True
            except FileNotFoundError:
                pass
            except OSError as error:
                self.release()
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
                raise
            except BaseException:
                self.release()
                raise
            self.release()
