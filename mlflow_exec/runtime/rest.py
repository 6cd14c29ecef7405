"""A run and its artifacts behind MLflow's tracking server, over its REST API."""

from __future__ import annotations

import json
import urllib.parse
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence

from .end import RunRecord
from .tracking_server import (
    RequestError,
    TrackingServer,
    copy_answer,
    is_http,
    redact,
    with_retries,
)

_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
# The server passes what it got on to its store before it answers.
_STORE_TIMEOUT_S = 300.0


class RestRunStore:
    """The run store of ``end.py`` over MLflow's REST API."""

    def __init__(self, server: TrackingServer) -> None:
        self._server = server

    def read(self, run_id: str) -> RunRecord:
        """Return the run's status and tags."""
        answer = self._server.api("GET", "runs/get?" + urllib.parse.urlencode({"run_id": run_id}))
        try:
            run = answer["run"]
            tags = {tag["key"]: tag.get("value", "") for tag in run["data"].get("tags", [])}
            begun_ms = int(run["info"].get("start_time") or 0)
            return RunRecord(run["info"]["status"], tags, begun_ms)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RequestError(f"GET {self._server.url}: the answer is not a run") from error

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set all the tags in one request."""
        pairs = [{"key": key, "value": value} for key, value in tags.items()]
        self._server.api("POST", "runs/log-batch", {"run_id": run_id, "tags": pairs})

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        """Delete the tags; one that is not there is no error."""
        for key in keys:
            try:
                self._server.api("POST", "runs/delete-tag", {"run_id": run_id, "key": key})
            except RequestError as error:
                if error.status != 404:
                    raise

    def set_status(self, run_id: str, status: str, end_time_ms: Optional[int]) -> None:
        """Set the run's status and, unless None, its end time (milliseconds since 1970)."""
        body: Dict[str, Any] = {"run_id": run_id, "status": status}
        if end_time_ms is not None:
            body["end_time"] = end_time_ms
        self._server.api("POST", "runs/update", body)


class ArtifactRoot:
    """A run's artifacts behind the tracking server's proxy.

    Args:
        server: Whose credentials are used.
        url: The root's URL in the proxy.
    """

    def __init__(self, server: TrackingServer, url: str) -> None:
        self._server = server
        self.url = url.rstrip("/")
        base, _, within = self.url.partition(_ARTIFACTS)
        self._list_url = base + _ARTIFACTS
        self._within = urllib.parse.unquote(within.strip("/"))

    @classmethod
    def of(cls, server: TrackingServer, artifact_uri: Optional[str]) -> Optional[ArtifactRoot]:
        """Return the root for a run's artifact URI; None where it is not proxied by HTTP."""
        parts = urllib.parse.urlsplit(artifact_uri or "")
        if parts.scheme == "mlflow-artifacts":
            tracking = urllib.parse.urlsplit(server.url)
            within = parts.path.strip("/")
            prefix = _ARTIFACTS.strip("/")
            if within.startswith(prefix):
                within = within[len(prefix) :].strip("/")
            path = f"{tracking.path.rstrip('/')}{_ARTIFACTS}/{urllib.parse.quote(within)}"
            netloc = parts.netloc or tracking.netloc
            return cls(server, urllib.parse.urlunsplit((tracking.scheme, netloc, path, "", "")))
        if is_http(artifact_uri) and _ARTIFACTS in parts.path:
            return cls(server, artifact_uri or "")
        return None

    def _path_url(self, path: str) -> str:
        return f"{self.url}/{urllib.parse.quote(path)}"

    def put(self, path: str, body: IO[bytes], size_bytes: int, patience_s: float) -> None:
        """Store the file's next ``size_bytes`` bytes at the path, streaming.

        Raises:
            RequestError: The server refused, or could not be reached in time.
        """
        url = self._path_url(path)
        start = body.tell()
        headers = {"Content-Length": str(size_bytes), "Content-Type": "text/plain"}

        def act() -> None:
            body.seek(start)
            window = _Window(body, size_bytes)
            with self._server.open("PUT", url, window, headers, _STORE_TIMEOUT_S) as answer:
                answer.read()

        with_retries(act, f"PUT {redact(url)}", patience_s, self._server.transient)

    def get(self, path: str, out: IO[bytes], patience_s: float) -> None:
        """Append the artifact to the open file, which must be seekable.

        Raises:
            RequestError: With status 404 where there is none.
        """
        url = self._path_url(path)
        start = out.tell()

        def act() -> None:
            out.seek(start)
            out.truncate()
            with self._server.open("GET", url) as answer:
                copy_answer(answer, out)

        with_retries(act, f"GET {redact(url)}", patience_s, self._server.transient)

    def delete(self, path: str, patience_s: float) -> None:
        """Delete the artifact.

        Raises:
            RequestError: The server refused, or could not be reached in time.
        """
        url = self._path_url(path)

        def act() -> None:
            with self._server.open("DELETE", url) as answer:
                answer.read()

        with_retries(act, f"DELETE {redact(url)}", patience_s, self._server.transient)

    def list(self, path: str, patience_s: float) -> List[str]:
        """Return the names of the files in the folder, sorted; none where it does not exist.

        Raises:
            RequestError: The server refused, or could not be reached in time.
        """
        query = urllib.parse.urlencode({"path": f"{self._within}/{path}"})
        url = f"{self._list_url}?{query}"

        def act() -> Any:
            with self._server.open("GET", url) as answer:
                return json.loads(answer.read() or b"{}")

        found = with_retries(act, f"GET {redact(url)}", patience_s, self._server.transient)
        try:
            files = [item["path"] for item in found.get("files", []) if not item.get("is_dir")]
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"GET {redact(url)}: the answer is not a list of files") from error
        return sorted(str(path).rsplit("/", 1)[-1] for path in files)


class _Window:
    """The next ``size`` bytes of a file: the log may grow while it is sent."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, limit: int = -1) -> bytes:
        limit = self._left if limit < 0 else min(limit, self._left)
        data = self._file.read(limit)
        self._left -= len(data)
        return data
