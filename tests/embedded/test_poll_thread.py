"""The thread that owns the client, over a stand-in: its life, batches, figures."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest
from confluent_kafka import (
    KafkaError as ClientError,
    Message,
    TopicPartition as ClientPartition,
)
from embedded.poll_rig import A, Acknowledged, B, Rig, StandIn, Unusual, entry, message, places_of, refused

from trio_parallel_kafka.control import poll_thread
from trio_parallel_kafka.control.client import Event, Fetched, Trouble
from trio_parallel_kafka.control.poll_thread import CommitResults
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.statistics import PollStatistics

pytestmark = pytest.mark.usefixtures("stand_in")


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


def test_two_batches_on_their_way() -> None:
    """While the loop works on one, the next is fetched; a third waits for the first to be taken."""
    rig = Rig(batch_size=2, batches_out=2)
    rig.assign({A: (0, 1)})
    rig.client.incoming += [message(A, offset) for offset in range(7)]
    for _ in range(3):
        rig.thread._poll()
    batches = [event for event in rig.posted if isinstance(event, Fetched)]
    assert [places_of(each) for each in batches] == [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    batches[0].taken()
    rig.thread._poll()
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, 4), (0, 5)]
    assert len([event for event in rig.posted if isinstance(event, Fetched)]) == 3


def test_one_batch_on_its_way_while_a_partition_is_paused() -> None:
    """What it is paused for is more than enough; and what comes counts towards the bound of a partition that isn't."""
    rig = Rig(batch_size=8, batches_out=2)
    rig.assign({A: (0, 1), B: (0, 2)})
    rig.client.incoming += [message(A, offset) for offset in range(9)]
    rig.thread.pause([B])
    for _ in range(3):
        rig.thread._poll()
    assert [len(places_of(each)) for each in rig.posted if isinstance(each, Fetched)] == [8]


def test_no_third_batch_when_a_partition_pauses_while_two_are_on_their_way() -> None:
    """That would take a partition over its bound."""
    rig = Rig(batch_size=4, batches_out=2)
    rig.assign({A: (0, 1), B: (0, 2)})
    rig.client.incoming += [message(A, offset) for offset in range(12)]
    rig.thread._poll()
    rig.thread._poll()
    rig.thread.pause([B])
    rig.thread._poll()
    assert len([event for event in rig.posted if isinstance(event, Fetched)]) == 2


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
