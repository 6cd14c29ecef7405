"""Takes a job that waits for resources out of Ray's queue.

Ray's stop is a message to the job's supervising actor, which reads it when it runs; a job that
waits for resources would stay in the queue until it has them. Killing the actor takes it out, and
only Ray's Python interface can do that, so a job that asks for no resources does it inside.
"""

from __future__ import annotations

import shlex
import time

from mlflow_exec.clients.ray import RayClient
from mlflow_exec.clients.ray_passing_jobs import run_passing_job

# The names are from python/ray/dashboard/modules/job/common.py. An actor that answers runs its job
# already, and has read the message.
_KILL = """
import sys
import ray
ray.init(logging_level="error", log_to_driver=False)
try:
    actor = ray.get_actor("_ray_internal_job_actor_" + sys.argv[1],
                          namespace="SUPERVISOR_ACTOR_RAY_NAMESPACE")
except ValueError:
    sys.exit()
if not ray.wait([actor.ping.remote()], timeout=0.5)[0]:
    ray.kill(actor)
"""


def take_out_of_queue(client: RayClient, submission_id: str, end_s: float) -> None:
    """Cancel a job that has not started; returns when Ray was told to, or at ``end_s``.

    Args:
        client: The cluster.
        submission_id: The job.
        end_s: When to give up, by ``time.monotonic()``.

    Raises:
        ClusterError: The cluster cannot be asked, or refuses.
    """
    command = f"exec python -I -c {shlex.quote(_KILL)} {shlex.quote(submission_id)}"
    timeout_s = max(end_s - time.monotonic(), 0.0)
    run_passing_job(client, {"entrypoint": command}, f"{submission_id}-cancel", timeout_s)
