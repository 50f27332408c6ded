"""The thread that owns the client, on its own: a stand-in notes what the client is told, and in which order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import pytest
from confluent_kafka import (
    OFFSET_INVALID,
    KafkaError as ClientError,
    KafkaException,
    Message,
    TopicPartition as ClientPartition,
)

from trio_parallel_kafka.control import poll_thread
from trio_parallel_kafka.control.client import Assigned, Event, Fetched, Lost, Revoked, StartAt, Trouble
from trio_parallel_kafka.control.poll_thread import MAX_STASH, CommitResults, PollSettings, PollThread
from trio_parallel_kafka.control.watchdog import LoopWatchdog
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.statistics import PollStatistics

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
        self.positions: dict[TopicPartition, int] = {}
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

    def position(self, partitions: list[ClientPartition]) -> list[ClientPartition]:
        known = self.positions
        return [ClientPartition(*each, known.get(each, OFFSET_INVALID)) for each in _partitions(partitions)]

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
        defaults: dict[str, Any] = {"properties": {"group.id": "billing"}, "is_incremental": True, "batch_size": 10}
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


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client but the stand-in is made, and nobody waits long for it."""
    monkeypatch.setattr(poll_thread, "Consumer", StandIn)
    monkeypatch.setattr(poll_thread, "PATIENCE", 0.001)


# Opening, running, closing


def test_what_the_client_is_made_with() -> None:
    """The client gets the properties, the library's callbacks, and a logger below the library's."""
    properties = Rig().client.properties
    assert properties["group.id"] == "billing"
    assert properties.keys() == {"group.id", "logger", "on_commit", "error_cb"}


def test_properties_that_the_client_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's refusal becomes a configuration error with its words, and is chained."""
    error = refused(ClientError._INVALID_ARG)

    def refuse(_properties: dict[str, Any]) -> None:
        raise error

    monkeypatch.setattr(poll_thread, "Consumer", refuse)
    with pytest.raises(ConfigError, match="kafka: librdkafka refuses the properties: refused") as caught:
        Rig().thread.run()
    assert caught.value.__cause__ is error


def test_it_polls_until_it_is_stopped() -> None:
    """The thread serves what it is given, in order, and closes the client when it is told to stop."""
    rig = Rig()
    seen: list[str] = []
    rig.thread.submit(lambda: seen.append("first"))
    rig.thread.submit(lambda: seen.append("second"))
    rig.thread.submit(rig.thread.unsubscribe)
    thread = threading.Thread(target=rig.thread.run)
    thread.start()
    rig.thread.submit(rig.thread.stop)
    thread.join(30)
    client = cast("StandIn", rig.thread.consumer)
    assert not thread.is_alive()
    assert seen == ["first", "second"]
    assert client.called() == [("unsubscribe",), ("close",)]
    assert client.timeouts[0] == poll_thread.POLL_TIMEOUT


def test_in_a_hurry() -> None:
    """Polls are short while it opens and leaves, so that calls are served soon; else they wait for records."""
    rig = Rig(is_subscribed=False)
    rig.thread._poll()
    rig.thread.subscribe(["orders"])
    rig.thread._poll()
    rig.thread.hurry()
    rig.thread._poll()
    assert rig.client.timeouts == [0.002, 0.05, 0.002]


