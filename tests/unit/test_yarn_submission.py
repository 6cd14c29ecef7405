"""Which of two applications of one name is the job."""

from __future__ import annotations

from typing import Any

from mlflow_exec.schedulers.yarn.watch import oldest

NAME = f"mlflow-{'1' * 32}-1"


def application(number: int, started_ms: int, **further: Any) -> dict[str, Any]:
    tags = f"mlflow-exec,mlflow-{'1' * 32},{NAME}"
    name = f"application_1700000000000_{number:04}"
    return {"id": name, "startedTime": started_ms, "applicationTags": tags, **further}


def test_the_one_that_yarn_took_first_counts_whatever_their_ids() -> None:
    # Its client was given the id later, and has looked before the other one had submitted.
    first, other = application(5, 1000), application(4, 2000)
    assert oldest([other, first], NAME) is first


def test_two_that_yarn_took_in_one_moment_are_told_apart_by_their_ids() -> None:
    one, other = application(4, 1000), application(5, 1000)
    assert oldest([other, one], NAME) is one


def test_an_application_that_only_borrows_the_name_is_none() -> None:
    assert oldest([application(1, 1, applicationTags=NAME)], NAME) is None
