"""What this process knows to be secret, and what it says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException
from rich.console import Console

from mlflow_exec.credentials import Secret, hide
from mlflow_exec.errors import ClusterError
from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.plugins.project_backend import execution_errors
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.ending import DIAGNOSIS, end_of, keep_diagnosis
from mlflow_exec.runs.progress import Progress


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """A value that was revealed for a request, beside the tracking server's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tracking-t0ken\n")
    return Secret.of("revealed-s3cret", "a test").reveal()


def test_a_text_is_told_without_what_is_known_to_be_secret(secret: str) -> None:
    told = hide(f"{secret}, Bearer tracking-t0ken, http://u:p@host/x")
    assert told == "***, Bearer ***, http://host/x"


def test_a_text_is_told_without_what_others_spell_in_their_way() -> None:
    """As a URL, a form or JSON does; a variable of the environment need not be UTF-8."""
    Secret.of('a/s3 "cret"&\udcff', "a test").reveal()
    told = hide(
        "https://h/?p=a/s3%20%22cret%22%26%FF, a%2Fs3%20%22cret%22%26%FF, a%2Fs3+%22cret%22%26%FF, "
        + json.dumps({"p": 'a/s3 "cret"&\udcff'})
    )
    assert told == 'https://h/?p=***, ***, ***, {"p": "***"}'


def test_a_url_is_told_without_what_signs_it() -> None:
    told = hide(
        "no answer from https://a/b?X-Amz-Date=1&X-Amz-Signature=0f&x-oss-security-token=t%2B, "
        "https://c/d?se=2026&sig=a%3D&comp=block, design=1"
    )
    assert told == (
        "no answer from https://a/b?X-Amz-Date=1&X-Amz-Signature=***&x-oss-security-token=***, "
        "https://c/d?se=2026&sig=***&comp=block, design=1"
    )


def test_short_values_and_the_users_name_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    Secret.of("a", "a test").reveal()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    assert hide("a word of somebody") == "a word of somebody"


def test_an_error_is_raised_without_it_and_without_its_cause(secret: str) -> None:
    with pytest.raises(ExecutionException) as raised, execution_errors():
        raise ClusterError(f"the server says: {secret}")
    assert str(raised.value) == "the server says: ***"
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_progress_end_and_diagnosis_are_told_without_it(secret: str, tmp_path: Path) -> None:
    out = io.StringIO()
    Progress(Console(file=out)).say(f"it was {secret}")
    assert out.getvalue() == "mlflow-exec: it was ***\n"

    why = Failure(FailureCategory.INFRASTRUCTURE, f"failed with {secret}")
    status = JobStatus(JobState.FAILED, "", why, native={"message": f"env {secret}"})
    assert end_of(status).message == "failed with ***"
    artifacts = RunArtifacts(MlflowClient("http://127.0.0.1:1"), tmp_path.as_uri())
    keep_diagnosis(artifacts, None, status)
    assert json.loads(artifacts.read(DIAGNOSIS))["native"] == {"message": "env ***"}
