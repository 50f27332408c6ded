"""A server that answers each line after 10 ms: ``python -m benchmarks.answering``. It prints its address first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

DELAY: Final = 0.01
LINE_SIZE: Final = 64


@contextmanager
def answering_server() -> Iterator[str]:
    """Run it in a process of its own for the length of the block; its address is ``host:port``."""
    command = [sys.executable, "-m", "benchmarks.answering"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def serve() -> None:
    """Answer until killed."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(f"127.0.0.1:{listener.socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(_answer, [listener])


async def _answer(stream: trio.SocketStream) -> None:
    async with stream:
        async for line in stream:
            await trio.sleep(DELAY)
            await stream.send_all(line)


if __name__ == "__main__":
    trio.run(serve)
