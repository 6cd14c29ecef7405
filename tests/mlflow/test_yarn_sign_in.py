"""A job on YARN whose token is renewed in a file of its node."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import pytest

from tests.guarded_server import guarded
from tests.mlflow.renewed_tokens import (
    FIRST,
    TOKEN,
    nested_tags,
    outlives_its_token,
    sign_in_by_file,
)
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer


def test_a_job_outlives_its_token_which_is_renewed_in_its_file(
    yarn: YarnRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "the-token"
    token.write_text(FIRST)
    sign_in_by_file(monkeypatch, token)
    with guarded(lambda _: False, yarn.server.url) as guard:
        yarn.server = MlflowServer(guard.url, yarn.server.dir)
        mlflow.set_tracking_uri(guard.url)
        run = outlives_its_token(
            yarn, guard, token, str(token), sys.executable, secrets={TOKEN: {"file": str(token)}}
        )
        tags = nested_tags(yarn, run)
    assert tags["mlflow_exec.yarn.application_id"].startswith("application_")
    assert tags["mlflow_exec.yarn.node"]
