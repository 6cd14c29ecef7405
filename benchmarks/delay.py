"""A relay before a server that adds latency, as a process of its own: no bandwidth is taken."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, one_way_s: float
) -> None:
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

    async def deliver() -> None:
        while True:
            due_s, piece = await on_the_way.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    delivering = asyncio.ensure_future(deliver())
    piece = b"-"
    while piece:
        try:
            piece = await reader.read(256 * 1024)
        except OSError:
            piece = b""
        await on_the_way.put((loop.time() + one_way_s, piece))
    with contextlib.suppress(OSError):
        await delivering


async def _serve(target: int, one_way_s: float, host: str, port: int) -> None:
    async def relay(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        far, to_far = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_carry(near, to_far, one_way_s), _carry(far, to_near, one_way_s))

    server = await asyncio.start_server(relay, host, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def delayed(
    port: int, round_trip_s: float, *, at: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[int]:
    """Yield a port of the loopback that leads to another one, with latency; 0 adds none.

    Args:
        port: Of the server, at 127.0.0.1.
        round_trip_s: What is added to a question and its answer.
        at: Where the relay listens; 0 is any port.
    """
    if not round_trip_s:
        yield port
        return
    words = [sys.executable, "-m", "benchmarks.delay"]
    words += [str(word) for word in (port, round_trip_s / 2, *at)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _, to, late, near_host, near_port = sys.argv
        asyncio.run(_serve(int(to), float(late), near_host, int(near_port)))