def test_it_closes_once_it_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is polled until it has told the group, and closed only then; for a while at most."""
    rig = Rig(leave_timeout=30.0)
    monkeypatch.setattr(rig.thread, "_open", lambda: rig.client)
    rig.client.member_id = "me"
    rig.thread.stop()

    def leave() -> None:
        assert rig.client.called() == []
        rig.client.member_id = ""

    rig.client.incoming.append(leave)
    rig.thread.run()
    assert rig.client.called() == [("close",)]
    assert rig.client.timeouts == [0.002]

    rig = Rig(leave_timeout=0.02)
    monkeypatch.setattr(rig.thread, "_open", lambda: rig.client)
    rig.client.member_id = "me"
    rig.thread.stop()
    rig.thread.run()
    assert rig.client.called() == [("close",)]
    assert len(rig.client.timeouts) > 1


@pytest.mark.parametrize("kind", ["on_assign", "on_revoke", "on_lost"])
def test_a_callback_never_raises(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What fails in a callback ends the thread after that poll, with the batch posted and the client closed."""
    rig = Rig()
    error = ZeroDivisionError("in the callback")

    def fail(_event: Event) -> None:
        raise error

    def call_back() -> None:
        rig.client.rebalance_callbacks[kind](rig.client, [ClientPartition(*A)])

    def poll(_timeout: float) -> Message:
        with monkeypatch.context() as patch:
            patch.setattr(rig.thread, "_post", fail)
            call_back()
        return message(A, 3)

    monkeypatch.setattr(rig.client, "poll", poll)
    monkeypatch.setattr(rig.thread, "_open", lambda: rig.client)
    with pytest.raises(ZeroDivisionError) as caught:
        rig.thread.run()
    assert caught.value is error
    assert [places_of(event) for event in rig.posted] == [[(0, 3)]]
    assert rig.client.calls[-1] == ("close",)


def test_an_acknowledgement_never_raises() -> None:
    """The same for a commit's acknowledgement, whatever kind of exception it is."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    error = Unusual()

    def fail(_results: CommitResults) -> None:
        raise error

    rig.thread.commit([entry(A, 1)], fail)
    rig.acknowledge(None, Acknowledged(*A))
    assert rig.thread._callback_errors == [error]


def test_trouble_is_passed_on() -> None:
    """What the client reports on the side is posted."""
    rig = Rig()
    error = ClientError(ClientError._ALL_BROKERS_DOWN)
    rig.client.properties["error_cb"](error)
    (event,) = rig.posted
    assert isinstance(event, Trouble)
    assert event.error is error


# Assigning


@pytest.mark.parametrize(("is_incremental", "how"), [(True, "incremental_assign"), (False, "assign")])
def test_assigned(is_incremental: bool, how: str) -> None:
    """What starts is assigned at its offset and resumed; what doesn't yet is assigned anywhere, and paused."""
    rig = Rig(is_incremental=is_incremental)
    rig.starts = {A: StartAt(7, 1)}
    rig.rebalance("on_assign", A, B)
    assert [event.partitions for event in rig.posted if isinstance(event, Assigned)] == [(A, B)]
    assert rig.client.called() == [(how, ("orders", 0, 7), ("orders", 1, PAUSED_AT)), ("pause", B), ("resume", A)]


def test_a_partition_that_starts_later() -> None:
    """start() has it read from its offset, in its tenure; for one that isn't owned any more it does nothing."""
    rig = Rig()
    rig.assign({}, A)
    rig.thread.start(A, StartAt(9, 4))
    rig.thread.start(B, StartAt(9, 4))
    assert rig.client.called() == [("seek", ("orders", 0, 9)), ("resume", A)]
    assert rig.commit(entry(A, 4)) == []
    rig.acknowledge(None, Acknowledged(*A))
    assert rig.commit(entry(A, 3))[0][A] is not None


def test_a_start_of_what_is_full() -> None:
    """A partition may be started paused: it is sought, but not resumed."""
    rig = Rig()
    rig.assign({}, A)
    rig.thread.start(A, StartAt(9, 4, is_paused=True))
    assert rig.client.called() == [("seek", ("orders", 0, 9)), ("pause", A)]


def test_calls_are_served_while_an_answer_is_awaited() -> None:
    """What the Trio side asks for in order to answer is called within the callback, in the order asked for."""
    rig = Rig()
    order: list[str] = []

    def ask() -> None:
        for name in "abc":
            rig.thread.submit(partial(order.append, name))

    rig.while_asked = ask
    rig.starts = {A: StartAt(7, 1)}
    rig.rebalance("on_assign", A)
    assert order == ["a", "b", "c"]


