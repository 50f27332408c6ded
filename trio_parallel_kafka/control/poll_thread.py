"""The one thread that owns the client.

Theory of operation
-------------------

The thread loops: serve the calls that the Trio side has queued, then poll. ``poll()`` waits for the first
message; what else is fetched by then is taken in the same hop. Rebalance callbacks run in here, inside
``poll()``: they post their event and serve calls until the answer comes, so whatever the Trio side needs for
its answer is called from within the callback. Everything reaches the thread through one queue, first in,
first out; everything leaves it as events, in order.

Rules that once were bugs
-------------------------

- A callback must not raise: the client would drop what it has fetched. What a callback raises is carried out
  by hand and ends the thread after the poll.
- Inside a callback a commit has to be synchronous, since no acknowledgement is served before it returns.
- Only what is owned *in the entry's own assignment* is committed: the broker takes a live member's commit for a
  partition that another member owns by now, and moves that member back.
- A cooperative member that is closed while it joins again tells the group nothing, and the group waits for it until
  ``session.timeout.ms`` has passed. So it is closed only once it has left.
- A paused partition stays paused over an assignment; so what is assigned is resumed.
- Two batches are on their way to the loop at most, one while a partition is paused. While the loop doesn't take them,
  polling goes on around them, a message every :data:`PATIENCE` seconds, because membership hangs on it; what these
  polls return goes first into the next batch. Only when :data:`MAX_STASH` messages have piled up so is everything
  paused: that throws away what the client has fetched, and up to a second passes before it fetches again. A loop that
  gives no sign of life for ``max.poll.interval.ms`` isn't covered up for: polling stops, and the group takes the
  partitions away.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import attrs
from confluent_kafka import (
    Consumer,
    KafkaError as ClientError,
    KafkaException,
    Message,
    TopicPartition as ClientPartition,
)

from trio_parallel_kafka.control.client import Assigned, Event, Fetched, Lost, Revoked, StartAt, Trouble
from trio_parallel_kafka.control.seeking import read_on
from trio_parallel_kafka.control.watchdog import LoopWatchdog
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.flow import PAUSED_BATCH
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.repeats import QuietLogger
from trio_parallel_kafka.statistics import PollStatistics

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.client")

POLL_TIMEOUT: Final = 0.05
"""Seconds that a poll may wait: there is no way to wake it, so a call waits as long."""

URGENT_POLL_TIMEOUT: Final = 0.002
"""The same while the consumer is opening or leaving."""

PAUSED_POLL_TIMEOUT: Final = 0.002
"""Seconds between two polls while some partitions are paused. Calls are served at once then, for one may be resumed."""

PATIENCE: Final = 0.025
"""Seconds between two polls while the loop doesn't take a batch."""

MAX_STASH: Final = 80
"""Messages that such polls may return before everything is paused: they come on top of the flow control's bound."""

SOMEWHERE: Final = 0
"""Where a partition stands that is paused until its position is known. Without an offset the client would ask the
broker for the committed one, and refuse to seek until it has got it."""

CommitResults = dict[TopicPartition, ClientError | None]
Answer = TypeVar("Answer")


@attrs.frozen(kw_only=True)
class PollSettings:
    """What the thread needs to know.

    Attributes:
        properties: librdkafka's configuration, without callbacks.
        is_incremental: assignments change by increments (cooperative, or KIP-848), not as a whole.
        batch_size: how many messages are taken at once; at most 250 while a partition is paused.
        batches_out: how many may be on their way to the loop; one while a partition is paused.
        revoke_timeout: seconds that a revoke may be held up.
        assign_timeout: seconds that an assign may be held up.
        leave_timeout: seconds that a join under way may hold up the leaving.
        max_poll_interval: seconds of silence after which the loop is taken for dead.
    """

    properties: Mapping[str, Any]
    is_incremental: bool
    batch_size: int
    batches_out: int
    revoke_timeout: float
    assign_timeout: float
    leave_timeout: float
    max_poll_interval: float


