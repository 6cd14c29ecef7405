"""Masks secret values in the job's output, as continuous integration systems do: ``***``.

A value is found as it is, line by line where it has several, and in the forms in which programs
like to print it: JSON, Python's ``repr``, URL-quoted, base64 (also within a longer text that was
encoded). Values of fewer than six characters are not masked: they would be found everywhere.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from typing import Iterable, Iterator, List, Tuple

MASK = b"***"
_SHORTEST = 6
_SHORTEST_BASE64 = 8
_BASE64_LINE = 76
# What is in a URL before the host (over HTTP a user alone is a token), and what signs one.
_PASSWORD = re.compile(r"://[^/@\s:]*:([^/@\s]+)@|https?://([^/@\s:]+)@")
_SIGNATURE = re.compile("sig|token|credential|key", re.IGNORECASE)


class Masker:
    """Masks a stream of bytes that comes in pieces, wherever those are cut.

    The end of a piece is held back for as long as it can still become a secret; without secrets
    nothing is.
    """

    def __init__(self) -> None:
        self._patterns: List[bytes] = []
        self._held = b""
        self._shown = 0  # so many bytes of what is held are in the output already
        self._masked = False  # the last of them as MASK

    def hide(self, values: Iterable[str]) -> None:
        """Mask these values from now on."""
        found = set(self._patterns)
        for value in values:
            found.update(_forms(value))
        self._patterns = sorted(found)

    @property
    def holding(self) -> bool:
        """Whether something is held back that `settle` would let go."""
        return 0 < len(self._held) < _SHORTEST and self._shown < len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; return what goes to the output now."""
        if not self._patterns:
            return data
        whole = self._held + data
        spans = self._spans(whole)
        keep = min(_possible_start(whole, pattern) for pattern in self._patterns)
        pieces = []
        at = self._shown
        for start, end in spans:
            if start >= keep:
                break
            if end <= at:
                continue
            pieces.append(whole[at:start])
            if start >= at or not self._masked:
                pieces.append(MASK)
            at, self._masked = end, True
        if at < keep:
            pieces.append(whole[at:keep])
            at, self._masked = keep, False
        self._held, self._shown = whole[keep:], at - keep
        return b"".join(pieces)

    def settle(self) -> bytes:
        """Nothing comes for a moment: let go of what is held, such as a prompt's last character.

        The first `_SHORTEST` bytes of a secret are no accident any more, and stay.
        """
        if not self.holding:
            return b""
        piece = self._held[self._shown :]
        self._shown, self._masked = len(self._held), False
        return piece

    def finish(self) -> bytes:
        """The stream has ended: return the rest. Most of a secret is masked as all of it is."""
        rest = self._held[self._shown :]
        if rest and len(self._held) >= _SHORTEST:
            rest = b"" if self._masked and self._shown else MASK
        self._held, self._shown, self._masked = b"", 0, False
        return rest

    def text(self, text: str) -> str:
        """Return a text of our own with the secrets in it masked."""
        data = text.encode("utf-8", "surrogateescape")
        pieces, at = [], 0
        for start, end in self._spans(data):
            pieces += [data[at:start], MASK]
            at = end
        return b"".join([*pieces, data[at:]]).decode("utf-8", "surrogateescape")

    def _spans(self, data: bytes) -> List[Tuple[int, int]]:
        """Return where secrets are, in order; those that overlap are one."""
        found = [
            (start, start + len(pattern))
            for pattern in self._patterns
            if pattern in data
            for start in _places(data, pattern)
        ]
        spans: List[Tuple[int, int]] = []
        for start, end in sorted(found):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans


def passwords_in(text: str) -> List[str]:
    """Return the passwords and signatures in the URLs of a text, as written and unquoted."""
    found = [match.group(1) or match.group(2) for match in _PASSWORD.finditer(text)]
    for url in re.findall(r"https?://\S+\?\S+", text):
        query = urllib.parse.urlsplit(url).query
        found.append(query)
        pairs = (pair.partition("=") for pair in query.split("&"))
        found += [value for name, _, value in pairs if _SIGNATURE.search(name)]
    return [form for value in found for form in (value, urllib.parse.unquote(value))]


def _places(data: bytes, pattern: bytes) -> Iterator[int]:
    at = data.find(pattern)
    while at >= 0:
        yield at
        at = data.find(pattern, at + 1)


def _possible_start(data: bytes, pattern: bytes) -> int:
    """Return where the pattern may begin that goes on in the next piece; the end if nowhere."""
    at = data.find(pattern[:1], max(len(data) - len(pattern) + 1, 0))
    while at >= 0:
        if pattern.startswith(data[at:]):
            return at
        at = data.find(pattern[:1], at + 1)
    return len(data)


def _forms(value: str) -> Iterator[bytes]:
    """Yield the forms in which a value may be printed."""
    for secret in (value, *passwords_in(value)):
        secret = secret.strip()
        if len(secret) < _SHORTEST:
            continue
        yield from _as_text(secret)
        yield from _as_base64(secret.encode("utf-8", "surrogateescape"))
        lines = [line.strip() for line in secret.splitlines()]
        for line in lines if len(lines) > 1 else ():
            if len(line) >= _SHORTEST:
                yield line.encode("utf-8", "surrogateescape")


def _as_text(text: str) -> Iterator[bytes]:
    written = [
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        urllib.parse.quote(text, safe="", errors="surrogateescape"),
        urllib.parse.quote(text, errors="surrogateescape"),
        urllib.parse.quote_plus(text, errors="surrogateescape"),
    ]
    for form in written:
        yield form.encode("utf-8", "surrogateescape")


def _as_base64(secret: bytes) -> Iterator[bytes]:
    for before in range(3):  # bytes of the same group that stand before it
        encoded = base64.b64encode(b"\0" * before + secret)
        first = (before * 8 + 5) // 6  # what depends on its neighbours is left out
        last = (before + len(secret)) * 8 // 6
        text = encoded[first:last]
        pieces = [text]
        if before == 0 and len(text) > _BASE64_LINE:  # programs break it into lines
            pieces = [text[i : i + _BASE64_LINE] for i in range(0, len(text), _BASE64_LINE)]
        for piece in pieces:
            if len(piece) >= _SHORTEST_BASE64:
                yield piece
                yield piece.replace(b"+", b"-").replace(b"/", b"_")