def test_an_answer_that_comes_late() -> None:
    """An assign that isn't answered in time lets the client go on; the partitions are started by the late answer."""
    rig = Rig(assign_timeout=0.02)
    rig.starts = None
    rig.rebalance("on_assign", A, B)
    assert rig.client.called() == [
        ("incremental_assign", ("orders", 0, PAUSED_AT), ("orders", 1, PAUSED_AT)),
        ("pause", A, B),
    ]
    rig.rebalance("on_lost", B)
    (asked,) = [event for event in rig.posted if isinstance(event, Assigned)]
    asked.reply({A: StartAt(7, 1), B: StartAt(8, 1)})
    rig.thread._serve_jobs()
    assert rig.client.called() == [("seek", ("orders", 0, 7)), ("resume", A)]


def test_a_slow_answer_in_time() -> None:
    """An answer that takes a while is waited for."""
    rig = Rig()
    rig.starts = None
    threads: list[threading.Timer] = []

    def answer_soon() -> None:
        event = rig.posted[-1]
        assert isinstance(event, Assigned)
        threads.append(threading.Timer(0.05, lambda: event.reply({A: StartAt(7, 1)})))
        threads[0].start()

    rig.while_asked = answer_soon
    rig.rebalance("on_assign", A)
    threads[0].join()
    assert rig.client.called() == [("incremental_assign", ("orders", 0, 7)), ("resume", A)]


# Letting go


def test_revoked_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """A revoke that is answered lets the partitions go, quietly; the last commit is synchronous."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    results: list[CommitResults] = []
    rig.client.answer = [Acknowledged(*A)]
    rig.while_asked = lambda: rig.thread.submit(lambda: rig.thread.commit([entry(A, 1)], results.append))
    rig.rebalance("on_revoke", A)
    assert rig.client.called() == [("commit and wait", ("orders", 0, 5, "m"))]
    assert results == [{A: None}]
    assert rig.commit(entry(A, 1))[0][A] is not None
    assert caplog.messages == []
    rig.while_asked = lambda: None
    rig.rebalance("on_revoke", B)
    assert rig.client.called() == []


def test_revoked_while_the_loop_is_blocked(caplog: pytest.LogCaptureFixture) -> None:
    """A revoke that isn't answered in time lets go all the same, loudly; late answers and commits change nothing."""
    rig = Rig(revoke_timeout=0.02)
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.answers_revoke = False
    rig.rebalance("on_revoke", A, B)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "a revoke of orders[0], orders[1] wasn't answered within 0.0 s" in record.getMessage()
    (asked,) = [event for event in rig.posted if isinstance(event, Revoked)]
    asked.reply()
    rig.thread._serve_jobs()
    (result,) = rig.commit(entry(A, 1), entry(B, 1))
    assert {error.code() for error in result.values() if error} == {ClientError._STATE}
    assert result.keys() == {A, B}
    assert rig.client.called() == []


