"""Who may handle what, and when: each violation is found, and nothing else."""

from __future__ import annotations

import pytest
from testing.cases import Case, Cases
from testing.script import Script

from trio_parallel_kafka.testing.guarantees import KeySerial, LittleReplay, OneOwner

cases = Cases()


# Key serial


@cases.held(KeySerial)
def _one_at_a_time(script: Script) -> None:
    script.start(0, key=b"b")
    script.handle(1)
    script.cancel(script.start(2))
    script.fail(script.start(2, "n"))
    script.complete(*script.batch(2, 3))
    script.handle(4)


@cases.broken(KeySerial, "orders[0]@1 was started while orders[0]@0 (started as #0 by 'm') was being handled")
def _two_of_a_key(script: Script) -> None:
    script.start(0)
    script.start(1)


@cases.broken(KeySerial, "orders[0]@0 was started while orders[0]@0 (started as #0 by 'm') was being handled")
def _one_twice(script: Script) -> None:
    script.start(0, key=None)
    script.start(0, "n", key=None)


@cases.broken(KeySerial, "orders[0]@2 was started while orders[0]@1")
def _two_beside_a_batch(script: Script) -> None:
    zero, _one = script.batch(0, 1)
    script.complete(zero)
    script.start(2)


@cases.held(KeySerial)
def _it_died_with_its_attempt(script: Script) -> None:
    attempt = script.start(0)
    script.die()
    script.handle(0, member="n")
    script.complete(attempt)
    script.join()
    script.handle(1)


@cases.held(KeySerial)
def _lost_before_and_after(script: Script) -> None:
    script.assign("m")
    before = script.start(0, "m")
    other = script.start(1, "n")
    script.lose("m")
    script.complete(before)
    after = script.start(0, "m", epoch=1)
    script.complete(other, after)


@cases.broken(KeySerial, "orders[0]@0 was started while orders[0]@0")
def _revoked_and_then_another_lost(script: Script) -> None:
    script.start(0, "m")
    script.revoke("m")
    script.assign("m")
    script.start(0, "n")
    script.lose("m")


@cases.broken(KeySerial, "orders[0]@0 was started while orders[0]@0")
def _lost_after_it_was_revoked(script: Script) -> None:
    script.start(0, "m")
    script.revoke("m")
    script.start(0, "n")
    script.lose("m")


@cases.broken(KeySerial, "orders[0]@0 was started while orders[0]@0")
def _lost_but_back_in_the_same_member(script: Script) -> None:
    script.assign()
    script.start(0)
    script.lose()
    script.assign()
    script.start(0, epoch=2)


@cases.broken(KeySerial, "orders[0]@1 was started while orders[0]@0")
def _two_before_a_loss(script: Script) -> None:
    script.start(0)
    script.start(1)
    script.lose()


@cases.held(KeySerial)
def _end_without_a_start(script: Script) -> None:
    attempt = script.start(0)
    script.complete(attempt, attempt)
    script.handle(0)


# One owner


@cases.held(OneOwner)
def _handed_over(script: Script) -> None:
    script.assign("m")
    script.handle(0)
    script.cancel(script.start(1))
    script.start(0, partition=1)
    script.revoke("m")
    script.assign("n")
    script.start(1, "n")


@cases.broken(OneOwner, "orders[0]@1 was still being handled by 'm' when that had let it go")
def _still_running(script: Script) -> None:
    script.assign()
    script.handle(0)
    script.start(1)
    script.revoke()


@cases.broken(OneOwner, "orders[0]@1 was started by 'm' although that had let it go")
def _started_after_it_was_let_go(script: Script) -> None:
    script.assign()
    script.handle(0)
    script.revoke()
    script.start(1)


@cases.broken(OneOwner, "orders[0]@1 was started by 'm' although that had let it go")
def _revoked_without_ado(script: Script) -> None:
    script.revoke()
    script.start(1)


@cases.broken(OneOwner, "orders[0]@1 was started by 'm' although that had let it go")
def _old_assignment_goes_on(script: Script) -> None:
    script.assign()
    script.handle(0, epoch=1)
    script.revoke()
    script.assign()
    script.handle(0, epoch=2)
    script.start(1, epoch=1)


