"""Fail where the code that runs inside the cluster needs more than Python 3.8 by itself.

`make check` runs it. It reads which modules are imported, then imports the files alone in an empty
folder with ``python -I -S``: by this Python, and by a Python 3.8 where this machine has one (named
by PYTHON38, on PATH, or of pyenv).
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow_exec import runtime

# Methods that came after 3.8 and that no syntax check sees.
_TOO_NEW = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "readlink", "pairwise"}
_IMPORT_ALL = (
    "import importlib, sys, types\n"
    "package = types.ModuleType('mlflow_exec_job'); package.__path__ = [sys.argv[1]]\n"
    "sys.modules[package.__name__] = package\n"
    "for name in sys.argv[2:]: importlib.import_module('mlflow_exec_job.' + name)\n"
    "outside = [m for m in sys.modules if m.split('.')[0] in ('mlflow', 'mlflow_exec', 'yaml')]\n"
    "sys.exit(f'loaded: {outside}' if outside else 0)\n"
)


def needs_more(name: str) -> Iterator[str]:
    """Yield a sentence for each thing in one file that Python 3.8 by itself does not have."""
    for node in ast.walk(ast.parse(runtime.read(name), feature_version=(3, 8))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        elif isinstance(node, ast.Attribute) and node.attr in _TOO_NEW:
            yield f"runtime/{name}:{node.lineno}: .{node.attr} came after Python 3.8"
            continue
        else:
            continue
        for module in modules:
            if module.partition(".")[0] not in sys.stdlib_module_names:
                yield f"runtime/{name}:{node.lineno}: {module} is not of the standard library"


def import_failure(python: str) -> str:
    """Import every file alone in an empty folder; returns what failed, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        for name in runtime.RUNTIME_FILES:
            Path(folder, name).write_text(runtime.read(name), encoding="utf-8")
        modules = [Path(name).stem for name in runtime.RUNTIME_FILES]
        done = subprocess.run(
            [python, "-I", "-S", "-c", _IMPORT_ALL, folder, *modules],
            cwd=folder, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    return f"{python} -I -S: {done.stderr.strip()}" if done.returncode else ""


def oldest_python() -> str | None:
    """Return a Python 3.8 of this machine, or None."""
    of_pyenv = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python"))
    for candidate in (os.environ.get("PYTHON38"), shutil.which("python3.8"), *of_pyenv):
        if candidate and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return str(candidate)
    return None


def main() -> int:
    """Check every file; returns the exit code."""
    found = [sentence for name in runtime.RUNTIME_FILES for sentence in needs_more(name)]
    for python in (sys.executable, oldest_python()):
        if python and (failure := import_failure(python)):
            found.append(failure)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
