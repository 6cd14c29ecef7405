"""A server before a real one, whose answers a test can make go wrong."""

from __future__ import annotations

import http.client
from contextlib import closing
from urllib.parse import urlsplit

from tests.cloud_server import Answer, CloudServer, Request

# Of one connection, and what the server in front says of itself.
_OF_ONE = ("connection", "transfer-encoding", "keep-alive", "server", "date")


class ForwardingServer(CloudServer):
    """Asks another server what it is asked, but for its faults."""

    def __init__(self, target: str, moved: tuple[str, str] = ("", "")) -> None:
        """Ask nothing yet.

        Args:
            target: The address of the other server.
            moved: What stands in the addresses that it redirects to, and what takes its place.
        """
        super().__init__()
        self._target = urlsplit(target).netloc
        self._moved = moved

    def answer(self, request: Request) -> Answer:
        given = {n: v for n, v in request.headers.items() if n.lower() not in _OF_ONE}
        with closing(http.client.HTTPConnection(self._target, timeout=60)) as connection:
            connection.request(request.method, request.target, request.body or None, given)
            told = connection.getresponse()
            body = told.read()
        headers = {n.title(): v for n, v in told.getheaders() if n.lower() not in _OF_ONE}
        if "Location" in headers:
            headers["Location"] = headers["Location"].replace(*self._moved)
        return Answer(told.status, body, headers)
