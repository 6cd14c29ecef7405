"""The job's first step inside the cluster; starts ``job.py`` beside it.

``python3 -I -S -u <folder>/entry.py <order>``, where the order is a path to a JSON file or
``env:NAME``. See ``job.py`` for what it does and ``job_order.py`` for the order.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import List


def main(argv: List[str]) -> int:
    """Run the job and return the exit code of the container."""
    # The files lie alone in some folder of the container: they become a package of their own,
    # so that they import each other relatively, here as within mlflow_exec.
    package = types.ModuleType("mlflow_exec_job")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[package.__name__] = package
    job = importlib.import_module("mlflow_exec_job.job")
    code: int = job.main(argv)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
