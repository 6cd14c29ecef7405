"""The packed environment of a job, from this machine into HDFS."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.errors import RejectedError
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.yarn import packing_build, packing_store
from mlflow_exec.schedulers.yarn.packing import Packing
from mlflow_exec.schedulers.yarn.plan import ENVIRONMENT, ENVIRONMENTS_FOLDER
from mlflow_exec.schedulers.yarn.staging import path_of
from mlflow_exec.templates import merge

_log = logging.getLogger(__name__)


def build(hdfs: WebHdfs, root: str, plan: Plan, packing: Packing) -> None:
    """Pack an environment on this machine, unless HDFS has it.

    Args:
        hdfs: The file system of the staging folder.
        root: Its URI.
        plan: Of the job.
        packing: Its environment.

    Raises:
        ConfigError: It cannot be built here.
        ClusterError: HDFS cannot be asked.
    """
    max_age_s = plan.spec.settings.environment_cache_max_age_s
    if packing_store.find(hdfs, _folder(root), packing, max_age_s) is None:
        packing_build.pack(
            packing, plan.spec, packing_build.local_folder(), _log.info,
            secrets=plan.secrets, max_age_s=max_age_s,
        )  # fmt: skip


def upload(hdfs: WebHdfs, root: str, plan: Plan, packing: Packing) -> Mapping[str, Any]:
    """Return the application of a plan, with its environment being in HDFS.

    Args and errors are those of `build`.
    """
    settings = plan.spec.settings
    uri = packing_build.provide(
        hdfs, _folder(root), packing, plan.spec, packing_build.local_folder(), _log.info,
        secrets=plan.secrets,
        max_age_s=settings.environment_cache_max_age_s,
        limit_bytes=settings.environment_cache_limit,
    )  # fmt: skip
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
