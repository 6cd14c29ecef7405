"""The job order: what the job's first step is told to do.

One JSON object. :meth:`JobOrder.from_json` refuses what it does not understand before anything is
touched; :meth:`JobOrder.to_json` writes it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

from .end import RESERVED_EXIT_CODES, End

FORMAT = 1

_T = TypeVar("_T")


class SetupError(Exception):
    """The job cannot go on before or beside its entry point; carries the end to write.

    Args:
        category: One of the categories of ``RESERVED_EXIT_CODES``.
        message: One sentence for the user.
        hint: The way on.
    """

    def __init__(self, category: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        exit_code = next(code for code, name in RESERVED_EXIT_CODES.items() if name == category)
        self.end = End("FAILED", category, message, hint, exit_code)


def invalid(message: str, hint: str = "") -> SetupError:
    """Return the error for an order that cannot be carried out."""
    return SetupError("invalid_config", f"job order: {message}", hint)


def order_text(argv: List[str], environ: Dict[str, str]) -> str:
    """Return the text of an order; one that came in a variable is taken out of ``environ``.

    Raises:
        SetupError: invalid_config.
    """
    if len(argv) != 1:
        raise invalid(f"one argument is expected, a path or env:NAME; {argv}")
    kind, _, name = argv[0].partition(":")
    if kind == "env":
        text = environ.pop(name, None)
        if text is None:
            raise invalid(f"the environment variable {name} is not set")
        return text
    try:
        with open(argv[0], encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(f"it cannot be read: {error}") from error


@dataclass(frozen=True)
class Source:
    """Where the project's files come from.

    Attributes:
        kind: ``archive`` (a zip) or ``directory`` (already in the job's file system).
        path: A local archive, or the directory.
        url: Archive: an http(s) URL.
        url_env: Archive: the environment variable that holds a presigned URL.
        artifact_path: Archive: a path below the run's artifact root.
        mlflow_uri: Archive: any URI that the image's own MLflow can download.
        sha256: Archive: its digest, 64 hex digits.
        subdirectory: The project's folder inside, ``""`` for the root.
        copy: Directory: whether to work on a private copy.
        exclude: Directory: names at its root that a copy leaves out.
    """

    kind: str
    path: Optional[str] = None
    url: Optional[str] = None
    url_env: Optional[str] = None
    artifact_path: Optional[str] = None
    mlflow_uri: Optional[str] = None
    sha256: Optional[str] = None
    subdirectory: str = ""
    copy: bool = False
    exclude: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ways = ("path", "url", "url_env", "artifact_path", "mlflow_uri")
        given = [way for way in ways if getattr(self, way) is not None]
        if self.kind not in ("archive", "directory"):
            raise invalid(f"source.kind must be 'archive' or 'directory'; {self.kind!r}")
        if self.kind == "directory" and given != ["path"]:
            raise invalid(f"source of kind 'directory' needs 'path' alone; {given}")
        if self.kind == "archive" and len(given) != 1:
            raise invalid(f"source of kind 'archive' needs exactly one of {ways}; {given}")
        if self.kind == "archive" and not self.sha256:
            raise invalid("source of kind 'archive' needs 'sha256'; it was not given")


@dataclass(frozen=True)
class EntryPoint:
    """The command of the entry point and its parameters.

    Attributes:
        command: The command with ``{name}`` fields.
        parameters: name -> ``{"value": text, "type": "string" | "float" | "path" | "uri"}``; the
            value of a bundled path is ``{"bundled": "path inside the project"}``.
        extra: Parameters that the entry point does not declare; appended as ``--name value``.
    """

    command: str
    parameters: Dict[str, Any] = field(default_factory=dict)
    extra: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvironmentSpec:
    """The Python environment of the entry point.

    Attributes:
        manager: ``local`` (the image as it is), ``virtualenv``, ``uv``, ``conda``, or ``packed``
            (built before, by venv-pack or conda-pack).
        python: The Python version wanted, None for the image's own.
        build_dependencies: Requirement lines installed first.
        dependencies: Requirement lines; ``-r file`` is relative to the project.
        conda_file: The conda environment file, relative to the project.
        path: Of ``packed``: its unpacked folder, relative to the folder that the first step is
            started in; it need not be writable.
    """

    manager: str = "local"
    python: Optional[str] = None
    build_dependencies: Tuple[str, ...] = ()
    dependencies: Tuple[str, ...] = ()
    conda_file: Optional[str] = None
    path: Optional[str] = None

    def __post_init__(self) -> None:
        if self.manager not in ("local", "virtualenv", "uv", "conda", "packed"):
            raise invalid(
                f"environment.manager must be local, virtualenv, uv, conda or packed; "
                f"{self.manager!r}"
            )
        if (self.manager == "packed") != bool(self.path):
            raise invalid("environment.path is needed by manager 'packed', and by no other")
        if self.manager == "conda" and not self.conda_file:
            raise invalid("environment.conda_file is needed by manager 'conda'; it was not given")


@dataclass(frozen=True)
class EnvironmentCacheSpec:
    """A folder that keeps built environments for later jobs.

    Attributes:
        path: The folder, on a disk that outlives the job; ``~`` is the home of the job's user.
        limit_bytes: What the environments of one user in it may use together.
        max_age_s: How long one is used whose requirements do not all name one version.
    """

    path: str
    limit_bytes: int
    max_age_s: float = 86400


@dataclass(frozen=True)
class SecretSource:
    """Where the job finds the value of a secret variable: exactly one of the two.

    Attributes:
        env: A variable of the environment that the first step is started with.
        file: A file; ``~`` is the home of the job's user. Line ends at its end do not count.
    """

    env: Optional[str] = None
    file: Optional[str] = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise invalid("a secret needs exactly one of 'env' and 'file'")


@dataclass(frozen=True)
class Retry:
    """Who starts the entry point again after a failure.

    Attributes:
        owner: ``kubernetes`` (the Job controller), ``entry`` (the first step itself) or ``none``.
        retries: How many of the user's failures are followed by another start.
        infra_retries: Kubernetes: how many disruptions are.
        failure_count_env: Kubernetes: the variable with the user's failures so far.
        ignored_count_env: Kubernetes: the variable with the disruptions so far.
    """

    owner: str = "none"
    retries: int = 0
    infra_retries: int = 0
    failure_count_env: Optional[str] = None
    ignored_count_env: Optional[str] = None

    def __post_init__(self) -> None:
        if self.owner not in ("kubernetes", "entry", "none"):
            raise invalid(f"retry.owner must be kubernetes, entry or none; {self.owner!r}")


@dataclass(frozen=True)
class JobOrder:
    """Everything that the job's first step is told.

    Attributes:
        run_id: The MLflow run.
        experiment_id: Its experiment.
        source: Where the project comes from.
        entry_point: What to run.
        submission: Counts the submissions of the run, from 1.
        tracking_uri: MLFLOW_TRACKING_URI of the entry point; the first step itself writes to it
            only where it is http(s).
        artifact_uri: The run's artifact root; the log is uploaded only where the tracking server
            proxies it.
        environment: The Python environment.
        environment_cache: Where it is kept for later jobs; None where it is not.
        env: More environment variables of the entry point.
        secrets: Secret variables of the entry point, and of the first step itself.
        secret_names: Variables of the container that are secrets, too; masked in the log.
        retry: Who repeats it.
        deadline_s: Seconds after which the first step ends the job; None where the scheduler does.
        term_grace_s: Seconds between SIGTERM and SIGKILL for the entry point.
        log_part_interval_s: Seconds between uploads of the log.
        log_part_bytes: Bytes of the log that are uploaded without waiting for the interval.
        format: The version of this format.
    """

    run_id: str
    experiment_id: str
    source: Source
    entry_point: EntryPoint
    submission: int = 1
    tracking_uri: Optional[str] = None
    artifact_uri: Optional[str] = None
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)
    environment_cache: Optional[EnvironmentCacheSpec] = None
    env: Dict[str, str] = field(default_factory=dict)
    secrets: Dict[str, SecretSource] = field(default_factory=dict)
    secret_names: Tuple[str, ...] = ()
    retry: Retry = field(default_factory=Retry)
    deadline_s: Optional[float] = None
    term_grace_s: float = 10
    log_part_interval_s: float = 10
    log_part_bytes: int = 4 * 1024 * 1024
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the order as JSON; :meth:`from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobOrder:
        """Read and check an order.

        Raises:
            SetupError: It is not JSON, of another format, or has a key or a value that is unknown.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise invalid(f"not JSON: {error}") from error
        if not isinstance(data, dict):
            raise invalid(f"a JSON object is expected; {type(data).__name__}")
        if data.get("format") != FORMAT:
            raise invalid(
                f"format {FORMAT} is expected; {data.get('format')!r}",
                "Submit with the version of mlflow-exec whose runtime files are in the job.",
            )
        parts = dict(data)
        for name, part in _PARTS.items():
            if name in parts and (parts[name] is not None or name not in _NULLABLE):
                parts[name] = build_part(part, name, parts[name])
        if isinstance(parts.get("secrets"), dict):
            parts["secrets"] = {
                name: build_part(SecretSource, f"secrets.{name}", source)
                for name, source in parts["secrets"].items()
            }
        return build_part(cls, "", parts)


_PARTS: Dict[str, Type[Any]] = {
    "source": Source,
    "entry_point": EntryPoint,
    "environment": EnvironmentSpec,
    "environment_cache": EnvironmentCacheSpec,
    "retry": Retry,
}
_NULLABLE = ("environment_cache",)
_CHECKS: Dict[str, Tuple[Type[Any], ...]] = {
    "str": (str,),
    "Optional[str]": (str, type(None)),
    "int": (int,),
    "float": (int, float),
    "Optional[float]": (int, float, type(None)),
    "bool": (bool,),
    "Tuple[str, ...]": (list, tuple),
    "Dict[str, Any]": (dict,),
    "Dict[str, str]": (dict,),
    "Dict[str, SecretSource]": (dict,),
}


def build_part(kind: Type[_T], where: str, data: Mapping[str, Any]) -> _T:
    """Make the dataclass from a JSON object, checking names and types of its keys."""
    if not isinstance(data, dict):
        raise invalid(f"{where}: a JSON object is expected; {type(data).__name__}")
    prefix = f"{where}." if where else ""
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in data.items():
        if key not in fields:
            raise invalid(f"unknown key '{prefix}{key}'; known: {', '.join(sorted(fields))}")
        annotation = str(fields[key].type)
        expected = _CHECKS.get(annotation)
        wrong_bool = isinstance(value, bool) and annotation != "bool"
        if expected and (not isinstance(value, expected) or wrong_bool):
            raise invalid(f"'{prefix}{key}' must be {annotation}; {value!r}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise invalid(f"{where or 'the order'} is incomplete: {error}") from error