def test_lost() -> None:
    """Lost partitions are let go before anybody is asked, and nothing is committed for them."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.rebalance("on_lost", A)
    event = rig.posted[-1]
    assert isinstance(event, Lost)
    assert event.partitions == (A,)
    assert rig.commit(entry(A, 1))[0][A] is not None
    rig.thread.pause([A])
    rig.thread.resume([A])
    assert rig.client.called() == []


def test_a_static_member_stays_in_the_group() -> None:
    """Leaving, it lets go of its partitions here, without a departure that would have the group hand them out."""
    rig = Rig(properties={"group.id": "billing", "group.instance.id": "billing-1"})
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.thread.unsubscribe()
    event = rig.posted[-1]
    assert isinstance(event, Revoked)
    assert event.partitions == (A, B)
    assert rig.client.called() == []
    assert rig.commit(entry(A, 1))[0][A] is not None


def test_a_static_member_leaves() -> None:
    """A static member lets go of its partitions by itself: the client is told nothing, or the group would learn it."""
    rig = Rig(properties={"group.instance.id": "a"})
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.thread.unsubscribe()
    event = rig.posted[-1]
    assert isinstance(event, Revoked)
    assert event.partitions == (A, B)
    event.reply()
    assert rig.commit(entry(A, 1))[0][A] is not None
    assert rig.client.called() == []

    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.thread.unsubscribe()
    assert rig.client.called() == [("unsubscribe",)]


@pytest.mark.parametrize("kind", ["on_assign", "on_revoke"])
def test_nobody_is_asked_at_the_end(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """A rebalance during the end waits for no answer, since nobody is left to give one, and isn't blamed on the loop.

    An assign that met the end of the block once held the client up until close_timeout was over.
    """
    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.starts, rig.answers_revoke = None, False
    rig.while_asked = lambda: rig.thread.submit(rig.thread.stop)
    rig.rebalance(kind, A)
    assert caplog.messages == []


# Commits


def test_only_what_is_owned_in_its_tenure_is_committed() -> None:
    """Entries of ended tenures, and of partitions that were never assigned, never reach the client.

    Neither need an entry have metadata: an empty one was once handed over as none, which the client refuses.
    """
    rig = Rig()
    rig.assign({A: (0, 3)})
    (results,) = rig.commit(entry(A, 2), entry(B, 1))
    assert [error.code() for error in (results[A], results[B]) if error] == [ClientError._STATE] * 2
    assert rig.client.called() == []
    pending = rig.commit(entry(A, 3, 8, ""), entry(B, 1))
    assert rig.client.called() == [("commit", ("orders", 0, 8, ""))]
    assert pending == []
    rig.acknowledge(None, Acknowledged(*A))
    assert pending[0][A] is None
    assert pending[0][B] is not None


def test_acknowledgements_come_in_order() -> None:
    """Each acknowledgement is of the oldest commit; an error of the whole, or of one partition, is told of each."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    error = ClientError(ClientError.UNKNOWN)
    first, second, third = (rig.commit(entry(A, 1, n), entry(B, 1, n)) for n in range(3))
    rig.acknowledge(None, Acknowledged(*A), Acknowledged(*B, error))
    assert (first, second) == ([{A: None, B: error}], [])
    rig.acknowledge(error, Acknowledged(*A), Acknowledged(*B))
    rig.acknowledge(None, Acknowledged(*A), Acknowledged(*B))
    assert second == [{A: error, B: error}]
    assert third == [{A: None, B: None}]


def test_a_commit_that_the_client_refuses() -> None:
    """A commit that can't even be sent fails with the client's error; others that are awaited stay so."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    before = rig.commit(entry(A, 1))
    rig.client.refuses["commit"] = refused(ClientError._TRANSPORT)
    results = rig.commit(entry(A, 1), entry(B, 1))
    assert {error.code() for error in results[0].values() if error} == {ClientError._TRANSPORT, ClientError._STATE}
    assert results[0][A] == ClientError(ClientError._TRANSPORT)
    assert before == []
    rig.acknowledge(None, Acknowledged(*A))
    assert before == [{A: None}]


def test_a_last_commit_that_fails() -> None:
    """A synchronous commit that fails says so, and leaves the acknowledgements that are awaited alone."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    before = rig.commit(entry(A, 1))
    rig.client.refuses["commit and wait"] = refused(ClientError.UNKNOWN_MEMBER_ID)
    results: list[CommitResults] = []
    rig.while_asked = lambda: rig.thread.submit(lambda: rig.thread.commit([entry(A, 1)], results.append))
    rig.rebalance("on_revoke", A)
    assert results == [{A: ClientError(ClientError.UNKNOWN_MEMBER_ID)}]
    rig.acknowledge(None, Acknowledged(*A))
    assert before == [{A: None}]


