"""What a run did: events in the order in which they happened, for the guarantees to be held against."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio
from cattrs.preconf.json import make_converter

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.dead_letters import ORIGINAL_OFFSET, ORIGINAL_PARTITION, ORIGINAL_TOPIC
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.record import Headers
from trio_parallel_kafka.testing.events import (
    EVENTS,
    Assigned,
    Committed,
    Died,
    Event,
    GivenUp,
    Joined,
    Lost,
    Output,
    Place,
    Produced,
    Revoked,
)
from trio_parallel_kafka.testing.timeline import Timeline
from trio_parallel_kafka.testing.watching import Handler, Watch


class History:
    """What happened in a run, as far as it was told; events are only ever added.

    :meth:`watch` sees what handlers do. The simulated broker tells the rest by itself; with a real one, tell what there
    is to be known: at least what was :meth:`produced`. A guarantee asks only of what it can know.

    >>> history = History()
    >>> history.produced("orders", 0, 0, b"customer-7")
    >>> [type(event).__name__ for event in history.events]
    ['Produced']

    Args:
        events: what has happened already.
        clock: gives seconds. Default: Trio's time. Histories that are to be merged need one clock, such as
            :func:`time.monotonic`.
        sees_dead_letters: whether it is told of each dead letter that arrives, by :meth:`dead_letter`. Otherwise, and
            where ``config`` says exactly once, or that a dead letter that isn't taken is passed over, a record counts
            as done as soon as it is *to be* sent to the dead letters.
    """

    def __init__(
        self,
        events: Iterable[Event] = (),
        *,
        clock: Callable[[], float] | None = None,
        sees_dead_letters: bool = False,
    ) -> None:
        self._sees_dead_letters: Final = sees_dead_letters
        self._events: Final = list(events)
        self._clock: Final = clock or _TrioClock()
        self._keep: Callable[[Event], None] = self._events.append
        self._calls: Final = itertools.count(1)
        self._timeline: Timeline | None = None

    @property
    def events(self) -> Sequence[Event]:
        """What has happened so far."""
        return self._events

    @property
    def timeline(self) -> Timeline:
        """What the events say together; for guarantees, which share it."""
        if self._timeline is None or len(self._timeline.events) != len(self._events):
            self._timeline = Timeline(self._events.copy())
        return self._timeline

    def add(self, event: Event) -> None:
        """Note what happened; the other methods do that with the time of the call."""
        self._keep(event)

    # Handlers

    def watch(self, handler: Handler, member: str = "", *, config: ConsumerConfig | None = None) -> Handler:
        """Give a handler that notes its attempts and how they end.

        It is of the same kind: async or plain, of records or of batches. Wrap it anew for each consumer that you start,
        for here a life of that member begins.

        A record is given up where the handler raises :exc:`.Skip` or :exc:`.DeadLetter`, and, if ``config`` says so,
        where it fails for the last time; but see ``sees_dead_letters``.

        Args:
            handler: the one to be watched.
            member: a name for the consumer that runs it, not shared by two that run at once. At the simulated broker,
                the one that the consumer has there. Default: the ``client.id`` in ``config``, if there is one.
            config: of that consumer. It tells which failures are final, and which cancellations are timeouts; without
                it, say by :meth:`given_up` what is passed over after a failure.

        Where a handler is run in worker processes, what they note isn't seen here, unless it is written to a file.
        """
        if config is not None and not member:
            member = str(config.kafka.get("client.id", ""))
        self.joined(member)
        watch = Watch(
            member,
            config,
            add=self.add,
            clock=self._clock,
            calls=self._calls,
            sees_dead_letters=self._sees_dead_letters,
        )
        return watch.around(handler)

    # Records

    def produced(self, topic: str, partition: int, offset: int, key: bytes | None) -> None:
        """A record is there to be handled. It may be told late, after its handling."""
        self._keep(Produced(self._clock(), Place(topic, partition, offset), key))

    def given_up(self, topic: str, partition: int, offset: int) -> None:
        """A record is done without having been handled: by policy, or deleted before it was read."""
        self._keep(GivenUp(self._clock(), Place(topic, partition, offset)))

    def dead_letter(self, headers: Headers) -> None:
        """A dead letter has arrived: the record that it is about is given up.

        Args:
            headers: the dead letter's.

        Raises:
            KeyError: they aren't those of a dead letter.
        """
        found = {name: value or b"" for name, value in headers}
        partition, offset = (int.from_bytes(found[name], "big") for name in (ORIGINAL_PARTITION, ORIGINAL_OFFSET))
        self.given_up(found[ORIGINAL_TOPIC].decode(), partition, offset)

    def output(
        self, topic: str, key: bytes | None, value: bytes | None, *, origin: tuple[str, int, int] | None = None
    ) -> None:
        """A reader has seen what a handler sent.

        Args:
            topic: where it was sent to.
            key: its raw key.
            value: its raw value.
            origin: topic, partition and offset of the record that it was made of, if it can be told.
        """
        self._keep(Output(self._clock(), topic, key, value, None if origin is None else Place(*origin)))

    # The group

    def committed(self, member: str, partition: tuple[str, int], offset: int, metadata: str | None = None) -> None:
        """The broker took a commit; ``offset`` is the next one to be read."""
        self._keep(Committed(self._clock(), member, TopicPartition(*partition), offset, metadata or ""))

    def assigned(self, member: str, partitions: Iterable[tuple[str, int]]) -> None:
        """A member gets partitions; to be told before it can know."""
        self._keep(Assigned(self._clock(), member, _partitions(partitions)))

    def revoked(self, member: str, partitions: Iterable[tuple[str, int]]) -> None:
        """A member has let partitions go that it was asked for."""
        self._keep(Revoked(self._clock(), member, _partitions(partitions)))

    def lost(self, member: str, partitions: Iterable[tuple[str, int]]) -> None:
        """A group took partitions from a member without its answer."""
        self._keep(Lost(self._clock(), member, _partitions(partitions)))

    def joined(self, member: str) -> None:
        """A life of a member begins; :meth:`watch` says so, too."""
        self._keep(Joined(self._clock(), member))

    def died(self, member: str) -> None:
        """A member's process was killed; to be told once that is sure.

        Its attempts have ended. What is noted of it from here on is ignored, until it has :meth:`joined` again.
        """
        self._keep(Died(self._clock(), member))

    # Files

    @contextmanager
    def write(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Append to a file what has happened, and, for the length of the block, what happens.

        In the block, events go to the file alone, each at once and whole: a process that is killed has written all it
        noted, and several may write to one file. Read it with :meth:`read`.

        Raises:
            OSError: the file can't be written; an event that can't be noted raises it from where it happens.
        """
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        kept, self._keep = self._keep, lambda event: _append(file, event)
        try:
            for event in self._events:
                self._keep(event)
            yield
        finally:
            self._keep = kept
            os.close(file)

    @classmethod
    def read(cls, paths: Iterable[str | os.PathLike[str]]) -> History:
        """Merge what was written to files, by time.

        Raises:
            OSError: a file can't be read.
            ValueError: there is something else in it.
        """
        return cls(heapq.merge(*map(_read, paths), key=lambda event: event.at))


