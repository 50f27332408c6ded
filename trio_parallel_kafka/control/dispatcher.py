"""From a fetched batch into lanes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final

import attrs
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.config import ConsumerConfig, Ordering
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.assignments import Assignment, Phase, TopicPartition
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.core.tracker import OffsetWentBackError
from trio_parallel_kafka.record import Record, wrap

WHOLE_PARTITION: Final = 0
"""The one lane key in partition order."""


@attrs.define
class Dispatched:
    """What a batch came to, beside records in lanes.

    Attributes:
        touched: assignments that got records.
        errors: messages that are errors of the client.
        went_back: assignments whose offsets start again, and at which offset.
    """

    touched: set[Assignment[Record]] = attrs.field(factory=set)
    errors: list[Message] = attrs.field(factory=list)
    went_back: dict[Assignment[Record], int] = attrs.field(factory=dict)


class Dispatcher:
    """Puts records into the lanes of their keys.

    Args:
        member: the core.
        config: the ordering, and what orders a record.
        totals: counted here.
    """

    def __init__(self, member: Member[Record], config: ConsumerConfig, totals: ControlTotals) -> None:
        self._member: Final = member
        self._totals: Final = totals
        self._lane_key: Final = _lane_key(config)

    def dispatch(
        self, messages: Sequence[Message], assignment_epochs: Mapping[TopicPartition, int | None], now: float
    ) -> Dispatched:
        """Take a batch, in its order: what was fetched in the current assignments of what is being read."""
        result = Dispatched()
        readable: dict[tuple[str, int], Assignment[Record]] = {
            each.partition: each
            for each in self._member.assignments
            if each.phase is Phase.ACTIVE and assignment_epochs.get(each.partition) == each.assignment_epoch
        }
        not_records = 0
        for message in messages:
            assignment = readable.get((message.topic(), message.partition()))  # type: ignore[arg-type]  # None finds none
            error = message.error()
            if error is not None:
                not_records += 1
                self._dispatch_error(message, error, assignment, result)
            elif assignment is not None:
                result.touched.add(assignment)
                try:
                    self._deliver(assignment, wrap(message, assignment.assignment_epoch, now))
                except OffsetWentBackError:
                    result.went_back[assignment] = message.offset()  # type: ignore[assignment]  # a record's
                    del readable[assignment.partition]
        self._totals.received += len(messages) - not_records
        return result

    def _deliver(self, assignment: Assignment[Record], record: Record) -> None:
        try:
            key = self._lane_key(record)
            assignment.lanes.by_key.get(key)  # hashes and compares it, as the lanes will
        except Exception as error:  # noqa: BLE001 - the user's function: a failure of this record
            is_new = self._member.deliver_failed(assignment, record, error)
        else:
            is_new = self._member.deliver(assignment, key, record)
        if not is_new:
            self._totals.not_replayed += 1

    @staticmethod
    def _dispatch_error(
        message: Message, error: ClientError, assignment: Assignment[Record] | None, result: Dispatched
    ) -> None:
        if error.code() != ClientError._PARTITION_EOF:  # noqa: SLF001 - the client's name for it
            result.errors.append(message)
        elif assignment is not None:
            assignment.tracker.skip_to(message.offset())  # type: ignore[arg-type]  # the end has an offset


def _lane_key(config: ConsumerConfig) -> Callable[[Record], Hashable | None]:
    match config.ordering:
        case Ordering.UNORDERED:
            return lambda _record: None
        case Ordering.PARTITION:
            return lambda _record: WHOLE_PARTITION
    return _key if config.key_of is None else _plain(config.key_of)


def _key(record: Record) -> bytes | None:
    return record.key


def _plain(key_of: Callable[[Record], Hashable | None]) -> Callable[[Record], Hashable | None]:
    """Refuse the coroutines of a lambda around an async function: each is a key of its own, so nothing had an order."""

    def key(record: Record) -> Hashable | None:
        found = key_of(record)
        if inspect.iscoroutine(found):
            found.close()
            message = "key_of returned a coroutine; give a plain function"
            raise TypeError(message)
        return found

    return key
