"""What runs inside the cluster.

The files named by ``RUNTIME_FILES`` are put side by side into the job's container and started
with ``python3 -I -S -u <folder>/entry.py <order>``. They need Python 3.8 or newer and its standard
library, nothing else; so they import only each other, and only relatively.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

RUNTIME_FILES = (
    "entry.py",
    "job.py",
    "model_server.py",
    "end.py",
    "job_order.py",
    "rest.py",
    "run_record.py",
    "tracking_server.py",
    "job_log.py",
    "masking.py",
    "secret_values.py",
    "token_file.py",
    "token_provider.py",
    "log_upload.py",
    "processes.py",
    "source_fetch.py",
    "environment.py",
    "environment_cache.py",
    "environment_entries.py",
    "environment_key.py",
    "packed_environment.py",
    "requirements.py",
    "file_lock.py",
    "command.py",
)
"""Every file of the first step, ``entry.py`` first; all of them are to be injected."""

FINAL_EXIT_CODES = (81, 82, 83, 84, 86, 87)
"""Exit codes of ``entry.py`` after which the end was written (``end.py``): no retry follows."""


@lru_cache(maxsize=None)
def read(name: str) -> str:
    """Return the text of one of ``RUNTIME_FILES``; each is read once in a process."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
