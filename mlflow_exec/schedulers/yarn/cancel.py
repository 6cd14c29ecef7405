"""Ends an application and makes sure that nothing of it is left running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import CancelError, ClusterError, NotFoundError, UnreachableError
from mlflow_exec.schedulers.yarn.logs import container_of
from mlflow_exec.schedulers.yarn.nodes import EMPTIED, node_state
from mlflow_exec.schedulers.yarn.recovery import record_of
from mlflow_exec.schedulers.yarn.status import ENDED

_POLL_S = 0.25
# YARN kills a container's own processes. Those that the first step has started in a session of
# their own are killed by their guard, as soon as the first step is gone.
_GUARD_S = 0.5
_ASK_AGAIN_S = 5.0

Json = Mapping[str, Any]


def end(manager: ResourceManager, application_id: str, timeout_s: float) -> None:
    """Kill an application unless it has ended; return when its container is gone.

    Raises:
        CancelError: It is not, or nobody can tell, after ``timeout_s``.
    """
    end_s = time.monotonic() + timeout_s
    asked_s: float | None = None
    left = "YARN was not reached"
    while True:
        try:
            record = record_of(manager, application_id)
            if str(record.get("state")) in ENDED:
                left = _left(manager, record)
                if not left:
                    if asked_s is not None:
                        time.sleep(_GUARD_S)
                    return
            else:
                left = f"still {record.get('state')}"
                # One who takes over for another ResourceManager may not know that it was asked.
                if asked_s is None or time.monotonic() - asked_s > _ASK_AGAIN_S:
                    manager.kill(application_id)
                    asked_s = time.monotonic()
                    continue
        except NotFoundError:
            return
        except UnreachableError as error:
            left = str(error)
        except ClusterError as error:
            raise CancelError(f"cancel: {application_id}: {error}") from error
        if time.monotonic() > end_s:
            raise CancelError(
                f"cancel: {application_id}: after {timeout_s:g} s {left}; "
                f"yarn application -kill {application_id} was asked for"
            )
        time.sleep(_POLL_S)


def _left(manager: ResourceManager, record: Json) -> str:
    """Say what may still run of an application that has ended; empty if nothing does.

    Raises:
        UnreachableError: The ResourceManager does not answer.
    """
    place = container_of(record)
    if place is None or record.get("state") == "FINISHED":
        return ""  # its container has said by itself that it ends
    node, container = place
    try:
        runs = manager.container_runs(node, container)
        return f"{container} still runs on {node}" if runs else ""
    except UnreachableError:
        state = node_state(manager, record)
        if state in EMPTIED:
            return ""
        return (
            f"the node {node} does not answer (YARN: {state or 'not known any more'}), and "
            f"{container} may still run there"
        )