@cases.broken(OneOwner, "orders[0]@1 was started by 'm' although that had let it go")
def _the_one_before_the_last_goes_on(script: Script) -> None:
    script.assign()
    script.handle(0, epoch=1)
    script.revoke()
    script.assign()
    script.revoke()
    script.assign()
    script.start(1, epoch=1)


@cases.broken(OneOwner, "orders[0]@1 was started in an assignment (epoch 1) that had been followed by another")
def _lost_assignment_goes_on_after_the_next(script: Script) -> None:
    script.assign()
    script.handle(0, epoch=1)
    script.lose()
    script.assign()
    script.handle(0, epoch=2)
    script.start(1, epoch=1)


@cases.broken(OneOwner, "orders[0]@1 was started while orders[0]@0 (started as #0 by 'm') was being handled in another")
def _two_members_at_once(script: Script) -> None:
    script.start(0, key=b"a")
    script.start(1, "n", key=b"b")


@cases.broken(OneOwner, "orders[0]@1 was started while orders[0]@0 (started as #0 by 'm') was being handled in another")
def _two_assignments_at_once(script: Script) -> None:
    script.start(0, key=b"a", epoch=1)
    script.start(1, key=b"b", epoch=2)


@cases.held(OneOwner)
def _lost_ones_go_on(script: Script) -> None:
    script.assign("m")
    script.start(0, "m")
    script.lose("m")
    script.assign("n")
    script.start(0, "n")
    script.start(1, "m", key=b"b")
    script.lose("m")


@cases.held(OneOwner)
def _many_at_once_in_one(script: Script) -> None:
    script.assign()
    first = script.start(0, key=b"a")
    script.start(1, key=b"b")
    script.complete(first)
    script.start(2, key=b"c")
    script.die()
    script.handle(0, member="n")


# Little replay


@cases.held(LittleReplay)
def _only_what_was_not_committed(script: Script) -> None:
    script.assign()
    script.handle(0, 2)
    script.commit(1, 2)
    script.revoke()
    script.assign("n")
    script.handle(1, 3, member="n")
    script.commit(4, member="n")
    script.handle(3, member="n")


@cases.broken(LittleReplay, "orders[0]@0 was started again although it was committed when it was assigned")
def _below_the_position(script: Script) -> None:
    script.handle(0)
    script.commit(1)
    script.assign("n")
    script.start(0, "n")


@cases.broken(LittleReplay, "orders[0]@3 was started again although it was committed when it was assigned")
def _in_the_map(script: Script) -> None:
    script.handle(0, 3, 5)
    script.commit(1, 3, 5)
    script.assign("n")
    script.handle(1, 4, member="n")
    script.start(3, "n")


@cases.held(LittleReplay)
def _committed_after_it_was_assigned(script: Script) -> None:
    script.commit(1)
    script.assign("n")
    script.commit(2)
    script.start(1, "n")


@cases.held(LittleReplay)
def _the_group_was_set_back(script: Script) -> None:
    script.commit(5)
    script.commit(0, member="operator")
    script.assign("n")
    script.start(0, "n")


@cases.held(LittleReplay)
def _the_log_went_back(script: Script) -> None:
    script.commit(5)
    script.assign()
    script.handle(5, epoch=1)
    script.handle(0, epoch=2)


@cases.held(LittleReplay)
def _never_assigned(script: Script) -> None:
    script.commit(5)
    script.handle(0)


@cases.broken(LittleReplay, "orders[0]@0 was started again although it was committed when it was assigned")
def _assigned_before_its_new_life_was_told(script: Script) -> None:
    script.handle(0, epoch=7)
    script.commit(1)
    script.die()
    script.assign()
    script.join()
    script.start(0, epoch=1)


@pytest.mark.parametrize("case", cases.params)
def test_verdict(case: Case) -> None:
    """A guarantee names the first thing that breaks it, and holds where nothing does."""
    case.check()
