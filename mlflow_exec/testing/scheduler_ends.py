"""The part of the schedulers' conformance suite that tells how jobs end, and what they get."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from mlflow_exec.credentials import Secret
from mlflow_exec.jobs import FailureCategory, JobState
from mlflow_exec.testing.collecting import Collected
from mlflow_exec.testing.jobs import WAIT, JobMaker

EAT_MEMORY = """
print("last words", flush=True)
kept = []
while True:
    kept.append(bytearray(b"x" * (8 << 20)))
"""

AWKWARD = {
    "spaces": "  two  words  ",
    "quotes": "'single' \"double\" `back`",
    "dollar": "$HOME ${HOME} $(HOME) $$ $",
    "self": "$(QUOTES) $$(QUOTES)",
    "lines": "one\ntwo\r\nthree\n",
    "tabs": "\ta\tb\x1b[0m\x7f",
    "yaml": "- a: [b, {c: d}] # e\n--- !!python/none &x *x | > %",
    "number": "0x1f",
    "truth": "yes",
    "nothing": "",
    "null": "null",
    "template": "{{ name }} {% raw %} {name} {0}",
    "backslash": "a\\b\\n\\u0041\\",
    "shell": "; exit 3 & | > /dev/null ! # * ? [a]",
    "dash": "--flag=-1",
    "latin": "Zürich, naïve café",
    "greek": "Ελληνικά",
    "chinese": "中文字符",
    "emoji": "🦊👩‍🔬",
    "separators": "a\x85b\u2028c\u2029d\ufeffe",
}
"""Values that a shell, YAML, JSON, a template or the kubelet could take for something else."""

_TELL = """
import json, os, sys
told = {"env": {k: os.environb[k.encode()].hex() for k in os.environ if k.startswith("AWKWARD_")},
        "argv": [os.fsencode(a).hex() for a in sys.argv[1:]],
        "files": sorted(os.fsencode(f).hex() for f in os.listdir("files"))}
print("TOLD " + json.dumps(told), flush=True)
"""

_STATES = [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]


class EndsConformance:
    """How a job ended is told truly, with a category, a sentence and a hint."""

    queued: ClassVar[Mapping[str, Any] | None] = None
    memory_limit: ClassVar[Mapping[str, Any] | None] = None

    def test_success(self, jobs: JobMaker) -> None:
        job = jobs.submit("print('done')")
        seen = job.statuses().all()
        last = seen[-1]
        assert last is not None
        assert (last.state, last.failure, last.exit_code) == (JobState.SUCCEEDED, None, 0)
        order = [_STATES.index(item.state) for item in seen if item is not None]
        assert order == sorted(order), "a job that meets no trouble only goes forward"
        assert job.scheduler.status(job.handle).state is JobState.SUCCEEDED
        assert job.scheduler.wait(job.handle).state is JobState.SUCCEEDED

    def test_an_exit_code_is_the_users(self, jobs: JobMaker) -> None:
        last = jobs.submit("raise SystemExit(7)").ends()
        assert (last.state, last.exit_code) == (JobState.FAILED, 7)
        assert last.failure is not None
        assert last.failure.category is FailureCategory.USER_ERROR
        assert "7" in last.failure.message
        assert last.failure.hint

    def test_a_job_that_uses_too_much_memory(self, jobs: JobMaker) -> None:
        if self.memory_limit is None:
            pytest.skip("this system sets no limits on memory")
        job = jobs.submit(EAT_MEMORY, **self.memory_limit)
        last = job.ends()
        assert last.state is JobState.FAILED
        assert last.failure is not None
        assert last.failure.category is FailureCategory.OUT_OF_MEMORY
        assert last.failure.hint
        assert "last words" in job.log()

    def test_an_environment_that_cannot_be_built(self, jobs: JobMaker) -> None:
        wrong = {"broken/pyproject.toml": "[build-system]\nthis is no TOML"}
        job = jobs.submit("print('it ran')", files=wrong, requirements=("./broken",))
        last = job.ends()
        assert last.state is JobState.FAILED
        assert last.failure is not None
        assert last.failure.category is FailureCategory.ENVIRONMENT_SETUP
        assert last.failure.hint
        assert "it ran" not in job.log()

    def test_a_job_is_ended_at_its_deadline(self, jobs: JobMaker) -> None:
        job = jobs.submit(WAIT, deadline_s=15)
        job.says("it waits")
        last = job.ends()
        assert last.state is JobState.FAILED
        assert last.failure is not None
        assert last.failure.category is FailureCategory.DEADLINE

    def test_a_failed_job_starts_again_as_often_as_it_may(self, jobs: JobMaker) -> None:
        job = jobs.submit("raise SystemExit(7)", retries=1)
        last = job.ends()
        assert (last.state, last.exit_code, last.attempt) == (JobState.FAILED, 7, 2)

    def test_waiting_has_a_limit(self, jobs: JobMaker) -> None:
        job = jobs.submit(WAIT)
        job.says("it waits")
        waits = (job.scheduler.wait(job.handle, timeout_s=1) for _ in range(1))
        (status,) = Collected(waits).all()
        assert status.state is JobState.RUNNING

    def test_jobs_are_watched_together(self, jobs: JobMaker) -> None:
        one, two = jobs.submit(WAIT), jobs.submit("raise SystemExit(7)")
        seen = Collected(one.scheduler.watch([one.handle, two.handle]))

        def final(items: list[Any]) -> set[Any]:
            return {(h, s.state) for h, s in items if s is not None and s.state.is_final}

        seen.until(lambda items: bool(final(items)), "the end of one", 180)
        assert final(seen.items) == {(two.handle, JobState.FAILED)}
        one.scheduler.cancel(one.handle)
        assert final(seen.all()) == {
            (one.handle, JobState.CANCELLED), (two.handle, JobState.FAILED),
        }  # fmt: skip

    def test_awkward_values_and_names_arrive_byte_for_byte(self, jobs: JobMaker) -> None:
        names = [f"a file {value}".replace("\n", " ") for value in ("'\"$(X)`", "🦊 中文: [x]")]
        job = jobs.submit(
            _TELL,
            files={f"files/{name}": "" for name in names},
            env={f"AWKWARD_{name.upper()}": value for name, value in AWKWARD.items()},
            command="python3 main.py " + " ".join(f"{{{name}}}" for name in AWKWARD),
            parameters=AWKWARD,
        )
        assert job.ends().state is JobState.SUCCEEDED, job.log()
        told = json.loads(job.log().split("TOLD ", 1)[1].splitlines()[0])
        env = {k: bytes.fromhex(v).decode() for k, v in told["env"].items()}
        assert env == {f"AWKWARD_{name.upper()}": value for name, value in AWKWARD.items()}
        assert [bytes.fromhex(a).decode() for a in told["argv"]] == list(AWKWARD.values())
        assert [bytes.fromhex(f).decode() for f in told["files"]] == sorted(names)

    def test_a_secret_reaches_the_job_and_nobody_else(self, jobs: JobMaker) -> None:
        value = "a value with 'quotes', $(X) and\na line"
        program = "import os; print(len(os.environ['API_TOKEN']), 'characters')"
        job = jobs.submit(program, secrets={"API_TOKEN": Secret.of(value, "a test")})
        last = job.ends()
        assert last.state is JobState.SUCCEEDED
        assert f"{len(value)} characters" in job.log()
        assert "a value with" not in json.dumps(last.native, default=str) + job.log() + repr(last)
