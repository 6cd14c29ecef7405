"""What YARN's diagnostics mean: one table of exit codes and one of words.

A container's exit code comes first: what stands behind it in the diagnostics holds the end of the
container's own error output, where a program may write anything.
"""

from __future__ import annotations

import re

from mlflow_exec.jobs import Failure, FailureCategory
from mlflow_exec.runtime.end import RESERVED_EXIT_CODES
from mlflow_exec.schedulers.ending import parse_ending, user_error

_C = FailureCategory

# https://github.com/apache/hadoop/blob/rel/release-3.4.1/hadoop-yarn-project/hadoop-yarn/
# hadoop-yarn-api/src/main/java/org/apache/hadoop/yarn/api/records/ContainerExitStatus.java
CONTAINER_EXITS: dict[int, tuple[FailureCategory, str]] = {
    -100: (_C.NODE_LOST, "The node of the job's container was lost."),
    -101: (_C.NODE_LOST, "The disks of the job's node failed."),
    -102: (_C.PREEMPTED, "YARN took the job's container for another queue."),
    -103: (_C.OUT_OF_MEMORY, "The job used more virtual memory than its container may."),
    -104: (_C.OUT_OF_MEMORY, "The job used more memory than its container has."),
    -105: (_C.INFRASTRUCTURE, "The application master ended the job's container."),
    -106: (_C.INFRASTRUCTURE, "The ResourceManager ended the job's container."),
    -107: (_C.INFRASTRUCTURE, "The job's container was ended with its application."),
    -108: (_C.PREEMPTED, "The node took the job's container for another one."),
    -109: (_C.USER_ERROR, "The job wrote more into its log than the cluster allows."),
    -1000: (_C.INFRASTRUCTURE, "The node could not prepare the job's container."),
    # A container runs as another one's processes do: 128 + n for signal n.
    # Where YARN itself has had it killed for its memory, or knows that the kernel has, it is -104.
    137: (_C.INFRASTRUCTURE, "The job's container was killed from outside, by SIGKILL."),
    143: (_C.INFRASTRUCTURE, "The job's container was ended by SIGTERM."),
}
# Words of ContainersMonitorImpl.java, CGroupElasticMemoryController and DefaultOOMHandler.java,
# RMAppImpl.java, RMAppAttemptImpl.java, RMAppManager.java, CapacityScheduler.java, AbstractCSQueue,
# ResourceLocalizationService.java, below hadoop-yarn-server of the same release.
_CONTAINER_WORDS: tuple[tuple[str, FailureCategory, str], ...] = (
    ("beyond physical memory limits", _C.OUT_OF_MEMORY,
     "The job used more memory than its container has."),
    ("beyond the 'PHYSICAL' memory limit", _C.OUT_OF_MEMORY,
     "The job used more memory than its container has."),
    ("beyond virtual memory limits", _C.OUT_OF_MEMORY,
     "The job used more virtual memory than its container may."),
    ("beyond the 'VIRTUAL' memory limit", _C.OUT_OF_MEMORY,
     "The job used more virtual memory than its container may."),
    ("Container was marked as preempted", _C.PREEMPTED,
     "YARN took the job's container for another queue."),
    ("Container preempted by scheduler", _C.PREEMPTED,
     "YARN took the job's container for another queue."),
    ("Container released on a *lost* node", _C.NODE_LOST,
     "The node of the job's container was lost."),
    ("oom-killer", _C.OUT_OF_MEMORY, "The job used more memory than its container has."),
)  # fmt: skip
_APPLICATION_WORDS: tuple[tuple[str, FailureCategory, str], ...] = (
    ("to unknown queue", _C.INVALID_CONFIG, "There is no such queue."),
    ("is STOPPED. Cannot accept submission", _C.INVALID_CONFIG, "The queue is stopped."),
    ("is not a leaf queue", _C.INVALID_CONFIG, "The queue takes no applications by itself."),
    ("to non-leaf queue", _C.INVALID_CONFIG, "The queue takes no applications by itself."),
    ("cannot submit applications to queue", _C.PERMISSION,
     "The queue does not take the user's applications."),
    ("does not have permission to submit", _C.PERMISSION,
     "The queue does not take the user's applications."),
    ("cannot accept submission of application", _C.QUOTA, "The queue takes no more applications."),
    ("already has", _C.QUOTA, "The queue takes no more applications."),
    ("maxRunningApps", _C.QUOTA, "The queue takes no more applications."),
    ("Invalid resource request", _C.INVALID_CONFIG,
     "The job asks for more than the cluster gives to one container."),
    ("Node label expression", _C.INVALID_CONFIG, "The node label is not one of the queue's."),
    ("exceeded the lifetime period", _C.DEADLINE,
     "The queue's limit on an application's time is over."),
    ("Failed to renew token", _C.PERMISSION, "YARN could not renew a token of the job."),
    ("Failed on local exception", _C.INFRASTRUCTURE, "The node could not reach a service."),
    # AMLivelinessMonitor: its process, or its node, has not been heard of any more.
    ("timed out", _C.NODE_LOST, "YARN has heard nothing of the job's container any more."),
)  # fmt: skip
_HINTS = {
    _C.OUT_OF_MEMORY: "Raise resources.memory, or use less of it.",
    _C.PREEMPTED: "Submit it again, or raise infra_retries.",
    _C.NODE_LOST: "Submit it again, or raise infra_retries.",
    _C.QUOTA: "Wait for the queue, or use another 'queue'.",
    _C.PERMISSION: "Ask for the right to use the queue, or use another 'queue'.",
    _C.INVALID_CONFIG: "Change the setting that YARN names.",
    _C.INFRASTRUCTURE: "diagnosis.json on the run has all that YARN says; submit it again.",
    _C.DEADLINE: "Make the job shorter, or ask for a queue without that limit.",
    _C.USER_ERROR: "Its own last lines in mlflow-exec/log.txt say why.",
}

