"""Brings the project's files into the job: fetch, verify, unpack safely."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, Callable, Dict, List, Mapping, Optional, Set

from .environment import python_of
from .job_order import SetupError, Source
from .processes import Runner
from .rest import ArtifactRoot
from .tracking_server import RequestError, copy_answer, is_http, redact, with_retries

# Its result path goes to a file: the output of the download belongs to the log.
_MLFLOW_DOWNLOAD = """\
import sys, mlflow.artifacts
path = mlflow.artifacts.download_artifacts(artifact_uri=sys.argv[1], dst_path=sys.argv[2])
open(sys.argv[3], "w", encoding="utf-8").write(str(path))
"""
_FETCH_PATIENCE_S = 60.0
_SOCKET_TIMEOUT_S = 60.0


def failed(message: str, hint: str = "") -> SetupError:
    """Return the error for a source that cannot be had."""
    return SetupError("source_fetch", f"source: {message}", hint)


@dataclass(frozen=True)
class Project:
    """The project in the job's file system.

    Attributes:
        root: The folder of the whole source.
        directory: The project's folder in it, where the entry point runs.
    """

    root: str
    directory: str


class SourceFetcher:
    """Prepares a fresh project folder for each attempt; fetches an archive only once.

    Args:
        source: Where the project comes from.
        scratch_dir: An existing private folder.
        environ: Holds the presigned URL, if there is one.
        artifacts: The run's artifacts; None where they are not proxied by the tracking server.
        runner: Runs the image's own MLflow, where nothing else can fetch the source.
        env: The variables for it.
    """

    def __init__(
        self,
        source: Source,
        scratch_dir: str,
        environ: Dict[str, str],
        artifacts: Optional[ArtifactRoot],
        runner: Runner,
        env: Mapping[str, str],
    ) -> None:
        self._runner = runner
        self._env = env
        self._source = source
        self._project_dir = os.path.join(scratch_dir, "project")
        self._archive = os.path.join(scratch_dir, "source.zip")
        self._environ = environ
        self._artifacts = artifacts
        self._verified: Optional[str] = None

    def prepare(self, say: Callable[[str], None]) -> Project:
        """Return the project as it was submitted.

        Raises:
            SetupError: source_fetch, with the reason.
        """
        try:
            root = self._prepare_root(say)
        except OSError as error:
            raise failed(f"the files cannot be written or read: {error}") from error
        root = os.path.realpath(root)
        project = os.path.realpath(os.path.join(root, self._source.subdirectory))
        if os.path.commonpath([root, project]) != root:
            raise failed(f"the subdirectory {self._source.subdirectory!r} leaves the project")
        if not os.path.isdir(project):
            raise failed(f"the project has no subdirectory {self._source.subdirectory!r}")
        return Project(root, project)

    def _prepare_root(self, say: Callable[[str], None]) -> str:
        source = self._source
        if source.kind == "directory" and not source.copy:
            root = os.path.abspath(source.path or ".")
            say(f"source: {root}")
            return root
        if os.path.isdir(self._project_dir):
            shutil.rmtree(self._project_dir)
        if source.kind == "directory":
            self._copy_directory(say)
        else:
            if self._verified is None:
                self._verified = self._fetch_verified()
            count = unpack(self._verified, self._project_dir)
            say(f"source: {count} files, sha256 {(source.sha256 or '')[:12]}… verified")
        return self._project_dir

    def _copy_directory(self, say: Callable[[str], None]) -> None:
        root = os.path.abspath(self._source.path or ".")
        leave_out = {os.path.join(root, name) for name in self._source.exclude}

        def ignore(folder: str, names: List[str]) -> Set[str]:
            return {name for name in names if os.path.join(folder, name) in leave_out}

        try:
            shutil.copytree(root, self._project_dir, symlinks=True, ignore=ignore)
        except shutil.Error as error:
            first = error.args[0][0] if error.args and error.args[0] else error
            raise failed(f"the folder {root} cannot be copied: {first}") from error
        say(f"source: a copy of {root}")

    def _fetch_verified(self) -> str:
        path = self._fetch()
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(1024 * 1024), b""):
                digest.update(chunk)
        if digest.hexdigest() != (self._source.sha256 or "").lower():
            raise failed(
                f"the archive is not the one that was submitted: its sha256 is "
                f"{digest.hexdigest()}, expected was {self._source.sha256}",
                "Submit again; if it repeats, something between client and job changes the file.",
            )
        return path

    def _fetch(self) -> str:
        source = self._source
        if source.path is not None:
            if not os.path.isfile(source.path):
                raise failed(f"there is no archive at {source.path}")
            return source.path
        if source.artifact_path is not None:
            return self._fetch_artifact(source.artifact_path)
        if source.mlflow_uri is not None:
            return self._fetch_by_mlflow(source.mlflow_uri)
        url = source.url if source.url_env is None else self._environ.get(source.url_env)
        if not url:
            raise failed(f"the environment variable {source.url_env} with the URL is not set")
        with open(self._archive, "wb") as out:
            download(url, out)
        return self._archive

    def _fetch_artifact(self, artifact_path: str) -> str:
        if self._artifacts is None:
            raise failed(
                f"the artifact {artifact_path} cannot be read through the tracking server",
                "Deliver the source by a URL or a volume, or serve artifacts through the server.",
            )
        try:
            with open(self._archive, "wb") as out:
                self._artifacts.get(artifact_path, out, _FETCH_PATIENCE_S)
        except RequestError as error:
            raise failed(str(error), "Can the job reach the tracking server?") from error
        return self._archive

    def _fetch_by_mlflow(self, uri: str) -> str:
        folder = os.path.join(os.path.dirname(self._archive), "by-mlflow")
        os.makedirs(folder, exist_ok=True)
        try:
            return download_by_mlflow(uri, folder, self._runner, self._env)
        except SetupError as error:
            hint = "The image needs mlflow, the store's library, and credentials for it."
            raise SetupError("source_fetch", error.end.message, hint) from error


def download_by_mlflow(uri: str, folder: str, runner: Runner, env: Mapping[str, str]) -> str:
    """Return the local path of what MLflow downloaded from the URI.

    Args:
        uri: Any artifact URI, such as ``runs:/<run_id>/<path>`` or ``s3://<bucket>/<path>``.
        folder: An existing folder for it.
        runner: Runs MLflow; what it says goes to the job's log.
        env: The variables of an environment that has mlflow.

    Raises:
        SetupError: source_fetch.
    """
    python = python_of(env)
    answer = folder + ".path"
    try:
        outcome = runner.run([python, "-c", _MLFLOW_DOWNLOAD, uri, folder, answer], folder, env)
    except OSError as error:
        raise failed(f"{python} cannot be started: {error}") from error
    if outcome.returncode != 0:
        last = (outcome.tail.splitlines() or [""])[-1]
        raise failed(f"{redact(uri)} cannot be fetched by MLflow: {last}")
    with open(answer, encoding="utf-8") as file:
        return file.read()


def download(url: str, out: IO[bytes]) -> None:
    """Write the body behind an http(s) URL to the open file.

    Raises:
        SetupError: source_fetch; the URL is named without its query, which may hold a signature.
    """
    if not is_http(url):
        raise failed(f"only http and https URLs can be fetched here; {redact(url)}")

    def act() -> None:
        out.seek(0)
        out.truncate()
        with urllib.request.urlopen(url, timeout=_SOCKET_TIMEOUT_S) as answer:
            copy_answer(answer, out)

    try:
        with_retries(act, f"GET {redact(url)}", _FETCH_PATIENCE_S)
    except RequestError as error:
        hint = "A presigned URL may have expired: submit again." if error.status == 403 else ""
        raise failed(str(error), hint) from error
    except ValueError as error:
        raise failed(f"not a usable URL: {redact(url)}: {error}") from error


def unpack(archive: str, target_dir: str) -> int:
    """Unpack a zip of regular files and folders; nothing is written if it has anything else.

    Returns:
        The number of files.

    Raises:
        SetupError: source_fetch, naming the entry that is refused.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = bundle.infolist()
            _refuse_unsafe(entries)
            os.makedirs(target_dir)
            for entry in entries:
                _unpack_entry(bundle, entry, target_dir)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise failed(f"the archive cannot be read: {error}") from error
    return sum(not entry.is_dir() for entry in entries)


