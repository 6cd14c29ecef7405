"""What the end of a run is, and the only function that writes it.

The end of a run is the tag ``mlflow_exec.state`` with a final value. A terminal run *status* proves
nothing: user code writes it too, before the process has ended. The tag is therefore written last,
as the commit point; without it every status is open and is corrected, with it nobody touches the
status again.

``entry.py`` writes ends from inside the job over HTTP, the client and ``mlflow-exec reconcile``
write them from outside with MLflow's client: both through :func:`write_end` over a
:class:`RunStore`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence

TAG_BACKEND = "mlflow_exec.backend"
TAG_HANDLE = "mlflow_exec.handle"
TAG_HANDLE_UID = "mlflow_exec.handle.uid"
TAG_ATTEMPT = "mlflow_exec.attempt"
TAG_INFRA_RETRIES = "mlflow_exec.infra_retries"
TAG_RETRIES = "mlflow_exec.retries"
TAG_FIRST_START = "mlflow_exec.first_start"
TAG_STATE = "mlflow_exec.state"
TAG_STATE_BY = "mlflow_exec.state.by"
TAG_FAILURE_CATEGORY = "mlflow_exec.failure.category"
TAG_FAILURE_MESSAGE = "mlflow_exec.failure.message"
TAG_FAILURE_HINT = "mlflow_exec.failure.hint"
TAG_LOG_COMPLETE = "mlflow_exec.log.complete"
TAG_KEPT = "mlflow_exec.kept"
TAG_CANCEL = "mlflow_exec.cancel"
CANCEL_REQUESTED = "requested"
GIVEN_UP = "given up"
"""The values of `TAG_CANCEL`: of somebody's cancellation, and of a clock's; that one leaves the
failure on the run beside it."""
TAG_SETTINGS = "mlflow_exec.settings"
FAILURE_TAGS = (TAG_FAILURE_CATEGORY, TAG_FAILURE_MESSAGE, TAG_FAILURE_HINT)

USED_TAGS = (TAG_INFRA_RETRIES, TAG_RETRIES, TAG_FIRST_START)
"""What a job that is submitted again has used up of its budgets."""
INFRA_RETRIES_VARIABLE = "MLFLOW_EXEC_INFRA_RETRIES"
"""Tells a job that was submitted again the how-manieth time it is, from 1."""

STATUS_OF_STATE = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED"}
"""The MLflow run status that belongs to each final state."""
FINAL_STATES = tuple(STATUS_OF_STATE)

AUTHORITIES = ("entry", "client")
"""Who may write an end, the least authority first. The client speaks for the scheduler's record."""

RESERVED_EXIT_CODES = {
    81: "source_fetch",
    82: "environment_setup",
    83: "invalid_config",
    84: "infrastructure",
    85: "deadline",
    86: "infrastructure",
    87: "infrastructure",
}
"""Exit codes of the job's first step that are not the user's, and their failure categories."""
EXIT_DISRUPTED = 86
"""Of these the one that says: the cluster has disrupted the job more often than is allowed."""

EXIT_OVER = 87
"""Of these the one that says: the run had ended before, nothing was run and nothing was written."""

EXIT_STOPPED = 143
"""Exit code after SIGTERM, and only then: no end was written."""

TAG_VALUE_LIMIT_CHARS = 500
START_LINE_PREFIX = "mlflow-exec-start: "
"""Begins the first line of every container's log; the rest of the line is different in each."""
GAP_LINE = "mlflow-exec: here a part of the output is missing"
"""Stands in a log where something is missing, or may be."""
END_LINE_PREFIX = "mlflow-exec-end: "
RETRY_LINE_PREFIX = "mlflow-exec-retry: "

_SETTLE_ROUNDS = 20


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        state: SUCCEEDED, FAILED or CANCELLED.
        category: The failure category; None where the run succeeded.
        message: One sentence for the user.
        hint: The way on; empty where there is none.
        exit_code: The exit code of the entry point, 128 + n for signal n; None if not known.
    """

    state: str
    category: Optional[str] = None
    message: str = ""
    hint: str = ""
    exit_code: Optional[int] = None

    def __post_init__(self) -> None:
        if self.state not in FINAL_STATES:
            raise ValueError(f"End: state must be one of {', '.join(FINAL_STATES)}; {self.state!r}")

    def to_json(self, limit_bytes: Optional[int] = None) -> str:
        """Return one line of JSON.

        Args:
            limit_bytes: Shorten message and hint until the line is no longer than this in UTF-8.
        """
        text = _line(self, self.message, self.hint)
        keep = max(len(self.message), len(self.hint))
        while limit_bytes is not None and keep > 0 and len(text.encode("utf-8")) > limit_bytes:
            keep = keep * 3 // 4
            text = _line(self, cut(self.message, keep), cut(self.hint, keep))
        return text

    @classmethod
    def from_json(cls, text: str) -> End:
        """Read back what :meth:`to_json` wrote.

        Raises:
            ValueError: The text is not the JSON of an end.
        """
        data: Any = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"End: a JSON object is expected; {text[:80]!r}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"End: {error}; {text[:80]!r}") from error


def _line(end: End, message: str, hint: str) -> str:
    fields = {
        "state": end.state,
        "category": end.category,
        "message": message,
        "hint": hint,
        "exit_code": end.exit_code,
    }
    # Lone surrogates (undecodable file names) have no UTF-8 form.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def end_from_log(last_line: str) -> Optional[End]:
    """Return the end that the last line of a job's log tells, or None if it tells none."""
    line = last_line.strip()
    if not line.startswith(END_LINE_PREFIX):
        return None
    try:
        return End.from_json(line[len(END_LINE_PREFIX) :])
    except ValueError:
        return None


