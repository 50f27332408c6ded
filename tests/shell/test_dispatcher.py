"""Batches that aren't just records; what becomes of those is tested with the whole consumer."""

from __future__ import annotations

from confluent_kafka import KafkaError as ClientError, Message
from shell.kit import P0, error

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


def test_what_is_said_of_a_position_that_nobody_reads_from_any_more() -> None:
    """A partition that is read from elsewhere now isn't started once more because of where it was read before."""
    config = ConsumerConfig(bootstrap_servers="kafka:9092", group_id="billing", topics=["orders"])
    member: Member[Record] = Member(FlowLimits(100, 10_000))
    assignment = member.assign(P0)
    member.start(assignment, 0)
    dispatcher = Dispatcher(member, config, ControlTotals())
    gone = Message(*P0, 7, error=error(ClientError._AUTO_OFFSET_RESET))
    broken = Message(*P0, 7, error=error(ClientError._ALL_BROKERS_DOWN))
    epoch = assignment.assignment_epoch
    assert dispatcher.dispatch([gone, broken], {P0: epoch - 1}, 0.0).errors == [broken]
    assert dispatcher.dispatch([gone, broken], {P0: epoch}, 0.0).errors == [gone, broken]
