"""The REST interface of Ray Serve, on the same dashboard as the jobs'.

There is one document for all applications of a cluster: a PUT replaces it, and deletes those that
are not in it. https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import requests

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.errors import NotFoundError, UnreachableError

_PATH = "/api/serve/applications/"
# The controller is started by the first request, on a machine that may be busy.
_PUT_TIMEOUT_S = 120.0
# How long a replica is looked for that answers.
_PATIENCE_S = 15.0
# What Serve's own proxy says where a replica has died meanwhile, as others do of any other fault.
_LOST = b"Internal Server Error"
_PYTHON = re.compile(r"/python(3\.\d+)/(?:site|dist)-packages/ray/")


class ServeClient(RayClient):
    """One dashboard, with what Serve adds to it."""

    def applications(self) -> dict[str, Any]:
        """Return the document of all applications, with their states; empty where none runs.

        Raises:
            UnreachableError: Serve runs, and its document cannot be had now. Ray answers with an
                empty one then, and who wrote that back would delete all applications.
        """
        document = dict(self._json("GET", _PATH))
        if not (document.get("controller_info") or {}).get("node_id") and self._has_controller():
            raise UnreachableError(
                f"Ray {self.address}: Serve's controller is there, and Ray cannot reach it now"
            )
        return document

    def _has_controller(self) -> bool:
        """Whether Ray knows of a controller of Serve that lives, whatever it answers."""
        only = {"filter_keys": "class_name", "filter_predicates": "=",
                "filter_values": "ServeController", "detail": "0", "limit": "100"}  # fmt: skip
        try:
            found = self._json("GET", "/api/v0/actors", params=only)
        except NotFoundError:
            return False
        actors = ((found.get("data") or {}).get("result") or {}).get("result") or ()
        return any(actor.get("state") == "ALIVE" for actor in actors)

    def put_applications(self, config: Mapping[str, Any]) -> None:
        """Replace the document: applications that are not in it are deleted.

        Raises:
            RejectedError: Serve does not accept it; the message is its own.
        """
        self._request("PUT", _PATH, json=config, read_timeout_s=_PUT_TIMEOUT_S)

    def replica_deaths(self, application: str) -> list[str]:
        """Return what Ray tells of the replicas of an application that have died."""
        found = self._json("GET", "/api/v0/actors", params={"detail": "1", "limit": "1000"})
        deaths = []
        for actor in ((found.get("data") or {}).get("result") or {}).get("result") or ():
            if str(actor.get("class_name")).startswith(f"ServeReplica:{application}:"):
                context = (actor.get("death_cause") or {}).get("actor_died_error_context") or {}
                deaths.append(str(context.get("error_message") or ""))
        return [text for text in deaths if text]

    def python_version(self) -> str:
        """Return the minor version of the cluster's Python (``3.11``); empty if it is not told.

        It is read from the path of Ray's own files in the raylet's command line, which is told
        from some seconds after the node's start on.
        """
        try:
            summary = self._json("GET", "/nodes", params={"view": "summary"})["data"]["summary"]
            texts = [" ".join(node.get("cmdline") or ()) for node in summary]
        except (NotFoundError, KeyError, TypeError, AttributeError):
            return ""
        found = {match.group(1) for text in texts if (match := _PYTHON.search(text))}
        return found.pop() if len(found) == 1 else ""


def ask(
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    *,
    verify: bool | str,
    timeout_s: float,
) -> tuple[int, str, bytes]:
    """Send one request to an application, by POST where there is a body.

    Where a replica is gone before it has answered, another one is asked for a while. So a request
    may reach two of them.

    Returns:
        The status code, the content type and the body of the answer.

    Raises:
        UnreachableError: Nothing answers there, or not in time.
    """

    def attempt() -> requests.Response:
        return _answer(url, body, headers, verify, timeout_s)

    response = repeated(attempt, min(timeout_s, _PATIENCE_S))
    if response.status_code == 500 and response.content == _LOST:
        response = repeated(attempt, min(timeout_s, _PATIENCE_S))
    return response.status_code, response.headers.get("Content-Type", ""), response.content


def server_of(url: str) -> str:
    """Return what a proxy calls itself; empty if it says nothing.

    Raises:
        UnreachableError: Nothing answers there, or not in time.
    """
    return _answer(url, None, {}, True, 10.0).headers.get("Server", "")


def _answer(
    url: str, body: bytes | None, headers: Mapping[str, str], verify: bool | str, timeout_s: float
) -> requests.Response:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no ~/.netrc, and no proxy between clusters and us
            return session.request(
                "GET" if body is None else "POST", url, data=body, headers=dict(headers),
                timeout=(10.0, timeout_s), allow_redirects=False, verify=verify,
            )  # fmt: skip
    except (requests.RequestException, OSError) as error:
        raise UnreachableError(f"{url}: no answer: {error}") from error