def taken_too_often(times: int, allowed: int) -> str:
    """Return the sentence of a job that the cluster took more often than ``infra_retries``."""
    said = "once" if times == 1 else f"{times} times"
    return f"The job's pod was deleted or taken away {said}, and infra_retries allows {allowed}."


def cut(text: str, limit_chars: int) -> str:
    """Return the text, shortened to the limit with an ellipsis as its last character."""
    if len(text) <= limit_chars:
        return text
    return text[: max(limit_chars - 1, 0)] + "…"[:limit_chars]


@dataclass(frozen=True)
class RunRecord:
    """What a run store says of a run: its MLflow status, its tags, when it began (0: unknown)."""

    status: str
    tags: Mapping[str, str]
    start_time_ms: int = 0


class RunStore(Protocol):
    """The few calls on MLflow runs that an end needs.

    Errors of the store pass through :func:`write_end`, which can be repeated after them.
    """

    def read(self, run_id: str) -> RunRecord:
        """Return the run's status and tags as they are now, never from a cache."""

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set the tags, in the order given where they cannot be set at once."""

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        """Delete the tags; one that is not there (any more) is no error."""

    def set_status(self, run_id: str, status: str, end_time_ms: Optional[int]) -> None:
        """Set the run's status and, unless None, its end time (milliseconds since 1970)."""


def write_end(
    store: RunStore,
    run_id: str,
    end: End,
    by: str,
    log_complete: bool = False,
) -> bool:
    """Write the end of a run, unless it has one.

    Safe to run twice, and beside other writers. An end that is there already keeps its state and
    status; only its failure tags are refined, once, when ``by`` has more authority than its writer
    and names another category for the same state.

    Args:
        store: Where the run is kept.
        run_id: The run.
        end: How it ended.
        by: Who says so, one of ``AUTHORITIES``.
        log_complete: Whether the writer knows that the run holds the whole log. That it does not
            is on the run from its submission on, so that nobody takes it back from who knows.

    Returns:
        Whether the end was written, or refined.

    Raises:
        ValueError: ``by`` is not known.
    """
    if by not in AUTHORITIES:
        raise ValueError(f"write_end: 'by' must be one of {', '.join(AUTHORITIES)}; {by!r}")
    record = store.read(run_id)
    if record.tags.get(TAG_STATE) in FINAL_STATES:
        if log_complete and record.tags.get(TAG_LOG_COMPLETE) != "true":
            store.set_tags(run_id, {TAG_LOG_COMPLETE: "true"})
        return _refine(store, run_id, end, by, record)
    _write_failure(store, run_id, end, record)
    _write_status(store, run_id, end.state, record)
    _commit(store, run_id, end, by, log_complete)
    _settle(store, run_id, end, by)
    return True


def _refine(store: RunStore, run_id: str, end: End, by: str, record: RunRecord) -> bool:
    tags = record.tags
    earlier = tags.get(TAG_STATE_BY)
    outranks = earlier in AUTHORITIES and AUTHORITIES.index(by) > AUTHORITIES.index(str(earlier))
    same_state = tags[TAG_STATE] == end.state
    if not (same_state and outranks and (end.category or None) != tags.get(TAG_FAILURE_CATEGORY)):
        return False
    _write_failure(store, run_id, end, record)
    store.set_tags(run_id, {TAG_STATE_BY: by})
    return True


def failure_tags(end: End) -> Dict[str, str]:
    """Return the tags that say why a run failed, or was cancelled."""
    if end.state == "SUCCEEDED":
        return {}
    values = {
        TAG_FAILURE_CATEGORY: end.category,
        TAG_FAILURE_MESSAGE: end.message,
        TAG_FAILURE_HINT: end.hint,
    }
    return {key: cut(value, TAG_VALUE_LIMIT_CHARS) for key, value in values.items() if value}


def _write_failure(store: RunStore, run_id: str, end: End, record: RunRecord) -> None:
    wanted = failure_tags(end)
    stale: List[str] = [key for key in FAILURE_TAGS if key in record.tags and key not in wanted]
    if any(record.tags.get(key) != value for key, value in wanted.items()):
        store.set_tags(run_id, wanted)
    if stale:
        store.delete_tags(run_id, stale)


def _write_status(store: RunStore, run_id: str, state: str, record: RunRecord) -> None:
    status = STATUS_OF_STATE[state]
    if record.status != status:
        # The clock of the machine that made the run may be ahead of this one's.
        store.set_status(run_id, status, max(int(time.time() * 1000), record.start_time_ms))


def _commit(
    store: RunStore, run_id: str, end: End, by: str, log_complete: bool = False
) -> None:
    whole = {TAG_LOG_COMPLETE: "true"} if log_complete else {}
    store.set_tags(run_id, {**whole, TAG_STATE_BY: by, TAG_STATE: end.state})


def _settle(store: RunStore, run_id: str, end: End, by: str) -> None:
    """Make status and tags agree after several writers committed at the same moment.

    MLflow has no compare-and-set. The last commit counts. Everybody can tell the status from it,
    and reads back until the two agree. The failure tags are known to their writer only: so each
    write of them is followed by a commit of the same writer, and nobody damages those of the last.
    """
    for _ in range(_SETTLE_ROUNDS):
        record = store.read(run_id)
        state = record.tags.get(TAG_STATE, "")
        if state not in FINAL_STATES:
            return
        mine = (state, record.tags.get(TAG_STATE_BY)) == (end.state, by)
        found = {key: record.tags[key] for key in FAILURE_TAGS if key in record.tags}
        damaged = mine and found != failure_tags(end)
        if record.status == STATUS_OF_STATE[state] and not damaged:
            return
        if damaged:
            _write_failure(store, run_id, end, record)
            _commit(store, run_id, end, by)
        _write_status(store, run_id, state, record)
