"""Tokens of a person that outlive the process: in files that only their owner can read."""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_exec.errors import CredentialError

try:
    import fcntl
except ImportError:  # Windows; processes there may each ask the person
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """What is kept of one sign-in; `repr` shows no value.

    Attributes:
        refresh_token: Gets the next token; empty where there is none.
        token: The last one.
        expires_at_s: The ``time.time()`` at which that expires.
    """

    refresh_token: str = ""
    token: str = ""
    expires_at_s: float | None = None

    def __repr__(self) -> str:
        return "Stored(***)"


class TokenStore:
    """One sign-in's file in ``~/.mlflow-exec/tokens`` (or below ``$MLFLOW_EXEC_HOME``).

    Args:
        mark: Its name, of what tells it from others.
    """

    def __init__(self, mark: str) -> None:
        home = os.environ.get("MLFLOW_EXEC_HOME")
        base = Path(home).expanduser() if home else Path.home() / ".mlflow-exec"
        self.path = base / "tokens" / f"{mark}.json"
        self._held = Stored()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process get tokens meanwhile: issuers revoke what is used twice."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            _LOG.warning("sign-in: %s: %s; tokens are kept by this process only", self.path,
                         error.strerror)  # fmt: skip
            yield
            return
        try:
            with suppress(OSError):  # a file system without locks
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> Stored:
        """Return what is kept; nothing where there is none.

        Raises:
            CredentialError: Others may read the file.
        """
        try:
            mode = self.path.stat().st_mode
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise CredentialError(f"{self.path}: others may read it; remove it, sign in again")
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return Stored(**found)
        except FileNotFoundError:
            return self._held
        except (OSError, ValueError, TypeError):
            return self._held

    def write(self, stored: Stored) -> None:
        """Keep it, as a whole or not at all; where no file is to be written, in this process."""
        self._held = stored
        part = ""
        try:
            # Made for its owner only, before there is anything in it.
            descriptor, part = tempfile.mkstemp(dir=self.path.parent, prefix=".tokens-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(stored), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(part)
            _LOG.warning("sign-in: %s: %s; the token is kept by this process only", self.path,
                         error.strerror)  # fmt: skip
