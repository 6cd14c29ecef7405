"""The part of the schedulers' conformance suite that reads logs."""

from __future__ import annotations

from mlflow_exec.jobs import JobState
from mlflow_exec.runtime.end import GAP_LINE
from mlflow_exec.testing.jobs import WAIT, JobMaker

LINES = 100_000
LINE_BYTES = 300

# Slow enough that a system which cuts its log files every ten seconds does so meanwhile.
_MANY = f"""
import sys, time
for number in range({LINES}):
    head = f"line {{number:06d}} "
    sys.stdout.write(head + "x" * ({LINE_BYTES} - 1 - len(head)) + "\\n")
    if number % ({LINES} // 40) == 0:
        sys.stdout.flush()
        time.sleep(1)
"""


class LogsConformance:
    """A log comes live and in order, and is whole in the end."""

    def test_a_line_is_seen_while_the_job_runs(self, jobs: JobMaker) -> None:
        job = jobs.submit(WAIT)
        job.says("it waits")  # and never ends by itself
        assert job.scheduler.status(job.handle).state is JobState.RUNNING
        assert "it waits" in job.log()

    def test_following_ends_with_the_job(self, jobs: JobMaker) -> None:
        job = jobs.submit("print('first'); print('Grüße 🦊', end='')")
        followed = "".join(job.follow().all())
        assert job.scheduler.status(job.handle).state is JobState.SUCCEEDED
        assert followed.index("first\n") < followed.index("Grüße 🦊")
        assert followed == job.log()

    def test_a_long_log_is_complete_and_in_order(self, jobs: JobMaker) -> None:
        job = jobs.submit(_MANY)
        text = "".join(job.follow().all(timeout_s=600))
        lines = [line for line in text.splitlines() if line.startswith("line ")]
        numbers = [int(line[5:11]) for line in lines]
        missing = sorted(set(range(LINES)) - set(numbers))
        assert missing == [], f"{len(missing)} lines are missing, the first is {missing[0]}"
        assert numbers == list(range(LINES)), "lines come twice or out of order"
        assert {len(line) for line in lines} == {LINE_BYTES - 1}
        assert job.ends().state is JobState.SUCCEEDED
        later = job.log()
        assert later == text or GAP_LINE in later, "the system lost a part, and nothing says so"

    def test_two_logs_do_not_mix(self, jobs: JobMaker) -> None:
        program = "\n".join(["for n in range(2000): print('NAME', n)", WAIT])
        one = jobs.submit(program.replace("NAME", "one"))
        two = jobs.submit(program.replace("NAME", "two"))
        one.says("it waits")
        two.says("it waits")  # both run at this moment
        for job, mine, other in ((one, "one", "two"), (two, "two", "one")):
            lines = job.log().splitlines()
            assert [line for line in lines if line.startswith(mine)] == [
                f"{mine} {n}" for n in range(2000)
            ]
            assert not any(line.startswith(other) for line in lines)