# com.anaconda.skein.ApplicationMaster
_DRIVER_EXIT = re.compile(r"Application driver failed with exit code (\d+)")
_CONTAINER_EXIT = re.compile(r"exited with\s+exitCode: (-?\d+)")
# ContainerLaunch.java puts the end of the container's error output behind this.
_OUTPUT = re.compile(r"(\[[^]]*\]\s*)?(Last \d+ bytes of|Exception from container)")
# What else ContainersMonitorImpl.java and RMAppAttemptImpl.java put behind the reason.
_FURTHER = re.compile(r"Dump of the process-tree|For more detailed output, check")
_KILLED_BY = re.compile(r"was killed by user (\S+?)(?: at (\S+))?$", re.MULTILINE)
_SENTENCE_CHARS = 300
_SIGNALS = 128


def why_failed(diagnostics: str, log_tail: str = "") -> tuple[Failure, int | None]:
    """Return why an application failed, and its entry point's exit code where that is known.

    Args:
        diagnostics: As the ResourceManager tells them.
        log_tail: The last lines of its log; empty where they were not read.
    """
    told = parse_ending(log_tail) if log_tail else None
    head = _OUTPUT.split(diagnostics)[0]
    driver = _DRIVER_EXIT.search(head)
    if driver is not None:
        return _of_driver(int(driver.group(1)), told, was_read=bool(log_tail))
    exit_ = _CONTAINER_EXIT.search(diagnostics)
    code = int(exit_.group(1)) if exit_ else None
    by_words = _by_words(head, _CONTAINER_WORDS if exit_ else _APPLICATION_WORDS, head)
    if code is not None and code in CONTAINER_EXITS and code < 0:
        category, text = CONTAINER_EXITS[code]
        return _failure(category, text, head), None
    if by_words is not None:
        return by_words, None
    if code is not None and code in CONTAINER_EXITS:
        category, text = CONTAINER_EXITS[code]
        return _failure(category, text, head), None
    if code is not None:
        text = f"The application master ended with code {code}."
        return _failure(_C.INFRASTRUCTURE, text, head), None
    text = _shortened(head) or "YARN says that the job failed, and not why."
    return Failure(_C.INFRASTRUCTURE, text, _HINTS[_C.INFRASTRUCTURE]), None


def ended_by(diagnostics: str) -> Failure | None:
    """Return why YARN itself ended an application; None if somebody did."""
    head = _OUTPUT.split(diagnostics)[0]
    if "exceeded the lifetime period" in head:
        return _by_words(head, _APPLICATION_WORDS, head)
    return None


def was_killed_by_somebody(diagnostics: str) -> str:
    """Return a sentence about who ended an application."""
    found = _KILLED_BY.search(diagnostics)
    if found is None:
        return "The application was killed."
    where = f" from {found.group(2)}" if found.group(2) else ""
    return f"The application was killed by {found.group(1)}{where}."


def needs_log(diagnostics: str) -> bool:
    """Whether the log tells more of an end than the diagnostics do."""
    driver = _DRIVER_EXIT.search(_OUTPUT.split(diagnostics)[0])
    code = int(driver.group(1)) if driver else 0
    return code in RESERVED_EXIT_CODES or code > _SIGNALS


def _of_driver(
    code: int, told: tuple[Failure | None, int | None] | None, *, was_read: bool
) -> tuple[Failure, int]:
    """Return what an exit of the first step means, which tells of every end that it sees."""
    if told is not None and told[0] is not None:
        return told[0], code if told[1] is None else told[1]
    if was_read and code > _SIGNALS:
        text = f"The job was ended from outside by signal {code - _SIGNALS}."
        return Failure(_C.INFRASTRUCTURE, text, _HINTS[_C.INFRASTRUCTURE]), code
    if code in RESERVED_EXIT_CODES:
        text = f"The job's first step ended with code {code}; the log says why."
        category = FailureCategory(RESERVED_EXIT_CODES[code])
        return Failure(category, text, "mlflow-exec/log.txt on the run says what went wrong."), code
    return user_error(code), code


def _by_words(
    text: str, table: tuple[tuple[str, FailureCategory, str], ...], head: str
) -> Failure | None:
    for words, category, sentence in table:
        if words in text:
            return _failure(category, sentence, head)
    return None


def _failure(category: FailureCategory, sentence: str, head: str) -> Failure:
    """Return a failure with what YARN itself says."""
    said = _shortened(head)
    return Failure(category, f"{sentence} YARN: {said}" if said else sentence, _HINTS[category])


def _shortened(head: str) -> str:
    """Return diagnostics as one line: what follows the last attempt's own heading, if there is."""
    text = " ".join(head.split())
    _, _, detail = text.rpartition("Diagnostics: ")
    detail = _FURTHER.split(detail)[0]
    text = re.sub(r"\[\d{4}-\d\d-\d\d [\d:.]+\]", "", detail).strip()
    return text if len(text) <= _SENTENCE_CHARS else f"{text[: _SENTENCE_CHARS - 1]}…"
