"""YARN over HTTP: the ResourceManager's REST interface, and a NodeManager's logs of what it runs.

https://hadoop.apache.org/docs/stable/hadoop-yarn/hadoop-yarn-site/ResourceManagerRest.html and
NodeManagerRest.html; the form of a log was read from Hadoop 3.4 and is marked where it is used.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import requests

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_errors import unanswered
from mlflow_exec.clients.hadoop_http import HadoopHttp, Json, Login
from mlflow_exec.clients.server_clock import ServerClock
from mlflow_exec.errors import NotFoundError, UnreachableError

_CLUSTER = "/ws/v1/cluster"
_CONTAINERS = "/ws/v1/node/containers"
_LOG_TIMEOUT_S = 120.0
# ContainerState.java of the NodeManager and its outward form.
_ENDED_CONTAINERS = ("DONE", "COMPLETE", "EXITED_WITH_SUCCESS", "EXITED_WITH_FAILURE")
_PIECE_BYTES = 64 * 1024
# A log grows between two requests; this much more of its end is asked for than is missing.
_GROWTH_BYTES = 1024**2
# LogToolUtils.java puts this before a log's content, and NMWebServices.java a last line after it.
_LOG_HEADER = re.compile(rb"\AContainer: [^\n]*\n.*?\nLogLength:(\d+)\nLogContents:\n", re.DOTALL)
_LONGEST_HEADER_BYTES = 16 * 1024


class ResourceManager:
    """The ResourceManager of one cluster, or the active one of several. Thread-safe.

    Every failure is one of `mlflow_exec.errors`.
    """

    def __init__(
        self, config: HadoopConfig, login: Login, *, verify: bool | str = True
    ) -> None:
        """Keep what is needed to ask; nothing is asked yet.

        Args:
            config: The cluster's configuration.
            login: Who asks.
            verify: Whether certificates are checked, or the file with their authority.

        Raises:
            ConfigError: The configuration names no address.
        """
        self._login = login
        self._scheme = config.yarn_scheme
        self._verify = verify
        self._http = HadoopHttp("YARN", config.resource_managers(), login, verify=verify)
        self._nodes: dict[str, HadoopHttp] = {}
        self._lock = threading.Lock()

    @property
    def login(self) -> Login:
        """Who asks."""
        return self._login

    @property
    def url(self) -> str:
        """The daemon that answered last."""
        return self._http.url

    @property
    def clock(self) -> ServerClock:
        """The ResourceManagers' clock."""
        return self._http.clock

    # -- the cluster ------------------------------------------------------------------------

    def info(self) -> Json:
        """Return ``clusterInfo`` of the active ResourceManager, such as ``id`` and ``startedOn``.

        Raises:
            UnreachableError: None is active; with reason ``StandbyException``.
        """
        return self._http.part("GET", f"{_CLUSTER}/info", "clusterInfo", check=_active_info)

    def queues(self) -> Json:
        """Return ``schedulerInfo``, with the tree of queues in it."""
        return self._http.part("GET", f"{_CLUSTER}/scheduler", "scheduler", "schedulerInfo")

    def nodes(self) -> list[Json]:
        """Return the nodes, lost ones too."""
        return _items(self._json("GET", "/nodes"), "nodes", "node")

    def labels(self) -> list[Json]:
        """Return the node labels; none where they are not enabled."""
        return _items({"labels": self._json("GET", "/get-node-labels")}, "labels", "nodeLabelInfo")

    # -- applications -----------------------------------------------------------------------

    def apps(
        self,
        *,
        tag: str | None = None,
        user: str | None = None,
        states: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[Json]:
        """Return applications by one request; without their resource requests.

        Args:
            tag: Only those with this tag; YARN keeps tags in lower case.
            user: Only those of this user.
            states: Only those in one of these states.
            limit: At most so many.
        """
        params: dict[str, Any] = {"deSelects": "resourceRequests"}
        params |= {"applicationTags": tag.lower()} if tag else {}
        params |= {"user": user} if user else {}
        params |= {"states": ",".join(states)} if states else {}
        params |= {"limit": limit} if limit is not None else {}
        return _items(self._json("GET", "/apps", params=params), "apps", "app")

    def app(self, app_id: str) -> Json:
        """Return an application.

        Raises:
            NotFoundError: YARN does not know it, be it that it knows it no more.
        """
        return self._http.part("GET", f"{_CLUSTER}{_app(app_id)}", "app")

    def attempts(self, app_id: str) -> list[Json]:
        """Return an application's attempts, in order.

        Raises:
            NotFoundError: YARN does not know the application.
        """
        return _items(self._json("GET", f"{_app(app_id)}/appattempts"), "appAttempts", "appAttempt")

    def kill(self, app_id: str) -> None:
        """Have an application killed; one that has finished keeps its result.

        Returns before it has ended: that is seen in its state.

        Raises:
            NotFoundError: YARN does not know it.
            AccessDeniedError: It is another user's.
        """
        wanted = {"state": "KILLED"}
        response = self._http.ask("PUT", f"{_CLUSTER}{_app(app_id)}/state", json=wanted)
        if response.status_code == 202:  # accepted; the second one says whether it was carried out
            self._http.ask("PUT", f"{_CLUSTER}{_app(app_id)}/state", json=wanted)

    def set_priority(self, app_id: str, priority: int) -> None:
        """Change an application's priority; a higher one is more urgent."""
        self._http.ask("PUT", f"{_CLUSTER}{_app(app_id)}/priority", json={"priority": priority})

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        return self._http.json(method, _CLUSTER + path, **arguments)

    # -- logs of what runs ------------------------------------------------------------------

    def container_files(
        self, node_http: str, container_id: str, user: str
    ) -> list[tuple[str, int]]:
        """Return name and size in bytes of each file that a container logs to.

        Args:
            node_http: ``host:port`` of its NodeManager, such as ``amHostHttpAddress``.
            container_id: The container.
            user: Whose it is; a NodeManager knows it by itself.

        Returns:
            Nothing where the node has no such container, or has no file of it any more.

        Raises:
            AccessDeniedError: They may not be read.
            UnreachableError: The NodeManager gives no answer.
        """
        path = f"{_CONTAINERS}/{quote(container_id, safe='')}/logs"
        answer = self._node(node_http).json("GET", path, redirects=True)
        found: dict[str, int] = {}
        entries = answer if isinstance(answer, list) else [answer or {}]
        for entry in entries:
            told = entry.get("containerLogsInfo", entry) if isinstance(entry, dict) else {}
            for group in told if isinstance(told, list) else [told]:
                # Those that were already gathered are older parts of the same files.
                if str(group.get("logAggregationType", "LOCAL")) != "LOCAL":
                    continue
                for file in _listed(group.get("containerLogInfo")):
                    found[str(file["fileName"])] = int(file["fileSize"])
        return sorted(found.items())

    def container_runs(self, node_http: str, container_id: str) -> bool:
        """Whether a container's processes may still be there, as its node tells.

        Raises:
            UnreachableError: The NodeManager gives no answer.
        """
        path = f"{_CONTAINERS}/{quote(container_id, safe='')}"
        try:
            answer = self._node(node_http).json("GET", path, redirects=True) or {}
        except NotFoundError:
            return False
        return str(answer.get("container", {}).get("state")) not in _ENDED_CONTAINERS

    def container_log(
        self, node_http: str, container_id: str, file: str, *, start_byte: int = 0
    ) -> Iterator[bytes]:
        """Return the pieces of a log as it is now; it is opened before the first is asked for.

        Args:
            node_http: ``host:port`` of its NodeManager.
            container_id: The container.
            file: The file's name.
            start_byte: How much of its beginning is left out.

        Raises:
            NotFoundError: There is no such file, or no such container any more.
            UnreachableError: Also while reading: the connection broke.
        """
        node = self._node(node_http)
        path = f"{_CONTAINERS}/{quote(container_id, safe='')}/logs/{quote(file, safe='')}"
        params: dict[str, Any] = {"format": "text"}
        if start_byte:
            # Only a log's end can be asked for, so it is asked how far from it the rest begins.
            sizes = dict(self.container_files(node_http, container_id, ""))
            missing_bytes = max(0, sizes.get(file, 0) - start_byte)
            params["size"] = -(missing_bytes + _GROWTH_BYTES)
        response = node.ask(
            "GET", path, params=params, stream=True, timeout_s=_LOG_TIMEOUT_S, redirects=True
        )
        where = f"YARN {node.url}: {file} of {container_id}"
        return _log_pieces(where, response, start_byte, -int(params.get("size", 0)))

    def _node(self, node_http: str) -> HadoopHttp:
        with self._lock:
            if node_http not in self._nodes:
                url = node_http if "://" in node_http else f"{self._scheme}://{node_http}"
                self._nodes[node_http] = HadoopHttp(
                    "YARN", [url], self._login, verify=self._verify
                )
            return self._nodes[node_http]


def _active_info(answer: Any) -> str:
    """Say why the ResourceManager that answered is not the active one; empty if it is."""
    info = (answer.get("clusterInfo") if isinstance(answer, dict) else None) or {}
    state, ha_state = str(info.get("state", "STARTED")), str(info.get("haState", "ACTIVE"))
    return "" if ha_state == "ACTIVE" and state == "STARTED" else f"it is {ha_state}, {state}"


def _app(app_id: str) -> str:
    return f"/apps/{quote(app_id, safe='')}"


def _items(answer: Any, outer: str, inner: str) -> list[Json]:
    """Return a list out of an answer, where an empty one is null and one entry may stand alone."""
    found = (answer or {}).get(outer) or {}
    return [dict(entry) for entry in _listed(found.get(inner) if isinstance(found, dict) else None)]


def _listed(found: Any) -> list[Any]:
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


# -- a log's form ---------------------------------------------------------------------------


def _log_pieces(
    where: str, response: requests.Response, start_byte: int, asked_bytes: int
) -> Iterator[bytes]:
    """Yield a log's content from a byte on, without what stands before and after it."""
    with response:
        pieces = response.iter_content(_PIECE_BYTES)
        try:
            beginning = b""
            match = None
            for piece in pieces:
                beginning += piece
                match = _LOG_HEADER.match(beginning)
                if match or len(beginning) > _LONGEST_HEADER_BYTES:
                    break
            if match is None:
                return  # an empty log has no header, only an end
            length_bytes = int(match.group(1))
            sent_bytes = min(length_bytes, asked_bytes) if asked_bytes else length_bytes
            skip_bytes = start_byte - (length_bytes - sent_bytes)
            if skip_bytes < 0:
                raise UnreachableError(f"{where}: it grew too fast to be read; read it again")
            yield from _between(beginning[match.end() :], pieces, skip_bytes, sent_bytes)
        except (requests.RequestException, OSError) as error:
            raise unanswered(where, error) from error


def _between(
    first: bytes, others: Iterator[bytes], skip_bytes: int, end_bytes: int
) -> Iterator[bytes]:
    """Yield what stands between two places of a stream."""
    at = 0
    piece: bytes | None = first
    while piece is not None and at < end_bytes:
        part = piece[max(0, skip_bytes - at) : end_bytes - at]
        at += len(piece)
        if part:
            yield part
        piece = next(others, None)
    if at < end_bytes:
        raise UnreachableError("YARN: a log ended in the middle of what was announced")
