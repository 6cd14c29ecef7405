"""A connection to a server that a test can cut and mend."""

from __future__ import annotations

import contextlib
import socket
import threading


class TcpLink:
    """Forwards a port of this machine to a server, as long as it is not cut.

    Attributes:
        port: The port on this machine, at the address that it was made for.
        connections: How many were made so far.
    """

    def __init__(self, host: str, port: int, at: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._cut = False
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((at, 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and answer no new one until `mend`."""
        self._cut = True
        for end in list(self._open):
            _shut(end)

    def mend(self) -> None:
        """Forward again."""
        self._cut = False

    def close(self) -> None:
        """Break everything for good."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self.connections += 1
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            _shut(end)
            self._open.discard(end)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
