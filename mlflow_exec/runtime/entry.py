"""The first step inside the cluster; starts ``job.py`` or ``model_server.py`` beside it.

``python3 -I -S -u <folder>/entry.py <order>``, where the order is a path to a JSON file or
``env:NAME``, runs a job: see ``job.py`` for what it does and ``job_order.py`` for the order.
``entry.py prepare <order>`` and ``entry.py serve <order>`` are of a model: ``model_server.py``.
"""

from __future__ import annotations

import os
import signal
import sys

_EXIT_STOPPED = 143  # as in end.py, which is not imported yet


def main(argv: list[str]) -> int:
    """Run the job, or prepare or serve the model; return the exit code of the container."""
    import importlib
    import types

    # The files lie alone in some folder of the container: they become a package of their own,
    # so that they import each other relatively, here as within mlflow_exec.
    package = types.ModuleType("mlflow_exec_job")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[package.__name__] = package
    name = "model_server" if argv[:1] in (["prepare"], ["serve"]) else "job"
    step = importlib.import_module(f"mlflow_exec_job.{name}")
    code: int = step.main(argv)
    return code


if __name__ == "__main__":
    # The first process of a container is not ended by a signal that it does not handle, and waits
    # for SIGKILL. The imports take a tenth of a second, in which nothing has begun that must be
    # tidied up.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(_EXIT_STOPPED))
    sys.exit(main(sys.argv[1:]))
