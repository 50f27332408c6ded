"""The supervisor's end of the link to a member, and the member's."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from trio_parallel_kafka.cli.fleet.report import LineSplitter, MemberReport

LAST_WORDS_TIMEOUT: Final = 1.0
"""Seconds that a member's last words may take to be sent, and as long to be heard."""

_PIECE: Final = 65_536


class SupervisorEnd:
    """Hears what a member says, and asks it to drain.

    Args:
        own: the supervisor's socket of the pair.
    """

    def __init__(self, own: socket.socket) -> None:
        self._stream: Final = trio.SocketStream(trio.socket.from_stdlib_socket(own))

    async def hear(self, take: Callable[[MemberReport], None]) -> None:  # noqa: ASYNC910 - a task of its own
        """Hand on each report, until the member closes its end."""
        splitter = LineSplitter()
        with suppress(trio.BrokenResourceError):  # it died with something unread
            async for piece in self._stream:
                for line in splitter.feed(bytes(piece)):
                    report = MemberReport.from_line(line)
                    if report is not None:
                        take(report)

    async def ask_to_drain(self) -> None:  # noqa: ASYNC910 - likewise
        """Tell the member that nothing more will come."""
        with suppress(trio.BrokenResourceError):  # it is gone already
            await self._stream.send_eof()


class MemberEnd:
    """Speaks to the supervisor.

    Args:
        descriptor: that of the member's socket of the pair, inherited.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket: Final = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)  # what handlers start must not keep it open

    async def report_regularly(  # noqa: ASYNC910 - a task of its own
        self, report: Callable[[], MemberReport], every: float
    ) -> None:
        """Report until cancelled, or until nobody listens any more."""
        connection = trio.socket.from_stdlib_socket(self._socket)
        with suppress(OSError):
            while True:
                unsent = report().as_line()
                while unsent:
                    unsent = unsent[await connection.send(unsent) :]
                await trio.sleep(every)

    @contextmanager
    def watched(self, when_asked: Callable[[], None]) -> Iterator[None]:
        """For the length of a block: call this once the supervisor asks to drain, or is dead.

        It is called in a thread, so that a handler that blocks the loop doesn't keep it from being called.
        """
        is_over = False
        link = select.poll()
        link.register(self._socket, select.POLLIN)

        def watch() -> None:
            link.poll()
            if not is_over:
                when_asked()

        thread = threading.Thread(target=watch, name="waits for the supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over = True
            with suppress(OSError):  # some systems refuse it once the supervisor is gone, and the thread has ended then
                self._socket.shutdown(socket.SHUT_RD)  # that is what the thread wakes up from
            thread.join()

    async def wait_until_asked_to_drain(self) -> None:  # noqa: ASYNC910 - likewise
        """Wait until the supervisor asks for it, or is dead."""
        connection = trio.socket.from_stdlib_socket(self._socket)
        with suppress(OSError):
            await connection.recv(1)

    def say_last(self, report: MemberReport) -> None:
        """Report at the end; blocking, but bounded. Another report may have been cut off before it."""
        self._socket.settimeout(LAST_WORDS_TIMEOUT)
        with suppress(OSError):
            self._socket.sendall(b"\n" + report.as_line())

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
