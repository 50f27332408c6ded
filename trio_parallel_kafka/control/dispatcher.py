"""From a fetched batch into lanes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Final, assert_never

import attrs
from confluent_kafka import KafkaError as ClientError, Message

from trio_parallel_kafka.config import ConsumerConfig, Ordering
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.assignments import Assignment, Phase, TopicPartition
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.core.tracker import OffsetWentBackError
from trio_parallel_kafka.record import Record, wrap_all

_Deliver = Callable[[Assignment[Record], Sequence[bytes | None], Sequence[int], Sequence[Record]], int]
"""Takes an assignment's records with their raw keys and offsets, and says how many are to be handled."""

WHOLE_PARTITION: Final = 0
"""The one lane key in partition order."""

_OF_A_POSITION: Final = frozenset({ClientError._PARTITION_EOF, ClientError._AUTO_OFFSET_RESET})  # noqa: SLF001 - their names
"""What the client says of the offset that it reads from."""


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
        self._deliver: Final[_Deliver] = _delivery(config, member)

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
        for run in _runs(messages):
            first = run[0]
            assignment = readable.get((first.topic(), first.partition()))  # type: ignore[arg-type]  # None finds none
            error = first.error()
            if error is not None:
                not_records += 1
                self._dispatch_error(first, error, assignment, result)
            elif assignment is not None:
                result.touched.add(assignment)
                try:
                    records, keys, offsets = wrap_all(run, assignment.assignment_epoch, now)
                    new = self._deliver(assignment, keys, offsets, records)
                except OffsetWentBackError:
                    result.went_back[assignment] = first.offset()  # type: ignore[assignment]  # a record's
                    del readable[assignment.partition]
                else:
                    self._totals.not_replayed += len(run) - new
        self._totals.received += len(messages) - not_records
        return result

    @staticmethod
    def _dispatch_error(
        message: Message, error: ClientError, assignment: Assignment[Record] | None, result: Dispatched
    ) -> None:
        if assignment is None and error.code() in _OF_A_POSITION:
            return  # of an assignment that is over: it is read from elsewhere now
        if error.code() == ClientError._PARTITION_EOF:  # noqa: SLF001 - the client's name for it
            assignment.tracker.skip_to(message.offset())  # type: ignore[arg-type, union-attr]  # the end has an offset
        else:
            result.errors.append(message)


def _runs(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Cut a batch into runs: records of one partition whose offsets rise, or a single error."""
    start = next_offset = 0
    topic: str | None = None
    partition: int | None = None
    for place, message in enumerate(messages):
        offset = message.offset()
        is_error = message.error() is not None
        if is_error or message.partition() != partition or offset < next_offset or message.topic() != topic:  # type: ignore[operator]  # what has a partition has an offset
            if place > start:
                yield messages[start:place]
            start = place
            topic, partition = message.topic(), None if is_error else message.partition()
        if not is_error:
            next_offset = offset + 1  # type: ignore[operator]
    if messages:
        yield messages[start:]


def _delivery(config: ConsumerConfig, member: Member[Record]) -> _Deliver:
    """How records are put into lanes."""
    if config.ordering is Ordering.KEY and config.key_of is not None:
        return _ByKeyOf(config.key_of, member)

    match config.ordering:
        case Ordering.KEY:
            return member.deliver_all
        case Ordering.UNORDERED:
            return lambda assignment, _, offsets, records: member.deliver_loose(assignment, offsets, records)
        case Ordering.PARTITION:
            return lambda assignment, _, offsets, records: member.deliver_all(
                assignment, [WHOLE_PARTITION] * len(records), offsets, records
            )
        case unknown:
            assert_never(unknown)


class _ByKeyOf:
    """Puts records into the lanes of what the user's function makes of them, one after another, for it may raise."""

    def __init__(self, key_of: Callable[[Record], Hashable | None], member: Member[Record]) -> None:
        self._key_of: Final = key_of
        self._member: Final = member

    def __call__(
        self,
        assignment: Assignment[Record],
        _keys: Sequence[bytes | None],
        _offsets: Sequence[int],
        records: Sequence[Record],
    ) -> int:
        return sum([self._deliver(assignment, record) for record in records])

    def _deliver(self, assignment: Assignment[Record], record: Record) -> bool:
        try:
            key = self._key_of(record)
            if inspect.iscoroutine(key):
                # Of a lambda around an async function: each is a key of its own, so nothing would have an order.
                key.close()
                raise TypeError("key_of returned a coroutine; give a plain function")  # noqa: TRY301 - as what it raises
            assignment.lanes.by_key.get(key)  # hashes and compares it, as the lanes will
        except Exception as error:  # noqa: BLE001 - the user's function: a failure of this record
            return self._member.deliver_failed(assignment, record, error)
        return self._member.deliver(assignment, key, record)
