"""Builds a packed environment on this machine, which has to be like the nodes."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.runtime.environment import EnvironmentBuilder
from mlflow_exec.runtime.file_lock import FileLock
from mlflow_exec.runtime.job_log import JobLog
from mlflow_exec.runtime.job_order import EnvironmentSpec, SetupError
from mlflow_exec.runtime.processes import DeadlineOver, Runner, StopSignal
from mlflow_exec.runtime.source_fetch import unpack
from mlflow_exec.schedulers.yarn.packing import (
    Packing,
    environment_of,
    project_folder,
    variables_of,
)
from mlflow_exec.schedulers.yarn.packing_store import Hdfs, clean, find, put
from mlflow_exec.settings import GIB

_POLL_S = 0.2
_SAY_EVERY_S = 30.0
_TERM_GRACE_S = 5.0
_UNUSED_S = 7 * 86400.0
_UNUSED_UPLOAD_S = 30 * 86400.0
_ABANDONED_S = 86400.0
_MIB = 1024**2
_PARTIAL = ".part"
_LOCK = ".lock"
_PACKERS = {
    "venv-pack": ("venv_pack", ()),
    # Files that pip has replaced in conda's own packages are packed as they are.
    "conda-pack": ("conda_pack.cli", ("--ignore-missing-files", "--n-threads=-1")),
}
_WAY_ON = (
    "What is packed is built on the submitting machine, which has to be like the nodes; "
    "'environment': 'build' builds on the nodes instead"
)


def local_folder() -> Path:
    """Return where archives are kept on this machine."""
    return Path("~/.cache/mlflow-exec/packed").expanduser()


def provide(
    hdfs: Hdfs,
    folder: str,
    packing: Packing,
    spec: JobSpec,
    local: Path,
    say: Callable[[str], None],
    *,
    secrets: Mapping[str, Secret] | None = None,
    max_age_s: float = 86400,
    limit_bytes: int = 20 * GIB,
    timeout_s: float = 3600,
) -> str:
    """Return the URI of an environment in HDFS; what is not there is packed and uploaded.

    An upload makes room, too: see `clean`. Other args and errors are those of `pack` and `put`;
    ``folder`` is the one in HDFS.
    """
    found = find(hdfs, folder, packing, max_age_s)
    if found is not None:
        return found
    path = pack(
        packing, spec, local, say, secrets=secrets, max_age_s=max_age_s, timeout_s=timeout_s
    )
    say(f"environment: uploading it to {folder}, {path.stat().st_size / _MIB:.0f} MiB")
    uri = put(hdfs, folder, packing, path, max_age_s)
    clean(hdfs, folder, _UNUSED_UPLOAD_S, limit_bytes)
    return uri


def pack(
    packing: Packing,
    spec: JobSpec,
    folder: Path,
    say: Callable[[str], None],
    *,
    secrets: Mapping[str, Secret] | None = None,
    max_age_s: float = 86400,
    timeout_s: float = 3600,
) -> Path:
    """Return the archive of an environment, built if it is not there or too old.

    Of several processes that need the same one, one builds and the others wait.

    Args:
        packing: What `describe` said of the job.
        spec: The job.
        folder: Keeps archives for later jobs; made, for this user only, where it is not there.
        say: Told what is being done, in lines for people.
        secrets: Variables that requirements may name; those of the job if None.
        max_age_s: How long one is used whose requirements do not all name one version.
        timeout_s: How long it may take.

    Raises:
        ConfigError: It cannot be built here; the message has the installer's last lines.
    """
    deadline_s = time.monotonic() + timeout_s
    _make_private(folder)
    path = folder / packing.file_name
    with _building(path, say, deadline_s):
        if _is_fresh(path, packing, max_age_s):
            _note_use(path)
            return path
        start_s = time.monotonic()
        say(f"environment: building and packing it here ({packing.kind}); this may take minutes")
        given = spec.secrets if secrets is None else secrets
        revealed = {name: secret.reveal() for name, secret in given.items()}
        with _work_in_progress(path) as partial:
            python = _built(packing, spec, partial, revealed, deadline_s)
            os.chmod(partial, 0o600)
            os.replace(partial, path)
        size_mib = path.stat().st_size / _MIB
        say(f"environment: packed in {time.monotonic() - start_s:.0f} s, {size_mib:.0f} MiB")
        if python:
            say(f"environment: the nodes need the Python that it was built with, at {python}")
        _drop_unused(folder)
        return path


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.lstat()
    except OSError as error:
        raise ConfigError(f"environment: {folder} cannot be made: {error}") from error
    if info.st_uid != os.geteuid() or not folder.is_dir() or folder.is_symlink():
        raise ConfigError(
            f"environment: {folder} is to keep packed environments, but is not a folder of this "
            f"user's own; remove it"
        )
    if info.st_mode & 0o077:
        folder.chmod(0o700)


@contextmanager
def _building(path: Path, say: Callable[[str], None], deadline_s: float) -> Iterator[None]:
    """Hold the lock of who builds an archive."""
    lock = FileLock(f"{path}{_LOCK}")
    said_s = 0.0
    while not lock.try_exclusive():
        now_s = time.monotonic()
        if now_s > deadline_s:
            raise ConfigError(
                f"environment: another process on this machine builds {path.name}, and has not "
                f"finished in time; see what holds {path}{_LOCK}"
            )
        if now_s - said_s > _SAY_EVERY_S:
            said_s = now_s
            say("environment: another process builds the same one; waiting for it")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.remove()


@contextmanager
def _work_in_progress(path: Path) -> Iterator[Path]:
    """Yield where to write an archive that is not finished; nothing of it is left."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _is_fresh(path: Path, packing: Packing, max_age_s: float) -> bool:
    try:
        built_s = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return packing.pinned or time.time() - built_s <= max_age_s


