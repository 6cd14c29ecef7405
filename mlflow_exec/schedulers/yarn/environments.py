"""The packed environment of a job, from this machine into HDFS."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.errors import RejectedError
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.yarn import packing_build, packing_store
from mlflow_exec.schedulers.yarn.packing import Packing
from mlflow_exec.schedulers.yarn.plan import ENVIRONMENT, ENVIRONMENTS_FOLDER
from mlflow_exec.schedulers.yarn.staging import path_of
from mlflow_exec.templates import merge

_UNUSED_S = 30 * 86400.0
_log = logging.getLogger(__name__)


def build(hdfs: WebHdfs, root: str, plan: Plan, packing: Packing) -> str | None:
    """Return where an environment is in HDFS; None if it is there not yet, but packed here.

    Args:
        hdfs: The file system of the staging folder.
        root: Its URI.
        plan: Of the job.
        packing: Its environment.

    Raises:
        ConfigError: It cannot be built here.
        ClusterError: HDFS cannot be asked.
    """
    found = packing_store.find(hdfs, _folder(root), packing, _max_age_s(plan))
    if found is None:
        _pack(plan, packing)
    return found


def upload(hdfs: WebHdfs, root: str, plan: Plan, packing: Packing) -> Mapping[str, Any]:
    """Return the application of a plan, with its environment being in HDFS.

    Args and errors are those of `build`.
    """
    folder, max_age_s = _folder(root), _max_age_s(plan)
    uri = packing_store.find(hdfs, folder, packing, max_age_s)
    if uri is None:
        path = _pack(plan, packing)
        _log.info("environment: uploading %.0f MiB", path.stat().st_size / 1024**2)
        uri = packing_store.put(hdfs, folder, packing, path, max_age_s)
        limit_bytes = plan.spec.settings.environment_cache_limit
        packing_store.clean(hdfs, folder, _UNUSED_S, limit_bytes)
    return _with(plan.objects[0], uri)


def found_again(hdfs: WebHdfs, application: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an application with its packed environment as it is in HDFS now, if it has one.

    Raises:
        RejectedError: The environment is gone.
    """
    file = application["master"]["files"].get(ENVIRONMENT)
    if file is None:
        return application
    folder, _, name = path_of(str(file["source"])).rpartition("/")
    # Whatever its age: what the first start had is what a later one is to have.
    found = packing_store.find(hdfs, folder, Packing("", "", name, pinned=True))
    if found is None:
        raise RejectedError(f"{file['source']}: it is not in HDFS any more, and the job needs it")
    return _with(application, found)


def _with(application: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
    # Beside one that has become too old there is a newer one by another name.
    return merge(application, {"master": {"files": {ENVIRONMENT: {"source": uri}}}})


def _folder(root: str) -> str:
    return f"{path_of(root)}/{ENVIRONMENTS_FOLDER}"


def _max_age_s(plan: Plan) -> float:
    return plan.spec.settings.environment_cache_max_age_s


def _pack(plan: Plan, packing: Packing) -> Path:
    return packing_build.pack(
        packing, plan.spec, packing_build.local_folder(), _log.info,
        secrets=plan.secrets, max_age_s=_max_age_s(plan),
    )  # fmt: skip
