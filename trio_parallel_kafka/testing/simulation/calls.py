"""Calls that one task makes for the others, one after another, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from trio_parallel_kafka.errors import KafkaError

T = TypeVar("T")
Job = Callable[[], Awaitable[object]]


class CallQueue:
    """What is asked for, in its order; ``log`` keeps the names and arguments."""

    def __init__(self) -> None:
        self.log: list[tuple[str, object]] = []
        self.is_over: bool = False
        self._jobs: deque[Job] = deque()
        self._unanswered: set[trio.Event] = set()
        self._awake = trio.lowlevel.ParkingLot()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        self.notify()

    def tell(self, name: str, argument: object, function: Callable[[], object]) -> None:
        """Have a call made, and don't wait for it."""
        self.log.append((name, argument))

        async def job() -> None:  # noqa: ASYNC124 - jobs are
            function()

        self.submit(job)

    async def ask(self, name: str, argument: object, job: Callable[[Callable[[T], None]], Awaitable[object]]) -> T:
        """Have a call made, and wait until it hands over its answer."""
        self.log.append((name, argument))
        answers: list[T] = []
        answered = trio.Event()

        def answer(given: T) -> None:
            answers.append(given)
            answered.set()

        self._unanswered.add(answered)
        self.submit(lambda: job(answer))
        if self.is_over:
            answered.set()
        try:
            await answered.wait()
        finally:
            self._unanswered.discard(answered)
        if not answers:
            raise KafkaError("the Kafka client has ended")
        return answers[0]

    async def serve(self) -> None:
        """Make the next call."""
        await self._jobs.popleft()()

    def notify(self) -> None:
        """Something may have to be done."""
        self._awake.unpark_all()

    async def wait(self) -> None:
        """Wait for that."""
        await self._awake.park()

    def end(self) -> None:
        """No call is made any more, and those without an answer get none."""
        self.is_over = True
        for answered in self._unanswered:
            answered.set()

    def of(self, name: str) -> list[object]:
        """The arguments of the calls of this name so far."""
        return [argument for each, argument in self.log if each == name]