def test_after_the_callback_commits_are_asynchronous_again() -> None:
    """Only within a callback does a commit wait."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.rebalance("on_revoke", A)
    rig.commit(entry(B, 1))
    assert rig.client.called() == [("commit", ("orders", 1, 5, "m"))]


# Batches


def test_what_is_fetched_is_taken_in_one_hop() -> None:
    """A batch is what is there, up to its size, with the tenures of that moment; the next waits until it is taken."""
    rig = Rig(batch_size=3)
    rig.assign({A: (0, 1)}, B)
    rig.client.incoming += [message(A, offset) for offset in range(5)]
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, 0), (0, 1), (0, 2)]
    assert rig.client.consumed == [2]
    rig.assign({}, TopicPartition("orders", 2))
    first = next(event for event in rig.posted if isinstance(event, Fetched))
    assert first.assignment_epochs == {A: 1, B: None}
    rig.take()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, 3), (0, 4)]


def test_polling_goes_on_while_a_batch_is_out() -> None:
    """While the loop doesn't take a batch the client is polled around it; what that finds comes first afterwards."""
    rig = Rig(batch_size=4)
    rig.assign({A: (0, 1)})
    rig.client.incoming += [message(A, offset) for offset in range(9)]
    rig.thread._poll()
    before = len(rig.client.timeouts)
    for _ in range(3):
        rig.thread._poll()
    assert rig.client.timeouts[before:] == [0, 0, 0]
    assert not rig.thread.statistics().is_held
    assert rig.client.called() == []
    rig.take()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, 4), (0, 5), (0, 6), (0, 7)]
    assert rig.client.timeouts[-1] == 0
    rig.take()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, 8)]


def test_a_message_that_comes_between_two_polls() -> None:
    """Where callbacks are served apart from the polling, a message that comes along begins the next batch."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.client.incoming += [message(A, 0), message(A, 1)]
    rig.thread.serve_callbacks()
    assert rig.client.timeouts[-1] == 0
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, 0), (0, 1)]
    rig.client.incoming.clear()
    rig.take()
    rig.thread.serve_callbacks()
    rig.thread._poll()
    assert len([event for event in rig.posted if isinstance(event, Fetched)]) == 1


def test_calls_are_served_while_a_batch_is_out() -> None:
    """A call that comes while a batch is out is served, instead of a poll."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.client.incoming.append(message(A, 0))
    rig.thread._poll()
    before = len(rig.client.timeouts)
    seen: list[int] = []
    rig.thread.submit(lambda: seen.append(1))
    rig.thread._poll()
    assert seen == [1]
    assert len(rig.client.timeouts) == before


def held_rig(batch_size: int) -> Rig:
    """One whose loop took no batch until everything was paused; A is read, B was paused before."""
    rig = Rig(batch_size=batch_size)
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.thread.pause([B])
    rig.client.called()
    rig.client.incoming += [message(A, offset) for offset in range(batch_size + MAX_STASH + 1)]
    rig.thread._poll()
    for _ in range(MAX_STASH - 1):
        rig.thread._poll()
    assert rig.client.called() == []
    assert not rig.thread.statistics().is_held
    rig.thread._poll()
    return rig


def test_a_loop_that_takes_nothing() -> None:
    """After so many messages everything is paused, once, and polled on; what flow control paused stays so."""
    rig = held_rig(batch_size=4)
    assert rig.client.called() == [("pause", A, B)]
    assert rig.thread.statistics().is_held
    rig.client.incoming.clear()
    rig.thread._poll()
    assert rig.client.called() == []
    rig.take()
    assert not rig.thread.statistics().is_held
    assert rig.client.called() == [("resume", A)]
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, offset) for offset in range(4, 4 + MAX_STASH)]


def test_more_piled_up_than_a_batch_holds() -> None:
    """What piled up is delivered with what is next, even if that is more than a batch holds: nothing is lost."""
    rig = held_rig(batch_size=1)
    rig.take()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, offset) for offset in range(1, 2 + MAX_STASH)]
    assert rig.client.consumed == [0, 0]