class _TrioClock:
    """Trio's time; also for handlers in threads, which have no Trio of their own."""

    def __init__(self) -> None:
        self._clock: trio.abc.Clock | None = None

    def __call__(self) -> float:
        try:
            self._clock = trio.lowlevel.current_clock()
        except RuntimeError:
            if self._clock is None:
                return 0.0  # before any Trio, time doesn't run
        return self._clock.current_time()


def _partitions(partitions: Iterable[tuple[str, int]]) -> tuple[TopicPartition, ...]:
    return tuple(itertools.starmap(TopicPartition, partitions))


_JSON: Final = make_converter()
# Keys and values are mostly text: so a file can be read by people, and yet each byte comes back.
_JSON.register_unstructure_hook(bytes, lambda raw: raw.decode("latin-1"))
_JSON.register_structure_hook(bytes, lambda text, _: text.encode("latin-1"))
for _place in (Place, TopicPartition):
    _JSON.register_structure_hook(_place, lambda parts, kind: kind(*parts))


def _append(file: int, event: Event) -> None:
    line = _JSON.dumps({"event": type(event).__name__, **_JSON.unstructure(event)})
    # One write in append mode: lines of several processes don't mix, and a kill doesn't cut one.
    os.write(file, f"{line}\n".encode())


def _read(path: str | os.PathLike[str]) -> Iterator[Event]:
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                fields = _JSON.loads(line, dict[str, Any])
                event = _JSON.structure(fields, EVENTS[fields["event"]])
            except Exception as error:
                raise ValueError(f"{path}, line {number}: not an event of a history: {line!r:.80}") from error
            yield event
