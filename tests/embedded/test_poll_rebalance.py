"""The thread that owns the client, over a stand-in: what happens in rebalance callbacks."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import cast

import pytest
from confluent_kafka import (
    KafkaError as ClientError,
    KafkaException,
    Message,
    TopicPartition as ClientPartition,
)
from embedded.poll_rig import PAUSED_AT, A, Acknowledged, B, Rig, entry, message, places_of, refused

from trio_parallel_kafka.control.client import Assigned, Fetched, Lost, Revoked, StartAt
from trio_parallel_kafka.control.poll_thread import CommitResults
from trio_parallel_kafka.core.assignments import TopicPartition

pytestmark = pytest.mark.usefixtures("stand_in")


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


@pytest.mark.parametrize("is_incremental", [True, False])
def test_starting_what_the_client_has_given_up(is_incremental: bool) -> None:
    """A partition that the client refuses to seek in is assigned anew at its offset; others go on where they stand.

    Where they stand is what was returned of them, in a batch on its way or piled up: the client's own idea of it lags.
    """
    rig = Rig(is_incremental=is_incremental)
    third = TopicPartition("orders", 2)
    rig.assign({A: (3, 1), B: (4, 1), third: (5, 1)})
    end = Message(*B, 9, error=ClientError(ClientError._PARTITION_EOF))
    rig.client.incoming += [message(B, 7), message(B, 8), end]
    for _ in range(3):
        rig.thread._poll()
    rig.client.called()
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