def _refuse_unsafe(entries: List[zipfile.ZipInfo]) -> None:
    files: Set[str] = set()
    folders: Set[str] = set()
    for entry in entries:
        name = entry.filename.rstrip("/") if entry.is_dir() else entry.filename
        parts = name.split("/")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        expected = stat.S_IFDIR if entry.is_dir() else stat.S_IFREG
        if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
            raise failed(f"the archive is refused: entry {entry.filename!r} leaves its folder")
        if kind not in (0, expected):
            raise failed(
                f"the archive is refused: entry {entry.filename!r} is neither a regular file nor "
                f"a folder (mode {entry.external_attr >> 16:o})"
            )
        parents = {"/".join(parts[:count]) for count in range(1, len(parts))}
        twice = name in files or (not entry.is_dir() and name in folders)
        if twice or parents & files:
            raise failed(f"the archive is refused: entry {entry.filename!r} is there twice")
        folders |= parents
        (folders if entry.is_dir() else files).add(name)


def _unpack_entry(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, target_dir: str) -> None:
    path = os.path.join(target_dir, *entry.filename.split("/"))
    if entry.is_dir():
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    mode = 0o755 if (entry.external_attr >> 16) & 0o111 else 0o644
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with bundle.open(entry) as content, os.fdopen(fd, "wb") as out:
        shutil.copyfileobj(content, out, 1024 * 1024)
