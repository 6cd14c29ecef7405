"""Handles go round, states mean one MLflow status each."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_exec.errors import HandleError
from mlflow_exec.jobs import (
    JOB_NAME,
    Failure,
    FailureCategory,
    JobHandle,
    JobState,
    job_name,
)

NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)
HOSTS = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1).map("h{}".format)


@given(HOSTS, st.lists(NAMES, min_size=2, max_size=2), st.sampled_from(["k8s", "yarn"]))
def test_a_handle_is_read_back_from_its_text(host: str, path: list[str], scheme: str) -> None:
    handle = JobHandle(scheme, host, tuple(path), "uid")
    parsed = JobHandle.parse(str(handle), "uid")
    assert parsed == handle
    assert (parsed.uid, parsed.name) == ("uid", path[-1])


@pytest.mark.parametrize(
    "text",
    [
        "k8s://0c8a-11/team-a/mlflow-x-1",
        "ray-job+http://head:8265/mlflow-x-1",
        "ray-job+https://[::1]:8265/mlflow-x-1",
        "yarn://rm/application_1_0001",
    ],
)
def test_the_forms_of_handles(text: str) -> None:
    assert str(JobHandle.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "k8s://", "k8s://c", "k8s://c/", "k8s:///ns/job", "k8s://c//job", "slurm://c/1",
     "k8s://c/job", "k8s://c/ns/job/more",
     "ray-job+http://u:p@head/x", "k8s://c/ns/job?x=1", "k8s://c/ns/job#x", "mlflow-x-1"],
)  # fmt: skip
def test_what_is_no_handle(text: str) -> None:
    with pytest.raises(HandleError, match="job handle"):
        JobHandle.parse(text)


def test_a_refused_handle_does_not_show_a_password() -> None:
    with pytest.raises(HandleError) as caught:
        JobHandle.parse("ray-job+http://user:hunter2@head:8265/x")
    assert "hunter2" not in str(caught.value)


def test_names_are_functions_of_run_and_submission() -> None:
    name = job_name("0" * 32, 3)
    assert name == f"mlflow-{'0' * 32}-3"
    match = JOB_NAME.match(name)
    assert match is not None
    assert match.groups() == ("0" * 32, "3")
    assert len(name) <= 63, "a label's value holds it"


def test_states_and_mlflows_statuses() -> None:
    assert {state.name: (state.mlflow_status, state.is_final) for state in JobState} == {
        "QUEUED": ("SCHEDULED", False),
        "STARTING": ("SCHEDULED", False),
        "RUNNING": ("RUNNING", False),
        "SUCCEEDED": ("FINISHED", True),
        "FAILED": ("FAILED", True),
        "CANCELLED": ("KILLED", True),
        "UNKNOWN": (None, False),
    }


def test_a_failure_is_one_line() -> None:
    why = Failure(FailureCategory.QUOTA, "It is full.", "Ask for less.")
    assert str(why) == "quota: It is full. Ask for less."
    assert str(Failure(FailureCategory.LOST, "Gone.")) == "lost: Gone."
