"""Git's ignore rules: which paths the lines of ``.gitignore`` files leave out.

The rules are those of ``gitignore(5)`` and of git's ``wildmatch.c``, on bytes as git applies them,
and the tests compare them with git itself. They are written here because matchers that judge a
path together with its parents cannot give git's answer once two folders have rules of their own:
there ``!build`` in a folder brings back everything below ``build``, in git only ``build`` itself.
Source: https://git-scm.com/docs/gitignore, https://github.com/git/git/blob/v2.39.5/wildmatch.c
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_exec.errors import SourceError

__all__ = ["IgnoreFile", "Rule", "ignored", "parse", "read_above", "read_in"]

_GLOB_START = re.compile(rb"[*?\[\\]")
_BOM = b"\xef\xbb\xbf"


def _bytes_of(text: str) -> frozenset[int]:
    return frozenset(text.encode("ascii"))


# The names that wildmatch.c knows between [: and :], ASCII only as in git.
_CLASSES: dict[bytes, frozenset[int]] = {
    b"alnum": _bytes_of(string.ascii_letters + string.digits),
    b"alpha": _bytes_of(string.ascii_letters),
    b"blank": _bytes_of(" \t"),
    b"cntrl": frozenset(range(32)) | {127},
    b"digit": _bytes_of(string.digits),
    b"graph": frozenset(range(33, 127)),
    b"lower": _bytes_of(string.ascii_lowercase),
    b"print": frozenset(range(32, 127)),
    b"punct": _bytes_of(string.punctuation),
    b"space": _bytes_of(" \t\n\r\v\f"),
    b"upper": _bytes_of(string.ascii_uppercase),
    b"xdigit": _bytes_of(string.hexdigits),
}


@dataclass(frozen=True)
class Rule:
    """One line of an ignore file.

    ``negated`` brings a path back (``!line``), ``folders_only`` matches no file (``line/``) and
    ``by_name`` matches the last part of a path at any depth (a line without a slash inside).
    """

    regex: re.Pattern[bytes]
    negated: bool
    folders_only: bool
    by_name: bool

    def matches(self, path: bytes, *, is_folder: bool) -> bool:
        """Whether the line names ``path``, which is relative to the folder of the ignore file."""
        if self.folders_only and not is_folder:
            return False
        subject = path.rpartition(b"/")[2] if self.by_name else path
        return self.regex.fullmatch(subject) is not None


@dataclass(frozen=True)
class IgnoreFile:
    """The rules of the ignore files of one folder.

    ``base`` is that folder's path with a slash at its end, or empty for the top folder.
    """

    base: bytes
    rules: tuple[Rule, ...]


def ignored(path: bytes, *, is_folder: bool, files: Sequence[IgnoreFile]) -> bool:
    """Whether the rules leave out ``path``, which must lie below the base of each of ``files``.

    ``files`` go from the top folder downwards; the last line that names the path decides. Folders
    that were left out are for the caller not to enter: nothing below them can be brought back.
    """
    for file in reversed(files):
        relative = path[len(file.base) :]
        for rule in reversed(file.rules):
            if rule.matches(relative, is_folder=is_folder):
                return not rule.negated
    return False


def parse(content: bytes) -> tuple[Rule, ...]:
    """The rules in the content of an ignore file, in their order.

    Lines that can match nothing (comments, an open bracket) give no rule, as in git: there is no
    error in an ignore file.
    """
    rules = (_parse_line(line) for line in content.removeprefix(_BOM).split(b"\n"))
    return tuple(rule for rule in rules if rule is not None)


def read_in(folder: str, names: Sequence[str], base: bytes) -> list[IgnoreFile]:
    """The rules in a folder's ignore files called ``names``, of which the last has the last word.

    ``base`` is the folder's path as in `IgnoreFile`. Nothing is returned where there is no rule.

    Raises:
        SourceError: A file cannot be read.
    """
    rules: list[Rule] = []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):  # git reads no link here either
            try:
                rules += parse(Path(path).read_bytes())
            except OSError as error:
                raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    return [IgnoreFile(base, tuple(rules))] if rules else []


def read_above(folder: str, names: Sequence[str]) -> tuple[bytes, tuple[IgnoreFile, ...]]:
    """What the git repository around ``folder`` says about it: its path therein, and the rules.

    The path ends with a slash, and is empty where ``folder`` is the top of a repository or in none.
    """
    folders = [Path(folder), *Path(folder).parents]
    top = next((n for n, path in enumerate(folders) if (path / ".git").exists()), 0)
    rules: list[IgnoreFile] = []
    for path in reversed(folders[1 : top + 1]):
        rules += read_in(str(path), names, _base(path, folders[top]))
    return _base(folders[0], folders[top]), tuple(rules)


def _base(folder: Path, top: Path) -> bytes:
    return b"" if folder == top else os.fsencode(folder.relative_to(top)) + b"/"


def _parse_line(line: bytes) -> Rule | None:
    if line.startswith(b"#"):
        return None
    glob = _without_trailing_spaces(line.removesuffix(b"\r"))
    negated = glob.startswith(b"!")
    glob = glob[1:] if negated else glob
    folders_only = glob.endswith(b"/")
    glob = glob[:-1] if folders_only else glob
    by_name = b"/" not in glob
    regex = _translate(glob.removeprefix(b"/"))
    if not glob or regex is None:
        return None
    return Rule(re.compile(regex, re.DOTALL), negated, folders_only, by_name)


def _without_trailing_spaces(line: bytes) -> bytes:
    """``line`` without the spaces at its end, of which a backslash keeps the one after it."""
    end = len(line.rstrip(b" "))
    backslashes = end - len(line[:end].rstrip(b"\\"))
    return line[: end + 1] if backslashes % 2 else line[:end]


def _translate(glob: bytes) -> bytes | None:
    """The regular expression of a glob, None if it can match nothing."""
    start = _GLOB_START.search(glob)
    if start is None:
        return re.escape(glob)
    # Git compares the literal head first and sees only the rest as a pattern: in "a**/b" the
    # stars are at the beginning of that rest, and therefore span folders.
    rest = glob[start.start() :]
    parts = [re.escape(glob[: start.start()])]
    position = 0
    while position < len(rest):
        step = _translate_one(rest, position)
        if step is None:
            return None
        part, position = step
        parts.append(part)
    return b"".join(parts)


def _translate_one(glob: bytes, position: int) -> tuple[bytes, int] | None:
    """The expression of the element at ``position`` and where the next one begins."""
    char = glob[position : position + 1]
    if char == b"*":
        return _translate_stars(glob, position)
    if char == b"?":
        return b"[^/]", position + 1
    if char == b"[":
        return _translate_bracket(glob, position + 1)
    if char == b"\\":
        escaped = glob[position + 1 : position + 2]
        return (re.escape(escaped), position + 2) if escaped else None
    return re.escape(char), position + 1


def _translate_stars(glob: bytes, position: int) -> tuple[bytes, int]:
    end = position
    while glob[end : end + 1] == b"*":
        end += 1
    whole_part = position == 0 or glob[position - 1 : position] == b"/"
    if end - position > 1 and whole_part:
        if glob[end : end + 1] == b"/":
            return b"(?:.*/)?", end + 1
        if end == len(glob) or glob[end : end + 2] == b"\\/":
            return b".*", end
    return b"[^/]*", end


def _translate_bracket(glob: bytes, position: int) -> tuple[bytes, int] | None:
    """The expression of a bracket that opened before ``position``; None if it is malformed."""
    negated = glob[position : position + 1] in (b"!", b"^")
    position += negated
    members: set[int] = set()
    previous: int | None = None
    first = True
    while first or glob[position : position + 1] != b"]":
        first = False
        step = _bracket_member(glob, position, previous)
        if step is None:
            return None
        found, previous, position = step
        members |= found
    chosen = (set(range(256)) - members if negated else members) - {ord("/")}
    if not chosen:
        return rb"(?!)", position + 1
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(chosen)) + b"]", position + 1


def _bracket_member(
    glob: bytes, position: int, previous: int | None
) -> tuple[frozenset[int], int | None, int] | None:
    """What one element adds, the character that may begin a range, and the next position."""
    char = glob[position : position + 1]
    following = glob[position + 1 : position + 2]
    if not char or (char == b"\\" and not following):
        return None
    if char == b"\\":
        return frozenset(following), following[0], position + 2
    if char == b"-" and previous is not None and following not in (b"", b"]"):
        last = position + 2 if following == b"\\" else position + 1
        if last >= len(glob):
            return None
        return frozenset(range(previous, glob[last] + 1)), None, last + 1
    if char == b"[" and following == b":":
        end = glob.find(b"]", position + 2)
        if end < 0:
            return None
        name = glob[position + 2 : end]
        if name.endswith(b":"):
            known = _CLASSES.get(name[:-1])
            return None if known is None else (known, None, end + 1)
    return frozenset(char), char[0], position + 1
