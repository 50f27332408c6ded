"""What is handled at all, and in which order: each violation is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testing.cases import Case, Cases
from testing.script import Script

from trio_parallel_kafka.testing import (
    AtLeastOnce,
    ExactlyOnceOutput,
    Guarantee,
    History,
    KeyOrder,
    KeySerial,
    LittleReplay,
    OneOwner,
)

cases = Cases()


# At least once


@cases.held(AtLeastOnce)
def _everything_is_done(script: Script) -> None:
    script.produced(0, 1, 2)
    script.handle(0)
    script.fail(script.start(1))
    script.give_up(1)
    script.cancel(script.start(2, "m"))
    script.handle(2, member="n")
    script.commit(3)


@cases.held(AtLeastOnce)
def _produced_is_told_late(script: Script) -> None:
    script.handle(0)
    script.commit(1)
    script.produced(0)


@cases.broken(AtLeastOnce, "orders[0]@1 was produced, but never completed nor given up")
def _never_done(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0)
    script.fail(script.start(1))


@cases.held(AtLeastOnce, is_finished=False)
def _not_done_yet(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0)
    script.commit(1)


@cases.broken(AtLeastOnce, "orders[0]@1 wasn't completed nor given up when offset 2 was committed", is_finished=False)
def _committed_one_too_far(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0)
    script.start(1)
    script.commit(2)


@cases.broken(AtLeastOnce, "orders[0]@1 wasn't completed nor given up when offset 2 was committed")
def _committed_before_it_was_there(script: Script) -> None:
    script.handle(0)
    script.commit(2)
    script.produced(1)
    script.handle(1)


@cases.held(AtLeastOnce)
def _committed_in_the_map(script: Script) -> None:
    script.produced(0, 1, 2, 3, 4)
    script.handle(2, 3)
    script.commit(0, 2, 3)
    script.handle(0, 1, 4)
    script.commit(5)


@cases.broken(AtLeastOnce, "orders[0]@3 wasn't completed nor given up when it was committed in the map, with offset 0")
def _map_says_too_much(script: Script) -> None:
    script.produced(0, 1, 2, 3)
    script.handle(2)
    script.commit(0, 2, 3)


@cases.held(AtLeastOnce)
def _metadata_of_somebody_else(script: Script) -> None:
    script.produced(0)
    script.commit(0, metadata="hello")
    script.handle(0)


@cases.held(AtLeastOnce)
def _unknown_records(script: Script) -> None:
    script.give_up(7)
    script.commit(8)


@cases.held(AtLeastOnce)
def _offsets_without_records(script: Script) -> None:
    script.produced(0, 5)
    script.handle(0)
    script.commit(5, 6)
    script.handle(5)
    script.commit(9)


@cases.broken(AtLeastOnce, "orders[0]@0 wasn't completed nor given up when offset 1 was committed")
def _ended_after_its_death(script: Script) -> None:
    script.produced(0)
    attempt = script.start(0)
    script.die()
    script.complete(attempt)
    script.commit(1)


@cases.broken(AtLeastOnce, "orders[0]@0 was produced, but never completed nor given up")
def _completed_after_its_end(script: Script) -> None:
    script.produced(0)
    attempt = script.start(0)
    script.cancel(attempt)
    script.complete(attempt)


# Key order


@cases.held(KeyOrder)
def _in_order(script: Script) -> None:
    script.produced(0, 1, 2)
    script.produced(3, key=b"b")
    script.fail(script.start(0))
    script.handle(3, key=b"b")
    script.handle(0, attempt=2)
    script.fail(script.start(1))
    script.give_up(1)
    script.handle(2)


@cases.held(KeyOrder)
def _no_key(script: Script) -> None:
    script.produced(0, 1, key=None)
    one = script.start(1, key=None)
    script.handle(0, key=None)
    script.complete(one)


@cases.held(KeyOrder)
def _partitions_have_no_order(script: Script) -> None:
    script.produced(0)
    script.produced(1, partition=1)
    script.handle(1, partition=1)
    script.handle(0)


@cases.broken(KeyOrder, "orders[0]@2 was started before offset 1 of its lane was completed or given up")
def _too_early(script: Script) -> None:
    script.produced(0, 1, 2)
    script.handle(0)
    script.fail(script.start(1))
    script.start(2)


@cases.broken(KeyOrder, "orders[0]@2 was started before offset 1 of its lane was completed or given up")
def _order_known_by_starts_alone(script: Script) -> None:
    script.handle(2)
    script.handle(1)


@cases.broken(KeyOrder, "orders[0]@0 was started after offset 1 of its lane, in the same assignment")
def _back_to_what_was_done(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0, 1, 0)


@cases.held(KeyOrder)
def _back_in_another_assignment(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0, 1, epoch=1)
    script.handle(0, 1, epoch=2)
    script.handle(0, 1, member="n")


@cases.held(KeyOrder)
def _back_in_another_life(script: Script) -> None:
    script.produced(0, 1)
    script.join()
    script.handle(0, 1)
    script.join()
    script.handle(0, 1)
    script.die()
    script.join()
    script.handle(0, 1)


@cases.held(KeyOrder)
def _back_after_a_new_assignment_of_the_same_epoch(script: Script) -> None:
    script.assign()
    script.handle(0, 1, epoch=1)
    script.join()
    script.assign()
    script.handle(0, 1, epoch=1)


@cases.broken(
    KeyOrder, "orders[0]@1 was started before offset 0, started in the same assignment, was completed or given up"
)
def _done_only_in_an_earlier_assignment(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0)
    script.fail(script.start(0, epoch=2))
    script.start(1, epoch=2)


@cases.held(KeyOrder)
def _given_up_meanwhile_by_another(script: Script) -> None:
    script.produced(0, 1)
    script.give_up(7)
    script.fail(script.start(0))
    script.give_up(0)
    script.handle(1)


@cases.held(KeyOrder)
def _batches(script: Script) -> None:
    script.produced(0, 1, 2, 3)
    zero, one, two = script.batch(0, 1, 2)
    script.fail(zero, two)
    script.complete(one)
    zero, two, three = script.batch(0, 2, 3)
    script.complete(zero, three)
    script.fail(two)
    script.handle(2)


@cases.held(KeyOrder)
def _batch_fails_as_a_whole(script: Script) -> None:
    script.produced(0, 1, 2)
    script.handle(0)
    script.fail(*script.batch(1, 2))
    script.complete(*script.batch(1, 2))


@cases.broken(KeyOrder, "orders[0]@2 was started before offset 1 of its lane was completed or given up")
def _hole_in_a_batch(script: Script) -> None:
    script.produced(0, 1, 2)
    script.batch(0, 2)


@cases.broken(
    KeyOrder, "orders[0]@1 was started before offset 0, started in the same assignment, was completed or given up"
)
def _batch_without_what_failed(script: Script) -> None:
    script.produced(0, 1)
    script.handle(0, 1)
    script.fail(*script.batch(0, 1, epoch=2))
    script.fail(script.start(0, epoch=2))
    script.start(1, epoch=2)


@cases.broken(KeyOrder, "orders[0]@1 was started after offset 3 of its lane, in the same assignment")
def _back_before_a_batch(script: Script) -> None:
    script.produced(0, 1, 2, 3)
    script.complete(*script.batch(0, 1))
    script.complete(*script.batch(2, 3))
    script.start(1)


@cases.broken(KeyOrder, "orders[0]@1 was started before offset 0", key_of=lambda _event: "")
def _order_of_the_whole_partition(script: Script) -> None:
    script.produced(0, key=b"a")
    script.produced(1, key=None)
    script.start(0, key=b"a")
    script.start(1, key=None)


@cases.held(KeyOrder)
def _gone_with_the_dead(script: Script) -> None:
    script.produced(0, 1)
    script.die()
    script.start(1)


@pytest.mark.parametrize("case", cases.params)
def test_verdict(case: Case) -> None:
    """A guarantee names the first thing that breaks it, and holds where nothing does."""
    case.check()


@pytest.mark.parametrize("guarantee", [AtLeastOnce, KeyOrder, KeySerial, OneOwner, LittleReplay, ExactlyOnceOutput])
def test_each_is_told_what_orders(guarantee: Callable[..., Guarantee]) -> None:
    """All are made alike, so that they can be held one after another."""
    assert guarantee(History(), key_of=lambda _event: None).is_held
