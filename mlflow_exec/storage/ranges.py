"""A part of an object, out of an answer that holds all of it where a server takes no ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

from mlflow_exec.errors import RejectedError, UnreachableError


def taken(pieces: Iterable[bytes], start: int, end: int, *, is_all: bool) -> bytes:
    """Return a range of an object as one; many small pieces at a time would fill the memory.

    Args:
        pieces: The body of the answer.
        start: The first byte.
        end: That after the last one.
        is_all: Whether all of the object comes, and is not read further than needed. Else what
            comes is read to its end, so that the connection is used again.
    """
    found, count, skipped = bytearray(end - start), 0, start if is_all else 0
    for piece in pieces:
        wanted = memoryview(piece)[skipped:][: end - start - count]
        skipped -= min(skipped, len(piece))
        found[count : count + len(wanted)] = wanted
        count += len(wanted)
        if is_all and count == end - start:
            break
    del found[count:]
    return cast(bytes, found)  # which reads as they do; a copy would be another part in memory


def part_of(
    pieces: Iterable[bytes], start: int, end: int, content_range: str | None,
    length: str | int | None,
) -> tuple[bytes, int]:
    """Return the part of an object that was asked for, less only at its end, and its whole size.

    Args:
        pieces: The answer's body, see `taken`.
        start: The first byte.
        end: That after the last one.
        content_range: The answer's header; None where all of the object comes.
        length: Its Content-Length.

    Raises:
        UnreachableError: Less came than was told.
        RejectedError: It is not told how large the object is.
    """
    match = re.fullmatch(r"bytes \d+-(\d+)/(\d+)", content_range or "")
    if match is None and length is None:
        raise RejectedError("the answer to a range has neither Content-Range nor Content-Length")
    content = taken(pieces, start, end, is_all=match is None)
    told_end, size_bytes = (int(match[1]) + 1, int(match[2])) if match else (end, int(length or 0))
    told_bytes = max(0, min(end, told_end, size_bytes) - start)
    if len(content) < told_bytes:  # some clients take a connection that breaks for the end
        raise UnreachableError(f"{len(content)} of {told_bytes} bytes came before it broke off")
    return content, size_bytes