def test_resuming_while_everything_is_paused() -> None:
    """What flow control resumes meanwhile is resumed with the rest; what it pauses isn't."""
    rig = held_rig(batch_size=1)
    rig.client.called()
    rig.thread.resume([B])
    rig.thread.pause([A])
    assert rig.client.called() == [("pause", A)]
    rig.take()
    assert rig.client.called() == [("resume", B)]


def test_an_assign_while_everything_is_paused() -> None:
    """A partition that is assigned meanwhile is resumed with the rest."""
    rig = held_rig(batch_size=1)
    third = TopicPartition("orders", 2)
    rig.client.incoming.clear()
    rig.client.called()
    rig.starts = {third: StartAt(0, 1)}
    rig.rebalance("on_assign", third)
    assert rig.client.called() == [("incremental_assign", ("orders", 2, 0))]
    rig.take()
    assert rig.client.called() == [("resume", A, third)]


def test_a_dead_loop_isnt_covered_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is silent for longer than the poll interval costs the membership: polling stops while it is."""
    rig = Rig(max_poll_interval=5.0)
    rig.assign({A: (0, 1)})
    rig.client.incoming += [message(A, 0)]
    rig.thread._poll()
    polled = len(rig.client.timeouts)
    for silence, polls in ((5.1, 0), (5.0, 1), (0.0, 2)):
        monkeypatch.setattr(LoopWatchdog, "silence", silence)
        rig.thread._poll()
        assert len(rig.client.timeouts) - polled == polls


@pytest.mark.parametrize("kind", ["on_revoke", "on_lost"])
def test_what_was_fetched_ends_with_the_partition(kind: str) -> None:
    """What was polled around the loop isn't delivered once its partition is let go."""
    rig = Rig(batch_size=1)
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.client.incoming += [message(A, 0), message(A, 1), message(B, 0), message(A, 2)]
    for _ in range(4):
        rig.thread._poll()
    rig.rebalance(kind, A)
    rig.take()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(1, 0)]


def test_a_partition_that_comes_back_at_once() -> None:
    """What was fetched in a tenure isn't delivered in the next, even if both meet in the poll before the batch.

    It was once taken for the new tenure's, with offsets that this one hadn't come to.
    """
    rig = Rig(batch_size=1)
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.client.incoming += [message(A, 0), message(A, 1), message(B, 0)]
    for _ in range(3):
        rig.thread._poll()
    rig.take()
    rig.starts = {A: StartAt(0, 2)}
    callbacks = rig.client.rebalance_callbacks

    def move() -> None:
        callbacks["on_lost"](rig.client, [ClientPartition(*A)])
        callbacks["on_assign"](rig.client, [ClientPartition(*A)])

    rig.client.incoming.append(move)
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(1, 0)]
    assert cast("Fetched", rig.posted[-1]).assignment_epochs == {A: 2, B: 1}


def test_what_was_fetched_before_a_new_start() -> None:
    """What was polled around the loop isn't delivered when its partition starts elsewhere."""
    rig = Rig(batch_size=1)
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.client.incoming += [message(A, 0), message(A, 1), message(B, 0)]
    for _ in range(3):
        rig.thread._poll()
    rig.thread.start(A, StartAt(0, 2))
    rig.take()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(1, 0)]
    assert cast("Fetched", rig.posted[-1]).assignment_epochs == {A: 2, B: 1}


def test_pause_and_resume_concern_what_is_owned() -> None:
    """Only owned partitions are paused and resumed, and the client isn't bothered with none."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.thread.pause([A, B])
    rig.thread.resume([A, B])
    rig.thread.pause([B])
    rig.thread.resume([])
    assert rig.client.called() == [("pause", A), ("resume", A)]


def test_resuming_where_everything_was_paused() -> None:
    """A client that had nothing to fetch is told where to go on, or it would sleep on for a while."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.thread.pause([A, B])
    rig.client.called()
    rig.thread.resume_at({A: 7})
    assert rig.client.called() == [("resume", A), ("seek", ("orders", 0, 7))]
    rig.thread.resume_at({B: 8})
    assert rig.client.called() == [("resume", B)]


