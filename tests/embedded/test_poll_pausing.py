"""The thread that owns the client, over a stand-in: pausing, resuming, and a loop that takes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import (
    KafkaError as ClientError,
)
from embedded.poll_rig import A, B, Rig, message, places_of, refused

from trio_parallel_kafka.control.client import Fetched, StartAt
from trio_parallel_kafka.control.poll_thread import MAX_STASH, PAUSED_POLL_TIMEOUT, POLL_TIMEOUT
from trio_parallel_kafka.control.watchdog import LoopWatchdog
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.flow import PAUSED_BATCH

pytestmark = pytest.mark.usefixtures("stand_in")


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
    rig = held_rig(batch_size=8)
    assert rig.client.called() == [("pause", A, B)]
    assert rig.thread.statistics().is_held
    rig.client.incoming.clear()
    rig.thread._poll()
    assert rig.client.called() == []
    rig.take()
    assert not rig.thread.statistics().is_held
    assert rig.client.called() == [("resume", A)]
    rig.thread._poll()
    assert places_of(rig.posted[-1]) == [(0, offset) for offset in range(8, 8 + MAX_STASH)]


def test_batches_are_shorter_while_a_partition_is_paused() -> None:
    """Records come faster than they are handled."""
    rig = Rig(batch_size=400)
    rig.assign({A: (0, 1), B: (0, 2)})
    rig.client.incoming += [message(A, offset) for offset in range(1000)]
    sizes = []
    changes: list[Callable[[], None]] = [lambda: None, lambda: rig.thread.pause([B]), lambda: rig.thread.resume([B])]
    for change in changes:
        change()
        rig.thread._poll()
        sizes.append(len(places_of(rig.posted[-1])))
        rig.take()
    assert sizes == [400, PAUSED_BATCH, 350]


def test_calls_are_served_at_once_while_a_partition_is_paused() -> None:
    """No poll waits in the client then, where nothing can wake it."""
    rig = Rig(batch_size=4)
    rig.assign({A: (0, 1), B: (0, 2)})
    rig.thread._poll()
    assert rig.client.timeouts[-1] > 0
    rig.thread.pause([B])
    served = []
    rig.thread.submit(lambda: served.append(rig.client.timeouts[-1]))
    rig.thread._poll()
    assert served == [0]


def test_what_has_piled_up_does_not_grow_while_it_can_not_leave() -> None:
    """One of two batches is taken, but only one may be on its way, for a partition was paused: nothing goes on yet."""
    rig = Rig(batch_size=2, batches_out=2)
    rig.assign({A: (0, 1), B: (0, 2)})
    rig.client.incoming += [message(A, offset) for offset in range(200)]
    for _ in range(2 + MAX_STASH):
        rig.thread._poll()
    first, second = (event for event in rig.posted if isinstance(event, Fetched))
    assert rig.thread.statistics().is_held
    rig.thread.pause([B])
    rig.client.called()
    first.taken()
    rig.thread._serve_jobs()
    assert rig.thread.statistics().is_held
    assert rig.client.called() == []
    second.taken()
    rig.thread._serve_jobs()
    assert rig.client.called() == [("resume", A)]
    rig.thread._poll()
    assert len(places_of(rig.posted[-1])) == MAX_STASH + 1


def test_polls_are_rare_while_everything_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some partitions are paused, the others' records aren't to wait; where all are, nothing can come."""
    rig = Rig()
    rests: list[float] = []
    monkeypatch.setattr(rig.thread, "_rest", rests.append)
    rig.assign({A: (0, 1), B: (0, 2)})
    rig.thread.subscribe(["orders"])
    for partition in (A, B):
        rig.thread.pause([partition])
        rig.thread._poll()
    assert rests == [PAUSED_POLL_TIMEOUT, POLL_TIMEOUT]


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


def test_a_dead_loop_with_nothing_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise when there is no batch that it doesn't take: a silent loop costs the membership."""
    rig = Rig(max_poll_interval=5.0)
    rig.assign({A: (0, 1)})
    polled = len(rig.client.timeouts)
    for silence, polls in ((5.1, 0), (5.0, 1)):
        monkeypatch.setattr(LoopWatchdog, "silence", silence)
        rig.thread._poll()
        assert len(rig.client.timeouts) - polled == polls


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


def test_what_was_let_go_counts_no_more() -> None:
    """Whether everything was paused is asked of what is owned, not of what once was."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.thread.pause([A])
    rig.rebalance("on_lost", A)
    rig.client.called()
    rig.thread.resume_at({B: 5})
    assert rig.client.called() == [("resume", B)]


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
