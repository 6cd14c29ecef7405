"""Bearer tokens: who may ask, without saying or logging who may."""

from __future__ import annotations

import hmac
import logging
import os
from typing import Any

from mlflow_exec.scoring.options import OptionsError, ScoringOptions

_logger = logging.getLogger(__name__)


class BearerTokens:
    """The accepted tokens, from a file that may change or from an environment variable.

    Several are accepted at a time, one per line, so that they can be changed one after another.
    """

    def __init__(self, options: ScoringOptions) -> None:
        self._file = os.path.expanduser(options.token_file) if options.token_file else None
        self._stamp: Any = None
        self._tokens: list[bytes] = []
        self.is_asked_for = bool(options.token_file or options.token_env)
        if options.token_env:
            self._tokens = _lines(os.environ.get(options.token_env, "").encode())
            if not self._tokens:
                raise OptionsError(
                    f"scoring option token_env: the variable {options.token_env} holds no token; "
                    "set it, or leave the option out to serve without tokens"
                )
        self._of_environment = list(self._tokens)
        if self._file:
            try:
                self._read(self._file)
            except OSError as error:
                raise OptionsError(
                    f"scoring option token_file: {self._file} cannot be read: {error.strerror}"
                ) from error
            if not self._tokens:
                raise OptionsError(
                    f"scoring option token_file: {self._file} holds no token; "
                    "write one per line into it"
                )

    def accept(self, authorization: bytes) -> bool:
        """Return whether the value of an ``Authorization`` header has one of the tokens."""
        if not self.is_asked_for:
            return True
        self._refresh()
        scheme, _, given = authorization.partition(b" ")
        given = given.strip()
        found = False
        for token in self._tokens:  # all of them: the time says nothing about which one
            found |= hmac.compare_digest(token, given)
        return found and scheme.lower() == b"bearer"

    def _refresh(self) -> None:
        if not self._file:
            return
        try:
            if _stamp(self._file) != self._stamp:
                self._read(self._file)
        except OSError as error:  # while it is being replaced, the tokens of before hold
            _logger.warning("token_file %s cannot be read: %s", self._file, error.strerror)

    def _read(self, path: str) -> None:
        stamp = _stamp(path)
        with open(path, "rb") as stream:
            tokens = _lines(stream.read())
        self._tokens, self._stamp = self._of_environment + tokens, stamp


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _lines(text: bytes) -> list[bytes]:
    return [line.strip() for line in text.splitlines() if line.strip()]