def test_resuming_what_is_let_go() -> None:
    """Of what is owned no more nothing is resumed, and nothing sought."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.thread.pause([A])
    rig.client.called()
    rig.thread.resume_at({A: 7, B: 8})
    assert rig.client.called() == [("resume", A), ("seek", ("orders", 0, 7))]


def test_resuming_what_the_client_has_given_up() -> None:
    """A partition that the client refuses to seek in is resumed all the same; the thread goes on."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    rig.thread.pause([A])
    rig.client.refuses["seek"] = refused(ClientError._STATE)
    rig.thread.resume_at({A: 7})
    assert [name for name, *_ in rig.client.called()] == ["pause", "resume", "seek"]


def test_resuming_beside_a_batch() -> None:
    """While a batch is on its way, or messages are kept for the next, nothing is sought: they would come again."""
    rig = Rig(batch_size=1)
    rig.assign({A: (0, 1)})
    rig.client.incoming += [message(A, 0), message(A, 1)]
    rig.thread._poll()
    rig.thread.pause([A])
    rig.client.called()
    rig.thread.resume_at({A: 0})
    assert rig.client.called() == [("resume", A)]
    rig.thread._poll()
    rig.take()
    rig.thread.pause([A])
    rig.client.called()
    rig.thread.resume_at({A: 1})
    assert rig.client.called() == [("resume", A)]


# Partitions that the client has given up


@pytest.mark.parametrize("is_incremental", [True, False])
def test_starting_what_the_client_has_given_up(is_incremental: bool) -> None:
    """A partition that the client refuses to seek in is assigned anew at its offset; others stay where they are."""
    rig = Rig(is_incremental=is_incremental)
    third = TopicPartition("orders", 2)
    rig.assign({A: (3, 1), B: (4, 1), third: (5, 1)})
    rig.client.positions = {B: 9}
    rig.client.refuses["seek"] = refused(ClientError._STATE)
    rig.thread.start(A, StartAt(7, 2))
    again = (
        [("incremental_unassign", ("orders", 0, 7)), ("incremental_assign", ("orders", 0, 7))]
        if is_incremental
        else [("assign", ("orders", 0, 7), ("orders", 1, 9), ("orders", 2, 5))]
    )
    assert rig.client.called() == [("seek", ("orders", 0, 7)), *again, ("resume", A)]


def test_other_refusals_of_a_seek() -> None:
    """Any other refusal is raised."""
    rig = Rig()
    rig.assign({A: (3, 1)})
    rig.client.refuses["seek"] = refused(ClientError._INVALID_ARG)
    with pytest.raises(KafkaException):
        rig.thread.start(A, StartAt(7, 2))
    assert rig.client.called() == [("seek", ("orders", 0, 7))]


# Figures


def test_hops_are_measured() -> None:
    """The percentiles are of the last 1,000 hops; without any they are zero."""
    rig = Rig()
    assert rig.thread.statistics() == PollStatistics()
    rig.thread._hops.extend([9.0] * 500 + [number / 1000 for number in range(1000)])
    statistics = rig.thread.statistics()
    assert (statistics.hop_p50, statistics.hop_p99, statistics.hop_max) == (0.5, 0.99, 0.999)


def test_waiting_is_no_hop() -> None:
    """Seconds in which a poll waits for records don't count; those in which calls keep it from polling do."""
    rig = Rig()
    thread = threading.Thread(target=rig.thread.run)
    rig.thread.submit(lambda: time.sleep(0.2))
    thread.start()
    while len(rig.thread._hops) < 10:
        time.sleep(0.001)
    rig.thread.submit(rig.thread.stop)
    thread.join(30)
    assert rig.thread.statistics().hop_max >= 0.2
    assert min(rig.thread._hops) < poll_thread.POLL_TIMEOUT / 2
