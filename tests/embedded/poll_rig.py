"""A poll thread over a stand-in for the client, which notes what it is told, and in which order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from confluent_kafka import (
    KafkaError as ClientError,
    KafkaException,
    Message,
    TopicPartition as ClientPartition,
)

from trio_parallel_kafka.control.client import Assigned, Event, Fetched, Revoked, StartAt
from trio_parallel_kafka.control.poll_thread import CommitResults, PollSettings, PollThread
from trio_parallel_kafka.control.watchdog import LoopWatchdog
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry

A, B = TopicPartition("orders", 0), TopicPartition("orders", 1)
PAUSED_AT = 0
"""Where a partition is assigned whose position isn't known; any offset will do that the client needn't look up."""


class Acknowledged(NamedTuple):
    """A partition in the answer to a commit."""

    topic: str
    partition: int
    error: ClientError | None = None


def refused(code: int) -> KafkaException:
    """What the client raises."""
    return KafkaException(ClientError(code, "refused"))


class Unusual(BaseException):
    """Like KeyboardInterrupt."""


class StandIn:
    """A ``confluent_kafka.Consumer`` that does nothing but keep account.

    ``incoming`` is what polls find, in order: messages, and callbacks that the client would make within a poll.
    """

    def __init__(self, properties: dict[str, Any]) -> None:
        self.properties = properties
        self.calls: list[tuple[Any, ...]] = []
        self.incoming: deque[Message | Callable[[], None]] = deque()
        self.timeouts: list[float] = []
        self.consumed: list[int] = []
        self.refuses: dict[str, KafkaException] = {}
        self.member_id = ""
        self.answer: list[Acknowledged] | None = None
        self.rebalance_callbacks: dict[str, Callable[..., None]] = {}

    def poll(self, timeout: float) -> Message | None:
        self.timeouts.append(timeout)
        if not self.incoming:
            time.sleep(timeout)
            return None
        found = self.incoming.popleft()
        if isinstance(found, Message):
            return found
        found()
        return None

    def consume(self, count: int, timeout: float) -> list[Message]:
        assert timeout == 0
        if count < 0:
            raise ValueError("num_messages must be between 0 and 1000000 (1M)")
        self.consumed.append(count)
        messages: list[Message] = []
        while len(messages) < count and self.incoming and isinstance(self.incoming[0], Message):
            messages.append(cast("Message", self.incoming.popleft()))
        return messages

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self._note("subscribe", topics)
        self.rebalance_callbacks = callbacks

    def unsubscribe(self) -> None:
        self._note("unsubscribe")

    def memberid(self) -> str:
        return self.member_id

    def close(self) -> None:
        self._note("close")

    def assign(self, partitions: list[ClientPartition]) -> None:
        self._note("assign", *_places(partitions))

    def incremental_assign(self, partitions: list[ClientPartition]) -> None:
        self._note("incremental_assign", *_places(partitions))

    def incremental_unassign(self, partitions: list[ClientPartition]) -> None:
        self._note("incremental_unassign", *_places(partitions))

    def pause(self, partitions: list[ClientPartition]) -> None:
        self._note("pause", *_partitions(partitions))

    def resume(self, partitions: list[ClientPartition]) -> None:
        self._note("resume", *_partitions(partitions))

    def seek(self, partition: ClientPartition) -> None:
        self._note("seek", *_places([partition]))

    def commit(self, *, offsets: list[ClientPartition], asynchronous: bool) -> list[Acknowledged] | None:
        name = "commit" if asynchronous else "commit and wait"
        self._note(name, *((each.topic, each.partition, each.offset, each.metadata) for each in offsets))
        return None if asynchronous else self.answer

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.refuses:
            raise self.refuses[name]

    def called(self) -> list[tuple[Any, ...]]:
        """The calls since this was last asked."""
        calls, self.calls = self.calls, []
        return calls


def _partitions(partitions: list[ClientPartition]) -> list[TopicPartition]:
    return [TopicPartition(each.topic, each.partition) for each in partitions]


def _places(partitions: list[ClientPartition]) -> list[tuple[str, int, int]]:
    return [(each.topic, each.partition, each.offset) for each in partitions]


def message(partition: TopicPartition, offset: int) -> Message:
    """One that was fetched."""
    return Message(topic=partition.topic, partition=partition.partition, offset=offset, value=b"v")


def places_of(event: Event) -> list[tuple[int, int]]:
    """Partition and offset of each message of a batch."""
    assert isinstance(event, Fetched)
    return [(cast("int", each.partition()), cast("int", each.offset())) for each in event.messages]


class Rig:
    """A poll thread over the stand-in, and a Trio side that answers as it was told; driven from the test's thread."""

    def __init__(self, *, is_subscribed: bool = True, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "properties": {"group.id": "billing"},
            "is_incremental": True,
            "batch_size": 10,
            "batches_out": 1,
        }
        defaults |= {"revoke_timeout": 30.0, "assign_timeout": 30.0, "leave_timeout": 30.0, "max_poll_interval": 300.0}
        self.posted: list[Event] = []
        self.starts: Mapping[TopicPartition, StartAt] | None = {}
        """What an assign is answered with; ``None``: nothing."""
        self.answers_revoke = True
        self.while_asked: Callable[[], None] = lambda: None
        """What the Trio side does before it answers."""
        self.loop_calls: list[Callable[[], None]] = []
        self.watchdog = LoopWatchdog.for_this_thread(self.loop_calls.append)
        self.thread = PollThread(PollSettings(**{**defaults, **settings}), self._post, self.watchdog)
        self.client = cast("StandIn", self.thread._open())
        self.thread._consumer = self.client  # type: ignore[assignment]
        if is_subscribed:
            self.thread.subscribe(["orders"])
            self.client.called()

    def _post(self, event: Event) -> None:
        self.posted.append(event)
        if isinstance(event, Assigned):
            self.while_asked()
            if self.starts is not None:
                event.reply(self.starts)
        elif isinstance(event, Revoked):
            self.while_asked()
            if self.answers_revoke:
                event.reply()

    def rebalance(self, kind: str, *partitions: TopicPartition) -> None:
        """Have the client make a callback, within a poll."""
        callback = self.client.rebalance_callbacks[kind]
        self.client.incoming.append(lambda: callback(self.client, [ClientPartition(*each) for each in partitions]))
        self.thread._poll()
        assert self.thread._callback_errors == []

    def assign(self, starts: Mapping[TopicPartition, tuple[int, int]], *unknown: TopicPartition) -> None:
        """Assign partitions at (offset, tenure), and some whose position isn't known."""
        self.starts = {partition: StartAt(*start) for partition, start in starts.items()}
        self.rebalance("on_assign", *starts, *unknown)
        self.client.called()

    def take(self) -> None:
        """The Trio side takes the batch that is out."""
        fetched = [event for event in self.posted if isinstance(event, Fetched)]
        fetched[-1].taken()
        self.thread._serve_jobs()

    def commit(self, *entries: CommitEntry) -> list[CommitResults]:
        """Ask for a commit; the list given gets the results."""
        results: list[CommitResults] = []
        self.thread.commit(entries, results.append)
        return results

    def acknowledge(self, error: ClientError | None, *answer: Acknowledged) -> None:
        """Have the client tell of a commit."""
        self.client.properties["on_commit"](error, list(answer))


def entry(partition: TopicPartition, tenure: int, offset: int = 5, metadata: str = "m") -> CommitEntry:
    """What the committer asks for."""
    return CommitEntry(partition, tenure, offset, metadata)
