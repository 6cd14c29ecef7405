"""The ways to a Kubernetes cluster: kubeconfig contexts, and the cluster around this process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from kubernetes import config as kubeconfig
from kubernetes.client import ApiClient, Configuration
from kubernetes.config.config_exception import ConfigException
from urllib3.connection import HTTPConnection

from mlflow_exec.clients.kubernetes import PROBE_PATIENCE_S, KubernetesClient
from mlflow_exec.errors import ClusterError, ConfigError, HandleError, NotFoundError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECTIONS = 16
# A connection whose other end is gone without a word (a dropped route, a forgetful gateway) is
# noticed by TCP itself, be nobody sending on it (kubernetes-client/python#2462): after 15 s of
# silence it is probed every 5 s, and dead when 3 probes, or sent bytes for 30 s, have no answer.
_IDLE_S, _PROBE_S, _PROBES, _UNACKNOWLEDGED_MS = 15, 5, 3, 30_000
_clients: dict[tuple[str, str, tuple[tuple[int, int], ...]], KubernetesClient] = {}
_lock = threading.Lock()


def from_kubeconfig(context: str | None, path: str | None = None) -> KubernetesClient:
    """Return a client for a context of a kubeconfig; the current one if None.

    The same one for the same context of an unchanged file, so that a process with many jobs keeps
    its connections.

    Raises:
        ConfigError: There is no such file or context. Nothing else is tried in its place.
    """
    file = kubeconfig_path(path)
    known = contexts(path)
    name = context or next((n for n, _, current in known if current), None)
    if name is None:
        raise ConfigError(
            f"kubeconfig {file!r}: no context is current; known: {_names(known)}; "
            f"name one by 'context'"
        )
    namespace = next((ns for n, ns, _ in known if n == name), None)
    if namespace is None:
        raise ConfigError(
            f"context: {name!r} is not in kubeconfig {file!r}; known: {_names(known)}"
        )

    def load() -> ApiClient:
        configuration = _configuration()
        with _readable(file):
            return kubeconfig.new_client_from_config(
                file, name, persist_config=False, client_configuration=configuration
            )

    key = (file, name, _version(file))
    with _lock:
        if key not in _clients:
            _clients[key] = KubernetesClient(f"context {name!r}", namespace, load)
        return _clients[key]


def _configuration() -> Configuration:
    configuration = Configuration()
    configuration.connection_pool_maxsize = _CONNECTIONS
    options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE_S),
        ("TCP_KEEPALIVE", _IDLE_S),  # as macOS calls it
        ("TCP_KEEPINTVL", _PROBE_S),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, name):  # each system has some of them
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    configuration.socket_options = options
    return configuration


def _version(file: str) -> tuple[tuple[int, int], ...]:
    """Return what changes when a kubeconfig is written anew."""
    found = (Path(part) for part in file.split(os.pathsep) if part)
    states = [path.stat() for path in found if path.exists()]
    return tuple((state.st_mtime_ns, state.st_ino) for state in states)


def in_cluster() -> KubernetesClient:
    """Return a client for the cluster that this process runs in, as its service account.

    Raises:
        ConfigError: This process does not run in a pod.
    """

    def load() -> ApiClient:
        configuration = _configuration()
        try:
            kubeconfig.load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            raise ConfigError(f"in-cluster configuration: {error}") from error
        return ApiClient(configuration)

    client = KubernetesClient("the pod's service account", "default", load)
    if _NAMESPACE_FILE.exists():
        client.namespace = _NAMESPACE_FILE.read_text().strip()
    return client


def kubeconfig_path(path: str | None = None) -> str:
    """Return the kubeconfig file that applies: the given one, KUBECONFIG, or the default."""
    return os.path.expanduser(path or os.environ.get("KUBECONFIG") or "~/.kube/config")


def contexts(path: str | None = None) -> list[tuple[str, str, bool]]:
    """Return the contexts of a kubeconfig: name, namespace, whether it is current.

    Raises:
        ConfigError: The file is not there or is not a kubeconfig.
    """
    file = kubeconfig_path(path)
    return list(_contexts(file, _version(file)))


@lru_cache(maxsize=16)
def _contexts(
    file: str, version: tuple[tuple[int, int], ...]
) -> tuple[tuple[str, str, bool], ...]:
    """Read the contexts once for each version of the file: parsing YAML is slow."""
    with _readable(file):
        merger = kubeconfig.kube_config.KubeConfigMerger(file)
        if merger.config is None:
            raise ConfigError(f"kubeconfig {file!r}: there is no such file")
        data = merger.config.value
        current = data.get("current-context")
        # Files merged from several paths come with their entries wrapped.
        items = [getattr(item, "value", item) for item in data.get("contexts") or []]
        result = []
        for item in items:
            namespace = (item.get("context") or {}).get("namespace") or "default"
            result.append((item["name"], namespace, item["name"] == current))
    return tuple(result)


@contextmanager
def _readable(file: str) -> Iterator[None]:
    try:
        yield
    except ConfigException as error:
        raise ConfigError(f"kubeconfig {file!r}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"kubeconfig {file!r}: cannot be used: {error}") from error


def _names(known: list[tuple[str, str, bool]]) -> str:
    return ", ".join(name for name, _, _ in known) or "none"


def connect(context: str | None, path: str | None) -> KubernetesClient:
    """Return the client that settings ask for.

    A named context is used or is an error: never another cluster in its place. Without one, the
    current context where there is a kubeconfig, else the pod's own cluster.

    Raises:
        ConfigError: There is no way to a cluster.
    """
    files = kubeconfig_path(path).split(os.pathsep)
    if context or path or any(Path(file).exists() for file in files if file):
        return from_kubeconfig(context, path)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    raise ConfigError(
        f"kubernetes: no kubeconfig at {kubeconfig_path(path)!r} and this process is not in a "
        f"pod; set KUBECONFIG or 'kubeconfig'"
    )


def find(
    identity: str,
    cluster_name: str | None,
    context: str | None,
    path: str | None,
    holds: Callable[[KubernetesClient], bool],
) -> KubernetesClient:
    """Return a client for the cluster of that identity, whatever its context is called here.

    Args:
        identity: Of the cluster that is looked for.
        cluster_name: The setting; it names the identity of every context.
        context: The only one to look at; all of them if None.
        path: A kubeconfig file; the usual ones if None.
        holds: Whether a cluster has the very object that is looked for. It decides where the
            credentials may not read the identity, as those of a pod usually may not.

    Raises:
        HandleError: Each configured cluster told its identity, and it is another.
        ConfigError: None is known to be the one. Either message lists what was tried.
    """
    ways: list[Callable[[], KubernetesClient]] = []
    tried: list[str] = []
    if context is not None:
        ways.append(lambda: from_kubeconfig(context, path))
    else:
        try:
            known = contexts(path)
        except ConfigError as error:
            known = []
            tried.append(str(error))
        for name, _, _ in sorted(known, key=lambda item: not item[2]):
            ways.append(lambda name=name: from_kubeconfig(name, path))  # type: ignore[misc]
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            ways.append(in_cluster)
    certain = bool(ways) and cluster_name is None and KubernetesClient.is_certain(identity)
    for way in ways:
        try:
            client = way()
            found = _is_the_one(client, identity, cluster_name, holds)
        except (ConfigError, ClusterError) as error:
            tried.append(str(error))
            certain = False
            continue
        if found:
            return client
        certain = certain and client.is_certain(client.identity())
        named = cluster_name is not None
        seen = "does not have the job" if named else f"is cluster {client.identity()}"
        tried.append(f"{client.name} {seen}")
    if not certain and os.environ.get("KUBERNETES_SERVICE_HOST"):
        tried.append(
            "without 'get' on namespace kube-system (the reconciler's 'read_cluster_id') a pod "
            "knows its own cluster only by a job that is still there"
        )
    more = "leave 'context' out, or point" if context else "point"
    raise (HandleError if certain else ConfigError)(
        f"job handle: no configured cluster is {identity}. Tried: {'; '.join(tried) or 'nothing'}."
        f" To find it, {more} KUBECONFIG at one that is"
    )


def _is_the_one(
    client: KubernetesClient,
    identity: str,
    cluster_name: str | None,
    holds: Callable[[KubernetesClient], bool],
) -> bool:
    probed = cluster_name or client.identity(patience_s=PROBE_PATIENCE_S)
    if cluster_name is None and probed == identity:
        return True
    try:
        # A name given by hand says nothing of one context or another; only the job does.
        return client.is_same(identity, holds) if cluster_name is None else holds(client)
    except NotFoundError:
        return False
