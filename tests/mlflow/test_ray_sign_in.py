"""A job on the Ray of this machine, which reads the submitter's own token file."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from tests.guarded_server import guarded
from tests.mlflow.ray_runs import RayRuns
from tests.mlflow.renewed_tokens import (
    FIRST,
    nested_tags,
    outlives_its_token,
    sign_in_by_file,
)
from tests.servers import MlflowServer


def test_a_job_outlives_its_token_which_is_renewed_in_its_file(
    ray: RayRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "the-token"
    token.write_text(FIRST)
    sign_in_by_file(monkeypatch, token)
    with guarded(lambda _: False, ray.server.url) as guard:
        ray.server = MlflowServer(guard.url, ray.server.dir)
        mlflow.set_tracking_uri(guard.url)
        run = outlives_its_token(ray, guard, token, str(token))
        tags = nested_tags(ray, run)
    assert tags["mlflow_exec.job"] == f"mlflow-{run.info.run_id}-1"
    assert tags["mlflow_exec.ray.submission_id"] == f"mlflow-{run.info.run_id}-1"
