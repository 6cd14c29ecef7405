"""What a ResourceManager knows that may have been started a moment ago.

It answers while it still reads what it knew, so that an application that runs on its node is not
found for some seconds: https://hadoop.apache.org/docs/r3.4.1/hadoop-yarn/hadoop-yarn-site/
ResourceManagerRestart.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import NotFoundError, UnreachableError

_RECOVERY_S = 60.0
# Seen: a second and a half, with few applications.
_YOUNG_S = 10.0
_APPLICATION_ID = re.compile(r"application_(\d+)_\d+")


def valid_id(uid: str) -> bool:
    """Whether this is the id of an application."""
    return _APPLICATION_ID.fullmatch(uid) is not None


def record_of(manager: ResourceManager, application_id: str) -> Mapping[str, Any]:
    """Return an application's record.

    Raises:
        NotFoundError: The cluster does not know it (any more).
        UnreachableError: It cannot be asked, or may not have found it again after a restart.
    """
    try:
        return manager.app(application_id)
    except NotFoundError:
        refuse_recovery(manager, [application_id])
        raise


def refuse_recovery(manager: ResourceManager, missing: Iterable[str]) -> None:
    """Conclude nothing from a ResourceManager that may still be reading what it knew.

    Args:
        manager: The cluster.
        missing: The ids of applications that it says not to know.

    Raises:
        UnreachableError: It was started after one of them, a short while ago.
    """
    begun_ms = {int(match.group(1)) for match in map(_APPLICATION_ID.fullmatch, missing) if match}
    if not begun_ms:
        return
    started_ms = int(manager.info().get("startedOn") or 0)
    now = manager.clock.now()
    if now is None or begun_ms == {started_ms}:
        return
    if now.timestamp() - started_ms / 1000 < _RECOVERY_S:
        raise UnreachableError(f"{manager.url}: it has only just been started")


def refuse_young(manager: ResourceManager) -> None:
    """Believe no ResourceManager that there is no application when it has only just been started.

    Raises:
        UnreachableError: It was, so it may not have found the application again.
    """
    started_ms, now = int(manager.info().get("startedOn") or 0), manager.clock.now()
    if now is not None and now.timestamp() - started_ms / 1000 < _YOUNG_S:
        raise UnreachableError(f"{manager.url}: it has only just been started")