def _note_use(path: Path) -> None:
    with suppress(OSError):
        os.utime(path, (time.time(), path.stat().st_mtime))


def _drop_unused(folder: Path) -> None:
    """Remove archives that nobody used for long, and what killed builds left behind."""
    for path in folder.iterdir():
        with suppress(OSError):
            info = path.stat()
            last_s = max(info.st_atime, info.st_mtime)
            keep_s = _ABANDONED_S if path.name.endswith(_PARTIAL) else _UNUSED_S
            if path.name.endswith((".tar.gz", _PARTIAL)) and time.time() - last_s > keep_s:
                path.unlink()


def _built(
    packing: Packing, spec: JobSpec, out: Path, secrets: Mapping[str, str], deadline_s: float
) -> str:
    """Build the environment in a temporary folder and pack it; returns the Python it links to."""
    stop = StopSignal()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    log = JobLog(None, nowhere)
    log.hide(secrets.values())
    runner = Runner(log, stop, deadline_s, _TERM_GRACE_S)
    try:
        # The place is in the first line of every script, which has a limit.
        with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as scratch:
            return _built_in(Path(scratch), packing, spec, out, secrets, runner)
    except SetupError as error:
        raise ConfigError(f"{error.end.message}\n{packing.kind}: {_WAY_ON}") from error
    except DeadlineOver:
        raise ConfigError(
            f"environment: {packing.kind}: building and packing it took too long and was ended; "
            f"{_WAY_ON}"
        ) from None
    finally:
        os.close(nowhere)
        stop.close()


def _built_in(
    scratch: Path,
    packing: Packing,
    spec: JobSpec,
    out: Path,
    secrets: Mapping[str, str],
    runner: Runner,
) -> str:
    root = scratch / "source"
    if spec.bundle is not None:
        unpack(str(spec.bundle.path), str(root))
    project = root / project_folder(spec)
    project.mkdir(parents=True, exist_ok=True)
    env = {
        **variables_of(spec),
        **secrets,
        "UV_COMPILE_BYTECODE": "1",
        # Links into the installer's cache would lead nowhere on a node.
        "UV_LINK_MODE": "hardlink",
    }
    environment = environment_of(spec)
    builder = EnvironmentBuilder(environment, str(project), str(scratch), runner, env)
    _check_tools(builder, environment)
    builder.build()
    built = scratch / "env"
    _make_portable(built)
    module, options = _PACKERS[packing.kind]
    argv = [
        *(sys.executable, "-m", module, "--prefix", str(built), "--output", str(out)),
        *("--format", "tar.gz", "--force", "--quiet", *options),
    ]
    # What a killed packer leaves goes with the folder.
    packer_env = {**os.environ, "TMPDIR": str(scratch)}
    outcome = runner.run(argv, str(scratch), packer_env)
    if outcome.returncode != 0 or not out.is_file():
        raise ConfigError(
            f"environment: {packing.kind} failed (exit code {outcome.returncode}): {outcome.tail}"
        )
    python = os.path.realpath(built / "bin" / "python")
    return "" if Path(python).is_relative_to(os.path.realpath(built)) else python


def _check_tools(builder: EnvironmentBuilder, environment: EnvironmentSpec) -> None:
    """Refuse what this machine lacks, where the builder speaks of a node or its image."""
    try:
        builder.tool()
    except SetupError as error:
        raise ConfigError(
            "environment: the project wants conda, but this machine has neither conda, mamba nor "
            f"micromamba on PATH. {_WAY_ON}"
        ) from error
    if environment.manager == "conda":
        return
    try:
        found = builder.interpreter()
    except SetupError:
        found = None
    if found is None:
        raise ConfigError(
            f"environment: the project wants Python {environment.python}, which this machine does "
            f"not have; a packed environment needs it here and on the nodes. {_WAY_ON}"
        )


def _make_portable(prefix: Path) -> None:
    """Rewrite the scripts' second form of a first line, which the packers do not know.

    Installers use it where the place is long: a shell that starts the environment's Python.
    """
    place = re.escape(os.fsencode(prefix / "bin"))
    shell_line = re.compile(
        rb"\A#!/bin/sh\n'''exec' [\"']?" + place + rb"/([^\"' \n]+)[\"']?[^\n]*\n' '''\n"
    )
    for path in (prefix / "bin").iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(9) != b"#!/bin/sh":
                continue
        content = path.read_bytes()
        portable = shell_line.sub(rb"#!/usr/bin/env \1\n", content)
        if portable != content:
            path.write_bytes(portable)
