"""Prepares what a model needs, and becomes the server that answers with it.

Two containers of a pod run it with the same order and the same folder: ``prepare`` in the first one
builds the environment and brings the model's files there, ``serve`` finds both and gives its
process to the server. What another pod on the same disk has prepared is taken from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from .end import EXIT_STOPPED
from .environment import Environment
from .environment_cache import Environments
from .file_lock import FileLock
from .job import announce
from .job_log import JobLog
from .job_order import (
    FORMAT,
    EnvironmentCacheSpec,
    EnvironmentSpec,
    SecretSource,
    SetupError,
    build_part,
    invalid,
    order_text,
)
from .processes import Runner, Stopped, StopSignal
from .secret_values import resolve, to_mask
from .source_fetch import download_by_mlflow, unpack

_POLL_S = 0.2
_TERM_GRACE_S = 5.0
_MODEL_FILE = "MLmodel"
_NO_MLFLOW = "No module named 'mlflow'"


@dataclass(frozen=True)
class ModelFiles:
    """A model's files: where they come from, and where they are kept.

    Attributes:
        uri: What the environment's own MLflow downloads.
        path: The folder in which the server finds them; its name is the content's.
        package: A zip file with them that came along, in place of a download.
    """

    uri: str
    path: str
    package: Optional[str] = None


@dataclass(frozen=True)
class ServeOrder:
    """What the two containers are told.

    Attributes:
        model: The model's files; none for a router.
        command: The arguments of the environment's Python that start the server.
        environment: The Python environment.
        environment_cache: Where it is kept.
        python_path: What the server imports before what its environment has.
        secrets: Secret variables of both containers.
        secret_names: Variables of the container that are secrets, too; masked in the log.
        format: The version of this format.
    """

    model: Optional[ModelFiles]
    command: Tuple[str, ...]
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)
    environment_cache: Optional[EnvironmentCacheSpec] = None
    python_path: Optional[str] = None
    secrets: Dict[str, SecretSource] = field(default_factory=dict)
    secret_names: Tuple[str, ...] = ()
    format: int = FORMAT

    @classmethod
    def from_json(cls, text: str) -> ServeOrder:
        """Read and check an order.

        Raises:
            SetupError: It is not JSON, of another format, or has a key or a value that is unknown.
        """
        try:
            data = json.loads(text)
            parts = dict(data)
        except (ValueError, TypeError) as error:
            raise invalid(f"no JSON object: {error}") from error
        if parts.get("format") != FORMAT:
            raise invalid(f"format {FORMAT} is expected; {parts.get('format')!r}")
        if parts.get("model") is not None:
            parts["model"] = build_part(ModelFiles, "model", parts["model"])
        parts["environment"] = build_part(
            EnvironmentSpec, "environment", parts.get("environment") or {}
        )
        if parts.get("environment_cache") is not None:
            parts["environment_cache"] = build_part(
                EnvironmentCacheSpec, "environment_cache", parts["environment_cache"]
            )
        parts["secrets"] = {
            name: build_part(SecretSource, f"secrets.{name}", source)
            for name, source in dict(parts.get("secrets") or {}).items()
        }
        return build_part(cls, "", parts)


def main(argv: List[str]) -> int:
    """Carry out ``prepare <order>`` or ``serve <order>``; the order as ``job_order`` reads it.

    Returns:
        The container's exit code: 0 once everything is prepared, one of ``RESERVED_EXIT_CODES``,
        or ``EXIT_STOPPED``. The server never returns here.
    """
    stop, log = StopSignal(), JobLog(None)
    try:
        stop.install()
        return _carry_out(argv[0], argv[1:], stop, log)
    except Stopped:
        return EXIT_STOPPED
    except SetupError as error:
        end = log.masked(error.end)
    except Exception as error:
        log.say(traceback.format_exc())
        message = f"The first step failed itself: {type(error).__name__}: {error}"
        end = log.masked(SetupError("infrastructure", message, "The log has the traceback.").end)
    announce(log, end)
    return end.exit_code or 1


def _carry_out(verb: str, argv: List[str], stop: StopSignal, log: JobLog) -> int:
    environ = dict(os.environ)
    order = ServeOrder.from_json(order_text(argv, environ))
    secrets, missing = resolve(order.secrets, environ)
    environ.update(secrets)
    log.hide(to_mask([*order.secrets, *order.secret_names], environ))
    if missing is not None:
        raise missing
    environ.setdefault("PYTHONUNBUFFERED", "1")
    _check_python(order.environment)
    scratch_dir = tempfile.mkdtemp(prefix="mlflow-exec-")
    runner = Runner(log, stop, None, _TERM_GRACE_S)
    try:
        cache = order.environment_cache
        if cache is not None:
            os.makedirs(cache.path, exist_ok=True)
        environments = Environments(order.environment, cache, scratch_dir, runner, environ)
        try:
            environment = environments.prepare(scratch_dir)
            env = environment.apply(environ)
            if order.model is not None:
                _bring(order.model, runner, env)
            if verb == "prepare":
                return 0
            environments.hand_over()
        except BaseException:
            environments.close()
            raise
        _become_server(order, environment, env, log)
    finally:
        shutil.rmtree(scratch_dir, ignore_errors=True)
    return 1  # never: the process is another program now


def _check_python(spec: EnvironmentSpec) -> None:
    """Refuse a model that another minor version of Python has written, where none is brought.

    Raises:
        SetupError: invalid_config.
    """
    here = "{}.{}".format(*sys.version_info[:2])
    wanted = ".".join(spec.python.split(".")[:2]) if spec.python else here
    if spec.manager == "local" and wanted != here:
        raise SetupError(
            "invalid_config",
            f"environment: the model was logged with Python {wanted}, the image has {here}.",
            "Use an image with that Python, 'environment: uv', or 'any_python: true'.",
        )


def _bring(model: ModelFiles, runner: Runner, env: Dict[str, str]) -> None:
    """See that the model's files are there; whoever is first brings them, the others wait.

    Raises:
        SetupError: source_fetch or environment_setup.
    """
    os.makedirs(os.path.dirname(model.path), exist_ok=True)
    lock = FileLock(model.path + ".lock")
    while not lock.try_exclusive():
        runner.pause(_POLL_S)
    try:
        if os.path.isfile(os.path.join(model.path, _MODEL_FILE)):
            return
        part = model.path + ".part"
        shutil.rmtree(part, ignore_errors=True)
        found = _fetched(model, part, runner, env)
        if not os.path.isfile(os.path.join(found, _MODEL_FILE)):
            raise SetupError(
                "source_fetch",
                f"model: {model.uri} has no file {_MODEL_FILE}.",
                "Give the URI of the model's own folder.",
            )
        shutil.rmtree(model.path, ignore_errors=True)
        os.replace(found, model.path)
        shutil.rmtree(part, ignore_errors=True)
        runner.log.say(f"model: {model.uri} is in {model.path}")
    finally:
        lock.release()


def _fetched(model: ModelFiles, part: str, runner: Runner, env: Dict[str, str]) -> str:
    """Return where the model's files are at first, below the folder ``part`` or that itself."""
    if model.package is not None:
        unpack(model.package, part)
        return part
    os.makedirs(part)
    runner.log.say(f"model: downloading {model.uri}")
    try:
        return download_by_mlflow(model.uri, part, runner, env)
    except SetupError as error:
        if _NO_MLFLOW in error.end.message:
            raise SetupError(
                "environment_setup",
                "environment: the Python in which the model is to run has no mlflow.",
                "With 'environment: local' the image needs it; with 'uv' the model's requirements.",
            ) from error
        raise SetupError(
            "source_fetch",
            error.end.message.replace("source: ", "model: ", 1),
            "Can the pods reach the tracking server and its artifact store, with what rights?",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part + ".path")


def _become_server(
    order: ServeOrder, environment: Environment, env: Dict[str, str], log: JobLog
) -> None:
    """Give this process to the server.

    Raises:
        SetupError: environment_setup; it cannot be started.
    """
    python = sys.executable
    if order.environment.manager != "local" and environment.bin_dir is not None:
        python = os.path.join(environment.bin_dir, "python")
    if order.python_path is not None:
        before = env.get("PYTHONPATH")
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [order.python_path, before]))
    log.say("server: " + " ".join([python, *order.command]))
    try:
        os.execve(python, [python, *order.command], env)
    except OSError as error:
        raise SetupError(
            "environment_setup", f"server: {python} cannot be started: {error}."
        ) from error
