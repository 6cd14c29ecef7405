"""Ray jobs that are only a means to something, and of which nothing is to be left."""

from __future__ import annotations

import time

from mlflow_exec.clients.ray import RayClient

_POLL_S = 0.25
# JOB_MONITOR_LOOP_PERIOD_S of python/ray/dashboard/modules/job/job_manager.py is 1.
_SEEN_S = 2.0


def forget(client: RayClient, submission_id: str) -> None:
    """Delete the record of a finished job; returns after some seconds.

    Ray looks at each job once a second, and writes a failure for one that it finds without a record
    before it has seen its end.

    Raises:
        ClusterError: The cluster cannot be asked, or refuses.
    """
    client.delete(submission_id)
    end_s = time.monotonic() + _SEEN_S
    while time.monotonic() < end_s:
        time.sleep(_POLL_S)
        if client.job(submission_id) is not None:
            client.delete(submission_id)
            return
