"""A project as one zip file, named by its content.

The same files give the same bytes wherever and whenever they are bundled: the times, the owners,
the umask and the order of folders leave no trace. (zlib decides the compressed bytes, so machines
with different builds of it can name the same project differently; nothing but reuse depends on it.)
Only files are kept, as in git; an empty folder is not.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, NamedTuple, NoReturn

from mlflow_exec.errors import SourceError, SourceTooLargeError
from mlflow_exec.ignore import IgnoreFile, ignored, read_above, read_in

__all__ = ["Bundle", "bundle", "write_zip"]

# Never part of a project, whatever the ignore files say. MLflow's default store lies inside the
# project and changes with each run: with it no two bundles would be the same.
_NEVER = frozenset({".git"})
_NEVER_FOLDERS = frozenset({"mlruns", "mlartifacts", "__pycache__", ".ipynb_checkpoints"})
_NEVER_PREFIX = "mlflow.db"
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
# Later lines win: .mlflowignore can bring back what .gitignore leaves out.
_IGNORE_FILES = (".gitignore", ".mlflowignore")

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_ZIP_BYTES_PER_ENTRY = 30 + 46
# Deflate never does better than this, so a project above it is refused before any compression.
# Source: https://www.zlib.net/zlib_tech.html
_BEST_COMPRESSION = 1032
_CHUNK_BYTES = 1 << 20
_LISTED_FOLDERS = 10


@dataclass(frozen=True)
class Bundle:
    """A zip file with the files of a project, removed by ``close()`` or the end of a ``with``.

    Attributes:
        path: The zip file, in the folder for temporary files.
        sha256: Of the zip file, in hexadecimal digits.
        size_bytes: Of the zip file.
        file_count: How many files it holds.
    """

    path: Path
    sha256: str
    size_bytes: int
    file_count: int

    def close(self) -> None:
        """Remove the file; done before is fine."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def bundle(
    project_dir: Path, *, limit_bytes: int, extra: Mapping[str, Path] | None = None
) -> Bundle:
    """Put the files of a project into a temporary zip file, which the caller closes.

    Left out: what ``.gitignore`` and ``.mlflowignore`` files name (git's rules, those of the
    enclosing git repository included, and no setting of this machine), ``.git``, virtual
    environments, MLflow's local stores and caches of Python. A link is stored as what it leads to.

    Args:
        project_dir: The folder that holds ``MLproject``.
        limit_bytes: How large the zip file may become.
        extra: Further files and folders by their path in the zip; no ignore rule applies to them.

    Raises:
        SourceTooLargeError: The zip file would be larger than ``limit_bytes``.
        SourceError: There is nothing to bundle, or something that cannot be bundled as it is: a
            link that dangles, runs in a circle or leads outside, a device, a file that may not be
            read, a name that is not UTF-8, an extra path that is taken.
    """
    entries = _Collection(project_dir, limit_bytes)
    entries.add_project(project_dir)
    for name, path in sorted((extra or {}).items()):
        entries.add_extra(name, path)
    if not entries.files:
        raise SourceError(
            f"{project_dir}: there is no file to send; the folder is empty or its ignore files "
            f"({', '.join(_IGNORE_FILES)}) leave everything out; bring files back with '!name'"
        )
    descriptor, name = tempfile.mkstemp(prefix="mlflow-exec-", suffix=".zip")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as out:
            entries.write(out)
            return Bundle(path, _sha256(out), out.seek(0, os.SEEK_END), len(entries.files))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_zip(out: Path, bundle: Bundle | None, files: Mapping[str, bytes]) -> str:
    """Write a zip file of the bundle's files and of ``files`` (content by path).

    Same input, same bytes. ``out`` is replaced.

    Returns:
        The sha256 of the zip file, in hexadecimal digits.

    Raises:
        SourceError: A path of ``files`` is not a relative path, or the bundle has it already.
    """
    with out.open("w+b") as raw:
        with zipfile.ZipFile(raw, "w") as target:
            if bundle is None:
                _merge(target, None, files)
            else:
                with zipfile.ZipFile(bundle.path) as source:
                    _merge(target, source, files)
        return _sha256(raw)


