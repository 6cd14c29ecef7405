"""What ``mlflow-exec doctor`` finds out about a YARN cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import Login
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.clients.yarn_cli import yarn_command
from mlflow_exec.errors import ClusterError, ConfigError, MissingExtraError
from mlflow_exec.reports import Finding
from mlflow_exec.schedulers.yarn.preflight import check_logs
from mlflow_exec.schedulers.yarn.queues import is_parent, may_submit, queues_in
from mlflow_exec.schedulers.yarn.staging import check_root, path_of
from mlflow_exec.settings import YarnSettings

_JAVA_TIMEOUT_S = 20
_LISTED_QUEUES = 12


def local_findings(settings: YarnSettings) -> Iterator[Finding]:
    """Yield what this machine has: the configuration, Java, Hadoop's client."""
    try:
        config = read_config(settings.hadoop_conf_dir)
        yield Finding(True, "configuration", f"{config.folder} ({config.where_from})")
    except ConfigError as error:
        way = "Set HADOOP_CONF_DIR, or 'hadoop_conf_dir'."
        yield Finding(False, "configuration", str(error), way)
    yield _java()
    try:
        yield Finding(True, "yarn command", yarn_command())
    except ConfigError as error:
        yield Finding(False, "yarn command", str(error), "Install Hadoop's client.")


def _java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else "java"
    where = f"JAVA_HOME={home}" if home else "on the PATH"
    way = "Install Java (Debian, Ubuntu: default-jre-headless), or set JAVA_HOME."
    if shutil.which(program) is None:
        return Finding(False, "java", f"there is no {program!r} ({where})", way)
    try:
        done = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=_JAVA_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(False, "java", f"{program} does not start: {error}", way)
    lines = (done.stderr or done.stdout).splitlines()
    first = lines[0] if lines else f"exit code {done.returncode}"
    way = way if done.returncode else ""
    return Finding(done.returncode == 0, "java", f"{first} ({where})", way)


def findings(
    config: HadoopConfig,
    sign_in: Callable[[], Login],
    connect: Callable[[Login], tuple[ResourceManager, WebHdfs, str]],
    queue: str,
) -> Iterator[Finding]:
    """Yield what is right and what is missing in the cluster, the most basic first.

    Args:
        config: The cluster's configuration.
        sign_in: Says who asks.
        connect: Returns the cluster's clients and the URI of the staging folder.
        queue: The queue of the settings.
    """
    kind = "Kerberos" if config.is_secure else "no sign-in (simple)"
    try:
        login = sign_in()
        how = f"by the keytab {login.keytab}" if login.keytab else "by the ticket cache"
        detail = f"{login.user}, {kind}{' ' + how if config.is_secure else ''}"
        if login.proxy_user:
            detail += f", as {login.proxy_user}"
        yield Finding(True, "user", detail)
        manager, hdfs, root = connect(login)
    except (ConfigError, MissingExtraError) as error:
        yield Finding(False, "user", str(error), "Run kinit, or give 'principal' and 'keytab'.")
        return
    yield from _cluster(manager, queue, login.effective_user, config.get("yarn.admin.acl"))
    yield _staging(hdfs, root, login.effective_user)
    for warning in check_logs(config):
        yield Finding(False, "logs", warning, "Set it to true on all nodes.")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED_QUEUES]) or "none"
    return shown + (", …" if len(names) > _LISTED_QUEUES else "")


def _cluster(
    manager: ResourceManager, queue: str, user: str, administrators: str
) -> Iterator[Finding]:
    try:
        text = f"{manager.url}, Hadoop {manager.info().get('hadoopVersion')}"
        yield Finding(True, "cluster", text)
        nodes = [node for node in manager.nodes() if node.get("state") == "RUNNING"]
        way = "" if nodes else "Start a NodeManager."
        yield Finding(bool(nodes), "nodes", f"{len(nodes)} running", way)
        info = manager.queues()
    except ClusterError as error:
        way = "Check yarn-site.xml, and that the ResourceManager runs there."
        yield Finding(False, "cluster", str(error), way)
        return
    leaves = [queue for queue in queues_in(info) if not is_parent(queue)]
    stopped = [str(q["path"]) for q in leaves if str(q.get("state") or "RUNNING") != "RUNNING"]
    denied = [q for q in leaves if may_submit(info, q, user, administrators) is False]
    closed = [str(queue["path"]) for queue in denied] + stopped
    open_ = [str(queue["path"]) for queue in leaves if queue["path"] not in closed]
    text = f"{user} may use {_some(open_)}" + (f"; not {_some(closed)}" if closed else "")
    chosen = [path for path in open_ if path.removeprefix("root.") == queue or path == queue]
    way = "" if chosen else f"Set 'queue' to one of them; it is {queue!r}."
    yield Finding(bool(chosen), "queues", text, way)


def _staging(hdfs: WebHdfs, root: str, user: str) -> Finding:
    try:
        check_root(hdfs, root, user)
    except (ClusterError, ConfigError) as error:
        return Finding(False, "staging", str(error), "Ask for a home in HDFS, or 'staging_dir'.")
    return Finding(True, "staging", f"{hdfs.filesystem}{path_of(root)}")