class PollThread:
    """Runs a ``confluent_kafka.Consumer``; all methods but :meth:`submit` are called in its own thread.

    Args:
        settings: see there.
        post: hands an event to the Trio side; called from this thread.
        watchdog: looks after the Trio loop.
    """

    def __init__(self, settings: PollSettings, post: Callable[[Event], None], watchdog: LoopWatchdog) -> None:
        self._settings: Final = settings
        self._post: Final = post
        self._watchdog: Final = watchdog
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._consumer: Consumer = None  # type: ignore[assignment]  # made and closed by run()
        self._owned: dict[TopicPartition, int | None] = {}
        self._next_offsets: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._awaiting_commit: deque[Callable[[CommitResults], None]] = deque()
        self._callback_errors: list[BaseException] = []
        self._is_in_callback = False
        self._batches_out = 0
        self._rests_until: float | None = None
        self._is_held = False
        self._stash: list[Message] = []
        self._is_closing = False
        self._poll_timeout = URGENT_POLL_TIMEOUT
        self._hops: deque[float] = deque(maxlen=1000)

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a call, from any thread. The job must not raise."""
        self._jobs.put(job)

    def needs_gil(self) -> bool:
        """Whether this thread needs the GIL, or may do so at any moment; called from the Trio thread."""
        until = self._rests_until
        return until is None or not self._jobs.empty() or time.perf_counter() > until

    def run(self) -> None:
        """The thread's life: open, poll until :meth:`stop`, close."""
        self._consumer = self._open()
        try:
            polled_at = time.perf_counter()
            while not self._is_closing:
                self._serve_jobs()
                self._watchdog.check()
                waited = self._poll()
                now = time.perf_counter()
                self._hops.append(now - polled_at - waited)
                polled_at = now
                if self._callback_errors:
                    raise self._callback_errors[0]
            self._await_leaving()
        finally:
            self._consumer.close()

    def _open(self) -> Consumer:
        callbacks = {"on_commit": self._on_commit, "error_cb": lambda error: self._post(Trouble(error))}
        try:
            given = self._settings.properties
            return Consumer({**given, **callbacks, "logger": QuietLogger(given.get("logger", logger))})
        except KafkaException as error:
            raise ConfigError([f"kafka: librdkafka refuses the properties: {error.args[0].str()}"]) from error

    def _await_leaving(self) -> None:
        """Wait until the client has told the group, which it puts off while a join is under way."""
        deadline = time.monotonic() + self._settings.leave_timeout
        while time.monotonic() < deadline and self._consumer.memberid():
            self._consumer.poll(URGENT_POLL_TIMEOUT)

    def stop(self) -> None:
        self._is_closing = True

    def hurry(self) -> None:
        """Serve calls sooner from now on."""
        self._poll_timeout = URGENT_POLL_TIMEOUT

    @property
    def consumer(self) -> Consumer:
        """The client itself, for calls made in this thread."""
        return self._consumer

    def statistics(self) -> PollStatistics:
        """Safe to call from any thread."""
        hops = sorted(self._hops.copy()) or [0.0]
        return PollStatistics(
            hop_p50=hops[len(hops) // 2],
            hop_p99=hops[len(hops) * 99 // 100],
            hop_max=hops[-1],
            is_held=self._is_held,
        )

    # Polling

    def serve_callbacks(self) -> None:
        """Have the client call back between two polls; a message that comes along is for the next batch."""
        message = self._consumer.poll(0)
        if message is not None:
            self._note_next([message])
            self._stash.append(message)

    def _serve_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            job()

    def _poll(self) -> float:
        """Poll once; return the seconds that were rightly spent waiting."""
        if not self._has_room:
            if not self._rest(PATIENCE):
                self._poll_around()
            return 0.0
        if self._is_loop_dead:
            time.sleep(POLL_TIMEOUT)
            return POLL_TIMEOUT
        began = time.perf_counter()
        message = self._consumer.poll(0 if self._stash or self._paused else self._poll_timeout)
        if message is None and self._paused and not self._stash:
            self._rest(PAUSED_POLL_TIMEOUT if len(self._paused) < len(self._owned) else self._poll_timeout)
        waited = min(time.perf_counter() - began, self._poll_timeout)
        messages, self._stash = self._stash, []  # after the poll: a callback in it may have dropped some
        if message is not None:
            most = min(self._settings.batch_size, PAUSED_BATCH) if self._paused else self._settings.batch_size
            room = max(0, most - 1 - len(messages))
            fetched = [message, *self._consumer.consume(room, 0)]
            self._note_next(fetched)
            messages += fetched
        if messages:
            self._batches_out += 1
            self._post(Fetched(messages, dict(self._owned), taken=lambda: self.submit(self._take)))
        return waited

    @property
    def _has_room(self) -> bool:
        """Whether another batch may be sent on its way."""
        return self._batches_out < (1 if self._paused else self._settings.batches_out)

    def _rest(self, timeout: float) -> bool:
        """Wait for a call and serve it; say whether one came in so many seconds."""
        self._rests_until = time.perf_counter() + timeout
        try:
            job = self._jobs.get(timeout=timeout)
        except queue.Empty:
            return False
        finally:
            self._rests_until = None
        job()
        return True

    def _poll_around(self) -> None:
        """Stay a member while the loop is busy."""
        if self._is_loop_dead:
            return
        self.serve_callbacks()
        if len(self._stash) >= MAX_STASH and not self._is_held:
            self._hold()

    @property
    def _is_loop_dead(self) -> bool:
        return self._watchdog.silence > self._settings.max_poll_interval

    def _note_next(self, messages: Sequence[Message]) -> None:
        """Where assignments change as a whole, one partition can't be started anew without saying where all stand."""
        if self._settings.is_incremental:
            return
        for each in messages:
            place = TopicPartition(each.topic(), each.partition())  # type: ignore[arg-type]  # looked up only
            if each.error() is None and place in self._next_offsets:
                self._next_offsets[place] = each.offset() + 1  # type: ignore[operator]  # no error: it has one

    def _take(self) -> None:
        self._batches_out -= 1
        if self._is_held and self._has_room:  # or what has piled up couldn't leave yet
            self._is_held = False
            self._resume_client([tp for tp in self._owned if tp not in self._paused])

    def _hold(self) -> None:
        self._is_held = True
        self._pause_client(self._owned)

    # Calls

    def subscribe(self, topics: Sequence[str]) -> None:
        self._poll_timeout = POLL_TIMEOUT
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def unsubscribe(self) -> None:
        """Let go of everything and leave the group.

        A static member (``group.instance.id``) stays in it until its session times out, so that a restart finds its
        partitions again; for the client, unsubscribing would be a departure.
        """
        if "group.instance.id" in self._settings.properties:
            owned = tuple(self._owned)
            self._disown(owned)
            self._post(Revoked(owned, lambda: None))
        else:
            self._consumer.unsubscribe()

    def start(self, partition: TopicPartition, at: StartAt) -> None:
        """Read an owned partition from an offset on; one that was lost meanwhile is passed over."""
        if partition in self._owned:
            self._unstash({partition})
            self._owned[partition] = at.assignment_epoch
            self._next_offsets[partition] = at.offset
            read_on(self._consumer, partition, self._next_offsets, is_incremental=self._settings.is_incremental)
            if at.is_paused:
                self.pause([partition])
            else:
                self.resume([partition])

    def resume_at(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Fetch again; without delay also where everything was paused.

        The client then sleeps on for up to a second, unless it is told where to read. With no batch on its way the
        offsets given are those: whatever was fetched was taken before they were looked up.
        """
        was_all_paused = len(self._paused) == len(self._owned)
        self.resume(next_offsets)
        if was_all_paused and not self._batches_out and not self._stash:
            for partition, offset in next_offsets.items():
                if partition in self._owned:
                    with suppress(KafkaException):  # it was given up, and will be started anew
                        self._consumer.seek(ClientPartition(*partition, offset))
                        self._next_offsets[partition] = offset

    def _start_late(self, starts: Mapping[TopicPartition, StartAt]) -> None:
        for partition, at in starts.items():
            self.start(partition, at)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        owned = [partition for partition in partitions if partition in self._owned]
        self._paused.update(owned)
        self._pause_client(owned)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        owned = [partition for partition in partitions if partition in self._owned]
        self._paused.difference_update(owned)
        if not self._is_held:
            self._resume_client(owned)

    def commit(self, entries: Sequence[CommitEntry], done: Callable[[CommitResults], None]) -> None:
        """Commit what is owned in its assignment; ``done`` is called once, with every entry's result."""
        owned = [entry for entry in entries if self._owned.get(entry.partition) == entry.assignment_epoch]
        results: dict[TopicPartition, ClientError | None] = {
            entry.partition: ClientError(ClientError._STATE, "not assigned any more")  # noqa: SLF001
            for entry in entries
        }
        offsets = [ClientPartition(*entry.partition, entry.offset, entry.metadata) for entry in owned]
        if not offsets:
            done(results)
            return
        try:
            if self._is_in_callback:
                answer = self._consumer.commit(offsets=offsets, asynchronous=False) or []
                done(results | _errors_by_partition(None, answer))
            else:
                self._awaiting_commit.append(lambda answered: done(results | answered))
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            if not self._is_in_callback:
                self._awaiting_commit.pop()
            done(results | dict.fromkeys((entry.partition for entry in owned), error.args[0]))

    def group_metadata(self, entries: Sequence[CommitEntry]) -> object | None:
        """See :meth:`~trio_parallel_kafka.control.client.Client.group_metadata`; also from within a callback.

        The client forgets its name before it tells of a loss, and the broker takes commits of the nameless from
        anybody: so what it gives must hold the name. (It is opaque, but the name stands in it as it is.)
        """
        if any(self._owned.get(entry.partition) != entry.assignment_epoch for entry in entries):
            return None
        name = self._consumer.memberid()
        metadata: bytes = self._consumer.consumer_group_metadata()
        return metadata if name and name.encode() in metadata else None

    # Callbacks: they run inside poll() or close()

    def _on_commit(self, error: ClientError | None, partitions: list[ClientPartition]) -> None:
        with self._carrying_errors():
            self._awaiting_commit.popleft()(_errors_by_partition(error, partitions))

    def _on_assign(self, _consumer: Consumer, partitions: list[ClientPartition]) -> None:
        with self._carrying_errors():
            assigned = _plain(partitions)
            starts = self._ask(_assigned(assigned), self._settings.assign_timeout, self._start_late) or {}
            begins = {tp: starts[tp].offset if tp in starts else SOMEWHERE for tp in assigned}
            offsets = [ClientPartition(*tp, begin) for tp, begin in begins.items()]
            if self._settings.is_incremental:
                self._consumer.incremental_assign(offsets)
            else:
                self._consumer.assign(offsets)
            self._next_offsets.update(begins)
            for tp in assigned:
                self._owned[tp] = starts[tp].assignment_epoch if tp in starts else None
            self.pause([tp for tp in assigned if tp not in starts])
            self.resume([tp for tp in assigned if tp in starts])

    def _on_revoke(self, _consumer: Consumer, partitions: list[ClientPartition]) -> None:
        with self._carrying_errors():
            revoked = _plain(partitions)
            if self._ask(_revoked(revoked), self._settings.revoke_timeout) is None and not self._is_closing:
                logger.error(
                    "a revoke of %s wasn't answered within %.1f s (revoke_grace + close_timeout): the Trio loop is "
                    "blocked, or the broker doesn't answer the commit; what isn't committed will be replayed",
                    ", ".join(map(str, revoked)),
                    self._settings.revoke_timeout,
                )
            self._disown(revoked)

    def _on_lost(self, _consumer: Consumer, partitions: list[ClientPartition]) -> None:
        with self._carrying_errors():
            lost = _plain(partitions)
            self._disown(lost)
            self._post(Lost(lost))

    def _ask(
        self,
        event: Callable[[Callable[[Answer], None]], Event],
        timeout: float,
        late: Callable[[Answer], None] = lambda _answer: None,
    ) -> Answer | None:
        """Post an event and serve calls until it is answered; ``None``: not in time, ``late`` gets it then."""
        answers: list[Answer] = []
        accept: Callable[[Answer], None] = answers.append
        self._is_in_callback = True
        try:
            self._post(event(lambda answer: self.submit(lambda: accept(answer))))
            deadline = time.monotonic() + timeout
            while not answers:
                if self._is_closing:
                    return None  # nobody is left to answer
                self._watchdog.check()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    accept = late
                    return None
                try:
                    job = self._jobs.get(timeout=min(remaining, 1.0))
                except queue.Empty:
                    continue
                job()
        finally:
            self._is_in_callback = False
        return answers[0]

    @contextmanager
    def _carrying_errors(self) -> Iterator[None]:
        """Keep what is raised in a callback from reaching the client."""
        try:
            yield
        except BaseException as error:  # noqa: ASYNC103, BLE001 - raised by run()
            self._callback_errors.append(error)

    def _unstash(self, partitions: Collection[TopicPartition]) -> None:
        """Drop what was fetched of partitions whose reading ends, or begins elsewhere."""
        self._stash = [each for each in self._stash if (each.topic(), each.partition()) not in partitions]

    def _disown(self, partitions: Collection[TopicPartition]) -> None:
        self._unstash(partitions)
        for partition in partitions:
            self._owned.pop(partition, None)
            self._next_offsets.pop(partition, None)
            self._paused.discard(partition)

    def _pause_client(self, partitions: Collection[TopicPartition]) -> None:
        if partitions:
            self._consumer.pause([ClientPartition(*partition) for partition in partitions])

    def _resume_client(self, partitions: Collection[TopicPartition]) -> None:
        if partitions:
            self._consumer.resume([ClientPartition(*partition) for partition in partitions])


def _assigned(
    partitions: tuple[TopicPartition, ...],
) -> Callable[[Callable[[Mapping[TopicPartition, StartAt]], None]], Event]:
    return lambda reply: Assigned(partitions, reply)


def _revoked(partitions: tuple[TopicPartition, ...]) -> Callable[[Callable[[bool], None]], Event]:
    return lambda reply: Revoked(partitions, lambda: reply(True))  # noqa: FBT003 - an answer that says no more


def _plain(partitions: list[ClientPartition]) -> tuple[TopicPartition, ...]:
    return tuple(TopicPartition(each.topic, each.partition) for each in partitions)


def _errors_by_partition(error: ClientError | None, partitions: list[ClientPartition]) -> CommitResults:
    return {TopicPartition(each.topic, each.partition): error or each.error for each in partitions}
