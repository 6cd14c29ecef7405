"""What operators and accidents do to the jobs of a YARN."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until
from tests.clusters.yarn import applications, configuration, options
from tests.clusters.yarn.cluster import NODE
from tests.mlflow.yarn_runs import YarnRuns

LIFETIME_S = 10
SHORT_LIVED = "ml"
"""The queue whose applications are ended after `LIFETIME_S`."""
NODE_LOST_S = 5
NODE_MEMORY_MB = 16384
NODEMANAGER = f"nodemanager-{NODE}"

_LIFETIME = f"yarn.scheduler.capacity.root.{SHORT_LIVED}.maximum-application-lifetime"

FRAIL = configuration.merged(
    options.preemption(),
    {
        "yarn-site": {
            "yarn.nm.liveness-monitor.expiry-interval-ms": str(NODE_LOST_S * 1000),
            # What only fills a queue never says that it lives.
            "yarn.am.liveness-monitor.expiry-interval-ms": "600000",
            "yarn.resourcemanager.application-timeouts.monitor.interval-ms": "500",
            # Far more than the jobs of a module ask for: nobody waits unless it is meant.
            "yarn.nodemanager.resource.memory-mb": str(NODE_MEMORY_MB),
            "yarn.scheduler.maximum-allocation-mb": str(NODE_MEMORY_MB),
            "yarn.nodemanager.resource.cpu-vcores": "64",
        },
        "capacity-scheduler": {_LIFETIME: str(LIFETIME_S)},
    },
)
"""Properties of a cluster that notices soon what is wrong."""

def processes(yarn: YarnRuns, job: ExecSubmittedRun) -> dict[int, str]:
    """Return the command line of each process of a job, by its number."""
    ours = job.handle.uid.removeprefix("application_")
    found = {}
    for container, pids in yarn.cluster.containers().items():
        for pid in pids if f"_{ours}_" in container else ():
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def kill_container(yarn: YarnRuns, job: ExecSubmittedRun) -> None:
    """Kill all of a job's processes, without a word."""
    _kill(*processes(yarn, job))


def kill_first_step(yarn: YarnRuns, job: ExecSubmittedRun) -> None:
    """Kill a job's first step, and nothing else."""
    named = [pid for pid, command in processes(yarn, job).items() if " -I -S -u " in command]
    first = [pid for pid in named if Path(f"/proc/{pid}/comm").read_text().startswith("python")]
    assert len(first) == 1, processes(yarn, job)
    _kill(*first)


def kill_as_operator(yarn: YarnRuns, job: ExecSubmittedRun) -> None:
    """Do as `yarn application -kill` of the cluster's administrator does."""
    applications.kill(yarn.cluster, job.handle.uid, user=configuration.ADMIN)


def kill_node(yarn: YarnRuns) -> None:
    """Take the power from the node: its NodeManager and all containers are gone at once."""
    yarn.cluster.kill_daemon(NODEMANAGER)
    for pids in yarn.cluster.containers().values():
        _kill(*pids)
    until(lambda: not yarn.cluster.containers(), "no process of a container is left")


def _kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
