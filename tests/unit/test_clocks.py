"""The clocks that end jobs which do not start; time is a number here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.runs.clocks import Clocks
from mlflow_exec.settings import KubernetesSettings, RaySettings

QUEUED = JobStatus(JobState.QUEUED, "waits for a node")
STARTING = JobStatus(JobState.STARTING, "is being started")
RUNNING = JobStatus(JobState.RUNNING)
PULL = Failure(FailureCategory.IMAGE_PULL, "The image cannot be pulled.", "Check its name.")
PULLING = JobStatus(JobState.STARTING, "", PULL)
HELD = JobStatus(JobState.QUEUED, "is suspended", held=True)


def clocks(**settings: Any) -> Clocks:
    return Clocks(KubernetesSettings(**settings))


def test_nothing_runs_out_before_anything_was_seen() -> None:
    assert clocks(queue_timeout_s=1).expired(10**9) is None


def test_what_comes_to_no_good_end_any_more_is_ended_at_once() -> None:
    clock = clocks()
    clock.see(replace(QUEUED, failure=PULL, hopeless=True), 0)
    assert clock.expired(0) == PULL


def test_a_queue_has_no_limit_unless_one_is_set() -> None:
    clock = clocks()
    clock.see(QUEUED, 0)
    assert clock.expired(10**9) is None


def test_the_queues_limit() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(QUEUED, 100)
    clock.see(QUEUED, 150)
    assert clock.expired(159) is None
    why = clock.expired(160)
    assert why is not None
    assert why.category is FailureCategory.UNSCHEDULABLE
    assert "queue_timeout_s (60 s)" in why.message
    assert "waits for a node" in why.message
    assert why.hint


def test_the_category_is_that_of_what_holds_the_job_back() -> None:
    clock = clocks(queue_timeout_s=60)
    quota = Failure(FailureCategory.QUOTA, "It is full.", "Ask for less.")
    clock.see(JobStatus(JobState.QUEUED, "", quota), 0)
    why = clock.expired(60)
    assert why is not None
    assert (why.category, why.hint) == (FailureCategory.QUOTA, "Ask for less.")


def test_a_held_job_waits_for_ever() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(HELD, 0)
    assert clock.expired(10**9) is None


def test_the_time_in_a_hold_does_not_count() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(HELD, 0)
    clock.see(QUEUED, 1000)
    assert clock.expired(1059) is None
    assert clock.expired(1060) is not None


def test_the_starts_limit_counts_from_the_place_on_a_node() -> None:
    clock = clocks(start_timeout_s=900)
    clock.see(QUEUED, 0)
    clock.see(STARTING, 5000)
    assert clock.expired(5899) is None
    why = clock.expired(5900)
    assert why is not None
    assert "start_timeout_s (900 s)" in why.message
    assert why.category is FailureCategory.INFRASTRUCTURE, "it had its place"


def test_a_running_job_has_no_clock_here() -> None:
    clock = clocks(queue_timeout_s=1, start_timeout_s=1)
    clock.see(STARTING, 0)
    clock.see(RUNNING, 0.5)
    assert clock.expired(10**9) is None


def test_a_job_that_is_put_back_waits_anew() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(QUEUED, 0)
    clock.see(RUNNING, 50)
    clock.see(QUEUED, 1000)
    assert clock.expired(1059) is None
    assert clock.expired(1060) is not None


def test_a_failing_pull_has_a_grace() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(STARTING, 0)
    clock.see(PULLING, 100)
    clock.see(PULLING, 200)
    assert clock.expired(279) is None
    assert clock.expired(280) == PULL


def test_a_pull_that_succeeds_at_last_starts_the_grace_anew() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(PULLING, 0)
    clock.see(STARTING, 100)
    clock.see(PULLING, 150)
    assert clock.expired(329) is None
    assert clock.expired(330) == PULL


def test_a_registry_that_limits_its_clients_is_waited_for() -> None:
    clock = clocks(image_pull_grace_s=180, start_timeout_s=900)
    clock.see(JobStatus(JobState.STARTING, "", PULL, held=True), 0)
    assert clock.expired(500) is None
    assert clock.expired(900) is not None


def test_the_grace_of_a_pull_begins_after_the_registrys_limit() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(JobStatus(JobState.STARTING, "", PULL, held=True), 0)
    clock.see(PULLING, 300)
    assert clock.expired(479) is None
    assert clock.expired(480) == PULL


def test_not_knowing_changes_nothing() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(QUEUED, 0)
    clock.see(JobStatus(JobState.UNKNOWN, "no answer"), 30)
    assert clock.expired(59) is None
    assert clock.expired(1000) is None
    clock.see(QUEUED, 1000)
    assert clock.expired(1029) is None
    assert clock.expired(1030) is not None


def test_not_knowing_does_not_count_as_a_failing_pull() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(PULLING, 0)
    clock.see(JobStatus(JobState.UNKNOWN, "no answer"), 100)
    clock.see(PULLING, 1000)
    assert clock.expired(1079) is None
    assert clock.expired(1080) == PULL


def test_a_backend_without_images_has_the_other_clocks() -> None:
    clock = Clocks(RaySettings(queue_timeout_s=60))
    clock.see(QUEUED, 0)
    assert clock.expired(60) is not None


def waited(status: JobStatus, waits_s: float, fails_s: float | None = None) -> JobStatus:
    """Return a status with what the cluster tells of how long it has been so."""
    return replace(status, waits_s=waits_s, fails_s=fails_s)


def test_one_look_is_enough_where_the_cluster_tells_how_long() -> None:
    clock = clocks(queue_timeout_s=60, start_timeout_s=900)
    clock.see(waited(QUEUED, 60), 1000)
    why = clock.expired(1000)
    assert why is not None
    assert "queue_timeout_s" in why.message
    clock = clocks(queue_timeout_s=60, start_timeout_s=900)
    clock.see(waited(QUEUED, 59), 1000)
    assert clock.expired(1000) is None
    assert clock.expired(1001) is not None
    clock = clocks(queue_timeout_s=60, start_timeout_s=900)
    clock.see(waited(STARTING, 900), 1000)
    why = clock.expired(1000)
    assert why is not None
    assert "start_timeout_s" in why.message


def test_who_comes_late_does_not_start_the_clock_anew() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(waited(QUEUED, 50), 1000)
    assert clock.expired(1009) is None
    assert clock.expired(1010) is not None


def test_the_clusters_word_counts_more_than_what_was_seen() -> None:
    clock = clocks(queue_timeout_s=60)
    clock.see(QUEUED, 0)
    clock.see(waited(QUEUED, 5), 100)  # a new pod
    assert clock.expired(154) is None
    assert clock.expired(155) is not None


def test_a_closer_look_is_worth_it_once_a_pull_may_have_failed_all_the_time() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(waited(STARTING, 500), 0)
    assert not clock.doubts(0)
    clock.see(waited(PULLING, 170), 1000)
    assert not clock.doubts(1009)
    assert clock.doubts(1010)
    clock.see(waited(PULLING, 180, fails_s=20), 1010)
    assert not clock.doubts(1010)
    assert clock.expired(1169) is None
    assert clock.expired(1170) == PULL


def test_a_failing_pull_is_ended_by_one_close_look() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(waited(PULLING, 500, fails_s=180), 1000)
    assert clock.expired(1000) == PULL


def test_what_was_seen_to_fail_is_not_forgotten_for_a_younger_event() -> None:
    clock = clocks(image_pull_grace_s=180)
    clock.see(waited(PULLING, 0), 0)
    clock.see(waited(PULLING, 180, fails_s=0), 180)
    assert clock.expired(180) == PULL


def test_a_registry_that_limits_its_clients_needs_no_closer_look() -> None:
    clock = clocks(image_pull_grace_s=180)
    held = JobStatus(JobState.STARTING, "", PULL, held=True, waits_s=500)
    clock.see(held, 0)
    assert not clock.doubts(0)


def test_a_job_that_would_be_ended_without_a_reason_is_looked_at_closely() -> None:
    clock = clocks(start_timeout_s=60)
    clock.see(STARTING, 0)
    assert not clock.doubts(59)
    assert clock.doubts(60)
    why = Failure(FailureCategory.INVALID_CONFIG, "A Secret is not there.", "Create it.")
    clock.see(replace(STARTING, failure=why), 60)
    assert not clock.doubts(60)
    ended = clock.expired(60)
    assert ended is not None
    assert ended.category is FailureCategory.INVALID_CONFIG
