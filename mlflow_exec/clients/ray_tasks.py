"""Work on a Ray as its tasks: what they share travels once. The only place that imports Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mlflow_exec.errors import ConfigError, UnreachableError
from mlflow_exec.registry import missing_extra

T = TypeVar("T")
R = TypeVar("R")

_THIS_MACHINE = "local"
_MODEL_CODE = "code_model_"
_TRIES = 3
_PACKAGE = Path(__file__).resolve().parents[1]


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Hold a connection to a Ray.

    Args:
        address: As of `ray.init`, such as ``ray://host:10001`` or ``auto``. Where it is None the
            Ray that this process uses already, that of ``RAY_ADDRESS``, or one that is started on
            this machine and stopped in the end.

    Raises:
        MissingExtraError: The Python package ``ray`` is not installed.
        UnreachableError: It does not answer.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing_extra("ray", error) from error
    if ray.is_initialized():
        yield
        return
    place = address or os.environ.get("RAY_ADDRESS") or _THIS_MACHINE
    # Ray would else warn of a default that is to change, and touch this process' variables.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if place == _THIS_MACHINE:
        options["include_dashboard"] = False
    else:  # the nodes have our dependencies, which are MLflow's, but perhaps not us
        options["runtime_env"] = {"py_modules": [str(_PACKAGE)]}
    try:
        for left in reversed(range(_TRIES)):
            try:
                ray.init(address=place, **options)
                break
            except ConnectionAbortedError:  # what Ray starts for each client has not started
                if not left:
                    raise
    except Exception as error:
        raise UnreachableError(
            f"ray: {place!r} does not answer: {_shortened(error)}; name it as 'ray_address' "
            "(ray://host:10001), or leave that out for a Ray on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def results(
    function: Callable[[Any, T], R], shared: Any, items: Sequence[T]
) -> Iterator[tuple[int, R | Exception]]:
    """Yield the position of each item and what a function of it returns, as tasks end.

    Args:
        function: Of what all tasks share, and an item.
        shared: It is sent once. Its arrays are read where they are, and cannot be changed there.
        items: One task each.

    Raises:
        ConfigError: What is to be sent cannot be pickled.
    """
    import ray

    task = ray.remote(max_retries=1)(function)  # one more try for a worker that died
    try:
        with _sent_by_value():
            reference = ray.put(shared)
        running = {task.remote(reference, item): n for n, item in enumerate(items)}
    except Exception as error:
        cause: BaseException = error  # Ray looks for what it is, and can fail at that
        while cause.__context__ is not None:
            cause = cause.__context__
        raise ConfigError(f"ray: the work cannot be sent there: {_shortened(cause)}") from error
    while running:
        [done], _ = ray.wait(list(running), num_returns=1)
        position = running.pop(done)
        try:
            yield position, ray.get(done)
        except Exception as error:  # a task's own, or that of a worker that died
            yield position, error


@contextmanager
def _sent_by_value() -> Iterator[None]:
    """Have the code of models travel with them: MLflow loads it as modules of this process only."""
    from ray import cloudpickle

    # The `code_paths` of a model: MLflow puts that folder of it on the path.
    folders = [Path(place) for place in sys.path if Path(place, "..", "MLmodel").is_file()]
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    modules = [
        sys.modules[name]
        for name, file in files.items()
        if name.startswith(_MODEL_CODE)
        or any(file and Path(file).is_relative_to(folder) for folder in folders)
    ]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _shortened(error: BaseException) -> str:
    """Return what an error says in one line; Ray's begin with the place and end with the reason."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:100]} … {text[-300:]}"
