"""Applications by Serve's Python interface, which a Ray job of ours calls inside of the cluster.

They are not in Serve's document, so that nobody who writes it can undo them. The job looks whether
the revision that it follows is still the newest; who was overtaken nevertheless sees it afterwards.
It is gone when it has ended; the application is Serve's own.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

from mlflow_exec import shipping
from mlflow_exec.clients.ray_packages import package_name, put_package
from mlflow_exec.clients.ray_passing_jobs import Passed, run_passing_job
from mlflow_exec.errors import ClusterError, ConflictError
from mlflow_exec.releases import Revision
from mlflow_exec.scoring.ray_orders import JOB_MODULE, ORDER, PASSED_OVER, REFUSED
from mlflow_exec.targets.ray_serve.declarative import tell_passed_over
from mlflow_exec.targets.ray_serve.document import (
    is_running,
    next_application,
    without_application,
)
from mlflow_exec.targets.ray_serve.status import (
    api_of,
    failure_of,
    submitted,
    user_config,
)
from mlflow_exec.targets.ray_serve.turns import turn
from mlflow_exec.targets.ray_serve.writing import TRIES, Writer, start_options

# A Serve that somebody else starts meanwhile is left as it is.
_START = """
import json, sys
from ray import serve
serve.start(**json.loads(sys.argv[1]))
"""
# It starts Python twice, on a machine that may be busy.
_JOB_S = 300.0


class ImperativeWriter(Writer):
    """Has a job change one application."""

    def write(self, revision: Revision) -> None:
        """See `Writer`."""
        self._start_serve()
        for _ in range(TRIES):
            details = self.client.applications()
            application = next_application(details, revision, self.revision_limit)
            here = (details.get("applications") or {}).get(revision.name) or {}
            stands, has_entry = submitted(here), bool(here.get("deployed_app_config"))
            if user_config(stands).get("revision") == revision.to_data() and not has_entry:
                return
            is_going = here.get("status") == "DELETING"
            order = {
                "application": application,
                "version": _version(application),
                # As it stands there: another version of mlflow-exec may have written it.
                "before": None if is_going else user_config(stands).get("revision"),
            }
            if has_entry:
                self._move(revision.name, order)
            else:
                self._run(revision.name, order)
        raise ConflictError(
            f"{revision.name}: others change it all the time; {TRIES} tries were overwritten; "
            f"try again"
        )

    def remove(self, name: str) -> None:
        """See `Writer`."""
        self._run(name, {"remove": name})

    def _move(self, name: str, order: Mapping[str, Any]) -> None:
        """Run the job for an application that has an entry in the document, and remove that.

        A controller that starts anew would apply the document's entry again. Who writes the
        document on this machine meanwhile must not put it back.
        """
        with turn(self.client.address):
            self._run(name, order)
            details = self.client.applications()
            here = (details.get("applications") or {}).get(name)
            if here is not None and api_of(here) == "imperative":
                self.client.put_applications(without_application(details, name))

    def _start_serve(self) -> None:
        """Start Serve, where there is none; one that the other job starts would keep its packages.

        Not by the document: who writes one that he has read as empty deletes what somebody else
        has put there meanwhile.
        """
        if is_running(self.client.applications()):
            return
        options = json.dumps(start_options(self.client))
        command = f"exec python -c {shlex.quote(_START)} {shlex.quote(options)}"
        passed = run_passing_job(self.client, {"entrypoint": command}, "mlflow-serve", _JOB_S)
        if passed.status not in ("SUCCEEDED", ""):
            raise _failed("Serve: the Ray job that starts it", passed)

    def _run(self, name: str, order: Mapping[str, Any]) -> None:
        """Run the job, and return when it has done what was ordered.

        Raises:
            ConflictError: The job has found that another one was before it.
            ClusterError: It has failed; the message says why.
        """
        passed = run_passing_job(self.client, self._job(order), f"mlflow-serve-{name}", _JOB_S)
        if not passed.is_over:
            raise ClusterError(
                f"Ray {self.client.address}: a job has not put {name!r} on Serve after "
                f"{_JOB_S:g} s and was stopped; it was {passed.status}: "
                f"{passed.message or 'Ray does not say why'}"
            )
        for line in passed.log.splitlines():
            if line.startswith(PASSED_OVER):
                tell_passed_over(self.client, set(line[len(PASSED_OVER) :].split(", ")))
            if line.startswith(REFUSED):
                raise ConflictError(
                    f"{name}: {line[len(REFUSED) :]}; look at it by 'mlflow deployments get', "
                    f"then apply yours again"
                )
        if passed.status not in ("SUCCEEDED", ""):  # removed by somebody: what stands there tells
            raise _failed(f"{name}: the Ray job that puts it on Serve", passed)

    def _job(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Return the submission, whose packages are in Ray's store."""
        text = json.dumps(order, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        folder = f"mlflow_exec_order_{digest[:16]}"
        packages = []
        for files in (shipping.code_files(), {f"{folder}/{ORDER}": text.encode()}):
            sha256, content = shipping.zipped(files)
            packages.append(package_name(sha256))
            put_package(self.client, packages[-1], content)
        return {
            "entrypoint": f"python -m {JOB_MODULE} {folder}",
            # No working_dir: Serve would give it to the replicas.
            "runtime_env": {"py_modules": [f"gcs://{package}" for package in packages]},
        }


def _version(application: Mapping[str, Any]) -> str:
    """Return what is the same as long as replicas may stay."""
    parts = {key: application.get(key) for key in ("import_path", "runtime_env", "args")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _failed(what: str, passed: Passed) -> ClusterError:
    lines = [line.strip() for line in passed.log.splitlines() if line.strip()]
    # Where it ran, Ray's message is the log, too.
    log = passed.log
    text = log[log.rfind("Traceback (") :] if "Traceback (" in log else "\n".join(lines[-20:])
    failure = failure_of(text.strip() or passed.message)
    return ClusterError(f"{what} has {passed.status}: {failure}")
