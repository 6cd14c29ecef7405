"""What of a model's folder goes to a cluster, and whether it is the same as before."""

from __future__ import annotations

import compileall
from pathlib import Path

from mlflow_exec.shipping import content_hash, files_below


def test_a_model_that_was_loaded_is_the_same_as_before(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}")
    (tmp_path / "code" / "own").mkdir(parents=True)
    source = tmp_path / "code" / "own" / "answers.py"
    source.write_text("ANSWER = 42\n")
    files, hashed = files_below(tmp_path), content_hash(tmp_path)
    assert sorted(files) == ["MLmodel", "code/own/answers.py"]
    assert hashed[1] == sum(map(len, files.values()))

    assert compileall.compile_dir(tmp_path, quiet=1)
    assert list(tmp_path.rglob("__pycache__/*.pyc"))
    assert (files_below(tmp_path), content_hash(tmp_path)) == (files, hashed)

    source.write_text("ANSWER = 43\n")
    assert content_hash(tmp_path) != hashed