def _merge(
    target: zipfile.ZipFile, source: zipfile.ZipFile | None, files: Mapping[str, bytes]
) -> None:
    kept = {info.filename: info for info in source.infolist()} if source else {}
    for name in files:
        _check_archive_path(name)
        if name in kept:
            raise SourceError(
                f"the project's files: {name!r} is a name that mlflow-exec uses itself; "
                "rename that file, or leave it out with a .mlflowignore file"
            )
    for name in sorted({*kept, *files}):
        if name in files:
            entry = _zip_info(name, False, len(files[name]))
            _store(target, entry, [files[name]])
        elif source:
            info = kept[name]
            entry = _zip_info(name, bool(info.external_attr >> 16 & 0o100), info.file_size)
            with source.open(info) as content:
                _store(target, entry, _chunks(content))


class _File(NamedTuple):
    path: str
    size_bytes: int
    executable: bool


class _Folder(NamedTuple):
    """A folder that waits to be listed."""

    path: str
    name: str  # its path in the zip with a slash at the end; empty for the top
    way: tuple[str, ...]  # the real folders passed on the way here, itself included
    ignore: tuple[IgnoreFile, ...]


class _Collection:
    """The files that go into one zip file, found before any of them is read."""

    def __init__(self, project_dir: Path, limit_bytes: int) -> None:
        self.files: dict[str, _File] = {}
        self._project_dir = project_dir
        self._limit_bytes = limit_bytes
        self._raw_bytes = 0
        self._least_bytes = 0.0  # what the zip file takes at the very least

    def add_project(self, path: Path) -> None:
        """Take every file below ``path`` that no rule leaves out."""
        real = self._real(path, "")
        if not os.path.isdir(real):
            self._refuse("is not a folder; give the folder that holds MLproject")
        prefix, rules = read_above(real, _IGNORE_FILES)
        self._walk(real, "", prefix, rules)

    def add_extra(self, name: str, path: Path) -> None:
        """Take ``path``, a file or a folder with all that is below it, under another name."""
        _check_archive_path(name)
        real = self._real(path, name)
        if os.path.isdir(real):
            self._walk(real, f"{name}/", None, ())
        else:
            self._add(name, real)

    def write(self, out: IO[bytes]) -> None:
        """Write the zip file; stops as soon as it is over the limit."""
        with zipfile.ZipFile(out, "w") as target:
            for name, file in sorted(self.files.items()):
                entry = _zip_info(name, file.executable, file.size_bytes)
                _store(target, entry, self._content(name, file, out))
        self._check_limit(out.seek(0, os.SEEK_END))

    def _content(self, name: str, file: _File, out: IO[bytes]) -> Iterator[bytes]:
        try:
            with open(file.path, "rb") as content:
                for chunk in _chunks(content):
                    yield chunk
                    self._check_limit(out.tell())
        except OSError as error:
            self._refuse(f"{name!r} cannot be read ({error.strerror})", error)

    def _walk(
        self, top: str, name: str, prefix: bytes | None, rules: tuple[IgnoreFile, ...]
    ) -> None:
        """List ``top`` and all below; ``prefix`` leads from the rules' top here, None: no rules."""
        waiting = [_Folder(top, name, (top,), rules)]
        while waiting:
            folder = waiting.pop()
            ignore = folder.ignore
            if prefix is not None:
                base = prefix + os.fsencode(folder.name)
                ignore = (*ignore, *read_in(folder.path, _IGNORE_FILES, base))
            for entry in self._listed(folder):
                entry_name = folder.name + entry.name
                if prefix is not None and _left_out(
                    entry, prefix + os.fsencode(entry_name), ignore
                ):
                    continue
                path = self._inside(entry, top, entry_name)
                if os.path.isdir(path):
                    if path in folder.way:
                        self._refuse(f"the link on the way to {entry_name!r} leads in a circle")
                    waiting.append(_Folder(path, f"{entry_name}/", (*folder.way, path), ignore))
                else:
                    self._add(entry_name, path)

    def _listed(self, folder: _Folder) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder.path) as entries:
                return list(entries)
        except OSError as error:
            self._refuse(f"the folder {folder.name!r} cannot be read ({error.strerror})", error)

    def _inside(self, entry: os.DirEntry[str], top: str, name: str) -> str:
        """The path of ``entry``, or of what it leads to if it is a link."""
        if not entry.is_symlink():
            return entry.path
        path = self._real(Path(entry.path), name)
        if os.path.commonpath([top, path]) != top:
            self._refuse(
                f"the link {name!r} leads outside, to {os.readlink(entry.path)!r}; copy what it "
                "points to into the project, or leave the link out with a .mlflowignore file"
            )
        return path

    def _real(self, path: Path, name: str) -> str:
        try:
            return os.path.realpath(path, strict=True)
        except OSError as error:
            what = f"{name!r} leads to nothing" if name else "cannot be read"
            self._refuse(f"{what} ({path}: {error.strerror})", error)

    def _add(self, name: str, path: str) -> None:
        try:
            encoded = name.encode()
        except UnicodeEncodeError as error:
            self._refuse(f"the name {name!r} is not UTF-8; rename the file", error)
        try:
            status = os.stat(path)
        except OSError as error:
            self._refuse(f"{name!r} cannot be read ({error.strerror})", error)
        if not stat.S_ISREG(status.st_mode):
            self._refuse(
                f"{name!r} is no file but a {_kind(status.st_mode)}; remove it, or leave it out "
                "with a .mlflowignore file"
            )
        if name in self.files:
            self._refuse(f"two files are to be stored as {name!r}; rename one of them")
        self.files[name] = _File(path, status.st_size, bool(status.st_mode & 0o100))
        self._raw_bytes += status.st_size
        self._least_bytes += (
            _ZIP_BYTES_PER_ENTRY + 2 * len(encoded) + status.st_size / _BEST_COMPRESSION
        )
        self._check_limit(self._least_bytes)

    def _check_limit(self, size_bytes: float) -> None:
        if size_bytes > self._limit_bytes:
            raise SourceTooLargeError(self._too_large())

    def _too_large(self) -> str:
        sizes = _folder_sizes({name: file.size_bytes for name, file in self.files.items()})
        lines = "\n".join(f"  {_readable(size):>10}  {name}" for name, size in sizes)
        return (
            f"{self._project_dir}: the project is larger than the limit of "
            f"{_readable(self._limit_bytes)} even when compressed; found {len(self.files)} files "
            f"of {_readable(self._raw_bytes)} in all, the largest folders:\n{lines}\n"
            "Leave data and results out with a .mlflowignore file (syntax of .gitignore), or raise "
            "the limit"
        )

    def _refuse(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise SourceError(f"{self._project_dir}: {what}") from cause


def _left_out(entry: os.DirEntry[str], path: bytes, ignore: tuple[IgnoreFile, ...]) -> bool:
    """Whether a rule leaves ``entry`` out. To the ignore files a link is a file, as in git."""
    if entry.name in _NEVER or entry.name.startswith(_NEVER_PREFIX):
        return True
    if os.path.isdir(entry.path):  # unlike entry.is_dir(), no error for a link to itself
        marks = (os.path.join(entry.path, mark) for mark in _ENVIRONMENT_MARKS)
        if entry.name in _NEVER_FOLDERS or any(map(os.path.lexists, marks)):
            return True
    return ignored(path, is_folder=entry.is_dir(follow_symlinks=False), files=ignore)


def _check_archive_path(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise SourceError(
            f"the project's files: {name!r} is no path inside the zip file; give a relative path "
            "such as 'data/train.csv'"
        )


def _zip_info(name: str, executable: bool, size_bytes: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.file_size = size_bytes  # tells zipfile whether the entry needs the 64-bit form
    return entry


def _store(target: zipfile.ZipFile, entry: zipfile.ZipInfo, chunks: Iterable[bytes]) -> None:
    with target.open(entry, "w") as out:
        for chunk in chunks:
            out.write(chunk)


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(_CHUNK_BYTES):
        yield chunk


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def _folder_sizes(files: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest folders with all below them; not a folder that one subfolder explains."""
    sizes: dict[str, int] = {}
    for name, size in files.items():
        parents = [str(parent) for parent in PurePosixPath(name).parents][:-1]
        for parent in parents or ["(beside MLproject)"]:
            sizes[parent] = sizes.get(parent, 0) + size
    explained = {
        str(PurePosixPath(name).parent)
        for name, size in sizes.items()
        if size >= 0.9 * sizes.get(str(PurePosixPath(name).parent), size + 1)
    }
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return [item for item in largest if item[0] not in explained][:_LISTED_FOLDERS]


def _readable(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "socket"
    return "named pipe" if stat.S_ISFIFO(mode) else "device"
