"""What is sent is seen exactly once, and in order: each violation is found, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from testing.cases import Case, Cases
from testing.script import Script

from trio_parallel_kafka.testing.events import Produced
from trio_parallel_kafka.testing.exactly_once import ExactlyOnceOutput

cases = Cases()


def _two_values(record: Produced) -> Sequence[bytes]:
    return [b"%d-first" % record.place.offset, b"%d-second" % record.place.offset]


@cases.held(ExactlyOnceOutput)
def _one_each(script: Script) -> None:
    script.produced(0, 1, 2)
    script.produced(3, key=b"b")
    script.produced(4, key=None)
    script.output(b"", 3, key=b"b")
    script.output(b"", 4)
    script.output(b"", 0)
    script.give_up(1)
    script.output(b"", 2)


@cases.broken(ExactlyOnceOutput, "1 outputs of orders[0]@1 were never seen")
def _missing(script: Script) -> None:
    script.produced(0, 1)
    script.output(b"", 0)


@cases.held(ExactlyOnceOutput, is_finished=False)
def _missing_so_far(script: Script) -> None:
    script.produced(0, 1)
    script.output(b"", 0)


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@0 was seen that isn't due, or no more")
def _twice(script: Script) -> None:
    script.produced(0)
    script.output(b"", 0)
    script.output(b"", 0)


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@0 was seen that isn't due", outputs_of=lambda _record: 0)
def _none_is_due(script: Script) -> None:
    script.produced(0)
    script.output(b"", 0)


@cases.broken(ExactlyOnceOutput, "an output to invoices was seen that isn't of a record that is known to be produced")
def _of_an_unknown_record(script: Script) -> None:
    script.produced(0)
    script.output(b"", 7)


@cases.broken(ExactlyOnceOutput, "an output to invoices was seen that isn't of a record that is known to be produced")
def _of_no_record(script: Script) -> None:
    script.produced(0)
    script.output(b"")


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@0 was seen after one of orders[0]@1")
def _out_of_order(script: Script) -> None:
    script.produced(0, 1)
    script.output(b"", 1)
    script.output(b"", 0)


@cases.held(ExactlyOnceOutput)
def _to_places_without_order(script: Script) -> None:
    script.produced(0, 1, 2, 3, 4)
    script.output(b"", 4, key=None)
    script.output(b"", 3, key=None)
    script.output(b"", 2, topic="other")
    script.output(b"", 1, key=b"other")
    script.output(b"", 0)


@cases.held(ExactlyOnceOutput)
def _what_failed_in_a_batch_comes_later(script: Script) -> None:
    script.produced(0, 1)
    zero, one = script.batch(0, 1)
    script.complete(one)
    script.fail(zero)
    script.output(b"", 1)
    script.handle(0)
    script.output(b"", 0)


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@1 was seen after one of orders[0]@2")
def _out_of_order_beside_a_batch(script: Script) -> None:
    script.produced(0, 1, 2)
    script.complete(*script.batch(0, 2))
    script.output(b"", 2)
    script.output(b"", 0)
    script.output(b"", 1)


@cases.held(ExactlyOnceOutput, outputs_of=lambda _record: [b"x", b"x"])
def _equal_values_of_one(script: Script) -> None:
    script.produced(0)
    script.output(b"x")
    script.output(b"x")


@cases.held(ExactlyOnceOutput, outputs_of=_two_values)
def _known_by_their_values(script: Script) -> None:
    script.produced(0, 1)
    for value in (b"0-first", b"0-second", b"1-first"):
        script.output(value)
    script.output(b"1-second", 1)


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@0 was seen after one of orders[0]@0", outputs_of=_two_values)
def _values_out_of_order(script: Script) -> None:
    script.produced(0)
    script.output(b"0-second")
    script.output(b"0-first")


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@0 was seen that isn't due", outputs_of=_two_values)
def _value_of_another(script: Script) -> None:
    script.produced(0, 1)
    script.output(b"1-first", 0)


@cases.broken(
    ExactlyOnceOutput, "an output of orders[0]@1 was seen that isn't due, or no more", outputs_of=lambda _record: [b"x"]
)
def _one_more_of_equal_values(script: Script) -> None:
    script.produced(0, 1)
    script.output(b"x")
    script.output(b"x")
    script.output(b"x")


@cases.broken(ExactlyOnceOutput, "an output of orders[0]@0 was seen after one", key_of=lambda _event: "")
def _order_of_outputs_of_a_partition(script: Script) -> None:
    script.produced(0, key=None)
    script.produced(1, key=b"b")
    script.output(b"", 1)
    script.output(b"", 0)


@pytest.mark.parametrize("case", cases.params)
def test_verdict(case: Case) -> None:
    """A guarantee names the first thing that breaks it, and holds where nothing does."""
    case.check()
