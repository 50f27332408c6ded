"""Batches that aren't just records; what becomes of those is tested with the whole consumer."""

from __future__ import annotations

from trio_parallel_kafka import ConsumerConfig
from trio_parallel_kafka.control.dispatcher import Dispatched, Dispatcher
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.record import Record


def test_a_batch_of_nothing() -> None:
    """It comes to nothing: what a callback dropped may have been all there was."""
    config = ConsumerConfig(bootstrap_servers="kafka:9092", group_id="billing", topics=["orders"])
    member: Member[Record] = Member(FlowLimits(100, 10_000))
    totals = ControlTotals()
    assert Dispatcher(member, config, totals).dispatch([], {}, 0.0) == Dispatched()
    assert totals == ControlTotals()
