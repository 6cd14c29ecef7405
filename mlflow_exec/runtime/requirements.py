"""Reads requirement files as far as a cache has to: what they mean, and whether it can change."""

from __future__ import annotations

import os
import re
from typing import Iterator, List, Mapping, Sequence, Set, Tuple

from .masking import passwords_in

_URL_USER = re.compile(r"(://)[^/@\s]+@")
_COMMENT = re.compile(r"(^|\s)#.*$")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_FILE_OPTION = re.compile(
    r"^(?:-r|-c|--requirements?|--constraints?)(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*)$"
)
_NAMED_URL = re.compile(r"^[\w.-]+\s*(?:\[[^\]]*\])?\s*@\s*(\S+)")
_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?(.*)$")
_EXACT = re.compile(r"(?:^|,)\s*\(?\s*={2,3}\s*[^\s,*]+\s*\)?\s*(?:,|$)")
_COMMIT = re.compile(r"@[0-9a-f]{40}(?:#.*)?$")
_HASH = re.compile(r"#(?:.*&)?sha(?:256|384|512)=[0-9a-f]+")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
# They change what is installed by nothing but their own text.
_OPTIONS = (
    "-i", "--index-url", "--extra-index-url", "--no-index", "-f", "--find-links", "--trusted-host",
    "--pre", "--prefer-binary", "--no-binary", "--only-binary", "--require-hashes",
    "--use-feature", "--default-index", "--index", "--no-build-isolation",
)  # fmt: skip


class Uncacheable(Exception):
    """An environment cannot be kept; the message says why."""


def without_credentials(text: str) -> str:
    """Return the text with user names and passwords taken out of its URLs."""
    return _URL_USER.sub(r"\1", text)


def passwords(lines: Sequence[str], folder: str) -> List[str]:
    """Return the passwords in the URLs of requirement lines and of the files they refer to."""
    return [word for line in _with_files(lines, folder, set()) for word in passwords_in(line)]


def _with_files(lines: Sequence[str], folder: str, seen: Set[str]) -> Iterator[str]:
    for line in lines:
        yield line
        named = _FILE_OPTION.match(line.strip())
        path = os.path.join(folder, named.group(1).strip("'\"")) if named else ""
        if not named or path in seen or not os.path.isfile(path):
            continue
        seen.add(path)
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from _with_files(file.read().splitlines(), os.path.dirname(path), seen)


class Requirements:
    """Requirement lines, with everything that they refer to.

    The files are those of this disk; a subclass whose files are elsewhere replaces `read_file` and
    `add_path`, and one that knows more of a line than this class replaces `add_line`.

    Args:
        env: The installer's variables; a line may name some as ``${NAME}``.

    Attributes:
        meaning: The lines with those of the files they name; credentials are left out.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.meaning: List[str] = []
        self._env = env
        self._files: Set[str] = set()
        self._loose: Set[str] = set()
        self._fixed: Set[str] = set()

    def loosen(self, text: str) -> None:
        """Count a line as one that can mean another version tomorrow."""
        self._loose.add(text)

    @property
    def pinned(self) -> bool:
        """Whether every requirement names one version, by itself or by a constraint."""
        return self._loose <= self._fixed

    def add(self, lines: Sequence[str], folder: str, constraints: bool = False) -> None:
        """Read lines.

        Args:
            lines: As in a requirements file.
            folder: What the names of files in them are relative to.
            constraints: Whether they only restrict what other lines ask for.

        Raises:
            Uncacheable: A line can mean something else tomorrow though it stays the same.
        """
        joined = re.sub(r"\\\r?\n", "", "\n".join(lines))
        for raw in joined.splitlines():
            text = _COMMENT.sub("", raw).strip()
            text = _VARIABLE.sub(lambda m: self._env.get(m.group(1), m.group(0)), text)
            if text:
                self.add_line(text, folder, constraints)

    def add_file(self, path: str, constraints: bool = False) -> None:
        """Read a file; raises Uncacheable as `add` does, or where it cannot be read."""
        name, text = self.read_file(path)
        if name in self._files:
            return
        self._files.add(name)
        self.meaning.append("[constraints]" if constraints else "[requirements]")
        self.add(text.splitlines(), os.path.dirname(path), constraints)
        self.meaning.append("[end]")

    def read_file(self, path: str) -> Tuple[str, str]:
        """Return what a file is told from others by, and its text; raises Uncacheable."""
        real = os.path.realpath(path)
        try:
            with open(real, encoding="utf-8-sig") as file:
                return real, file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise Uncacheable(f"{path} cannot be read: {error}") from error

    def add_path(self, path: str, folder: str, reason: str) -> None:
        """Read what a line names on the disk: it can change while the line stays the same.

        Args:
            path: As the line has it.
            folder: Of the file with the line.
            reason: Says so.

        Raises:
            Uncacheable: Always here, with the reason.
        """
        raise Uncacheable(reason)

    def add_line(self, text: str, folder: str, constraints: bool) -> None:
        """Read one line without comment; raises Uncacheable as `add` does."""
        named = _FILE_OPTION.match(text)
        if named:
            if "://" in named.group(1):
                raise Uncacheable(f"{_shown(text)!r} is a file elsewhere, which may change")
            is_constraint = constraints or text.startswith(("-c", "--constraint"))
            self.add_file(os.path.join(folder, named.group(1).strip("'\"")), is_constraint)
            return
        self.meaning.append(without_credentials(text))
        if text.startswith("-"):
            self._option(text, folder)
        else:
            self._requirement(text.split(" --", 1)[0].strip(), folder, constraints)

    def _option(self, text: str, folder: str) -> None:
        name, _, value = re.sub(r"[\s=]+", " ", text, count=1).partition(" ")
        if name in ("-e", "--editable") or text.startswith("-e"):
            raise Uncacheable(f"{_shown(text)!r} is an editable requirement")
        if name not in _OPTIONS:
            raise Uncacheable(f"{_shown(text)!r} is an option that may mean anything")
        links = name in ("-f", "--find-links", "-i", "--index-url", "--extra-index-url")
        if links and "://" not in value and not os.path.isabs(value):
            self.add_path(value, folder, f"{_shown(text)!r} is a folder of the project")

    def _requirement(self, text: str, folder: str, constraints: bool) -> None:
        url = _NAMED_URL.match(text)
        target = url.group(1) if url else text.partition(";")[0].strip()
        if "://" in target or target.startswith("file:"):
            self._url(target, text, folder)
            return
        if url or target.startswith((".", "~")) or os.sep in target or target.endswith(_ARCHIVES):
            self.add_path(target, folder, f"{_shown(text)!r} is a file or folder")
            return
        found = _NAME.match(target)
        if found is None:
            raise Uncacheable(f"{_shown(text)!r} is not understood")
        name = re.sub(r"[-_.]+", "-", found.group(1)).lower()
        if _EXACT.search(found.group(2)):
            self._fixed.add(name)
        elif not constraints:
            self._loose.add(name)

    def _url(self, url: str, text: str, folder: str) -> None:
        if url.startswith("file:"):
            self.add_path(url[len("file:") :], folder, f"{_shown(text)!r} is a file or folder")
        elif re.match(r"^[a-z]+\+", url):
            if not _COMMIT.search(url):
                raise Uncacheable(f"{_shown(text)!r} names no commit by its 40 digits")
        elif not _HASH.search(url):
            self._loose.add(without_credentials(url))


def _shown(text: str) -> str:
    return without_credentials(text)[:120]
