"""Fail where a file has over 400 lines or a function over 60; `make check` runs it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
_ROOT = Path(__file__).resolve().parent.parent
_FOLDERS = ("mlflow_exec", "tests", "examples", "benchmarks", "docs", "scripts")


def too_long(path: Path) -> Iterator[str]:
    """Yield a sentence for the file, and for each function in it, that is over its limit."""
    text = path.read_text(encoding="utf-8")
    shown = path.relative_to(_ROOT)
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{shown}: {lines} lines; at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield (
                    f"{shown}:{node.lineno}: {node.name} has {length} lines; "
                    f"at most {MAX_FUNCTION_LINES}"
                )


def main() -> int:
    """Check every Python file of the project; returns the exit code."""
    files = sorted(path for folder in _FOLDERS for path in (_ROOT / folder).rglob("*.py"))
    found = [sentence for path in files for sentence in too_long(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
