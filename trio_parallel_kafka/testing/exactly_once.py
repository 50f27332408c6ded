"""The guarantee about what is sent."""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from trio_parallel_kafka.testing.events import GivenUp, Output, Place, Produced, Started
from trio_parallel_kafka.testing.explanations import Finding, Lane
from trio_parallel_kafka.testing.guarantee import Facts, Guarantee, KeyOf
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.timeline import Tenure

OutputsOf: TypeAlias = Callable[[Produced], int | Sequence[bytes | None]]
"""Says what is to be sent of a record: how many, or which values, in their order."""


class ExactlyOnceOutput(Guarantee):
    """What is to be sent of each record is seen exactly once, and in the order of its key.

    >>> history = History()
    >>> history.produced("orders", 0, 0, b"customer-7")
    >>> history.output("invoices", b"customer-7", b"12.50", origin=("orders", 0, 0))
    >>> ExactlyOnceOutput(history).is_held
    True

    Order is that among outputs with the same topic and key, made of records with the same topic, partition and key; but
    of a batch in which a record has failed, those of the others come first. Of a record that was given up, outputs may
    be missing.

    Args:
        history: what happened. Its outputs have to be those of a reader that sees only what is committed.
        outputs_of: what is to be sent of a record: how many, or the values. Default: one. An output that doesn't name
            its origin is known by its value alone.
        key_of: as for :class:`KeyOrder`.
        is_finished: whether all outputs were to be seen by its end. ``False``: only what was seen is looked at.
    """

    def __init__(
        self,
        history: History,
        *,
        outputs_of: OutputsOf | None = None,
        key_of: KeyOf | None = None,
        is_finished: bool = True,
    ) -> None:
        super().__init__(history, key_of=key_of)
        self._outputs_of: Final = outputs_of or _one
        self._is_finished: Final = is_finished

    def _findings(self, facts: Facts) -> Iterator[Finding]:
        produced = [event for event in facts.events if isinstance(event, Produced)]
        due = {event.place: _Due(self._outputs_of(event)) for event in produced}
        reader = _Reader(due, facts)
        for index, event in enumerate(facts.events):
            if isinstance(event, Output):
                yield from reader.saw(index, event)
        if self._is_finished:
            given_up = {event.place for event in facts.events if isinstance(event, GivenUp)}
            for event in produced:
                if due[event.place].count and event.place not in given_up:
                    yield Finding(f"{due[event.place].count} outputs of {event.place} were never seen", event.place)


class _Reader:
    """Takes outputs one after another.

    Args:
        due: what is to be seen of each record.
        facts: what happened.
    """

    def __init__(self, due: Mapping[Place, _Due], facts: Facts) -> None:
        self._due: Final = due
        self._facts: Final = facts
        self._origins: Final[defaultdict[bytes | None, deque[Place]]] = defaultdict(deque)
        for place, outputs in due.items():
            for value in outputs.values or ():
                self._origins[value].append(place)
        self._last: Final[dict[tuple[Lane, str, bytes], tuple[Place, int]]] = {}

    def saw(self, index: int, event: Output) -> Iterator[Finding]:
        """An output was seen; yield what is wrong with that."""
        origin = event.origin or self._origin_of(event.value)
        if origin is not None and origin in self._due:
            yield from self._saw_one_of(origin, index, event)
        else:
            text = f"an output to {event.topic} was seen that isn't of a record that is known to be produced"
            yield Finding(text, origin or Place(event.topic, -1, -1), index)

    def _saw_one_of(self, origin: Place, index: int, event: Output) -> Iterator[Finding]:
        due = self._due[origin]
        number = due.take(event.value)
        if number is None:
            text = "isn't due, or no more" if due.seen else "isn't due"
            yield Finding(f"an output of {origin} was seen that {text}", origin, index, due.seen[-1:])
        elif event.key is not None:
            stream = self._facts.lanes[origin], event.topic, event.key
            last = self._last.get(stream, (origin, number))
            if last > (origin, number) and self._calls[last[0]].isdisjoint(self._calls[origin]):
                yield Finding(f"an output of {origin} was seen after one of {last[0]}", origin, index)
            self._last[stream] = max(last, (origin, number))
        due.seen.append(index)

    @functools.cached_property
    def _calls(self) -> Mapping[Place, set[tuple[Tenure, int]]]:
        """The calls of the handler that a record was in."""
        calls: defaultdict[Place, set[tuple[Tenure, int]]] = defaultdict(set)
        for moment in self._facts.moments:
            if isinstance(moment.event, Started):
                calls[moment.event.place].add((moment.attempts[0].tenure, moment.event.call))
        return calls

    def _origin_of(self, value: bytes | None) -> Place | None:
        """The first record that an output of this value can be of; if all were seen, the last one."""
        places = self._origins[value]
        while len(places) > 1 and not self._due[places[0]].is_due(value):
            places.popleft()
        return places[0] if places else None


class _Due:
    """What is to be seen of one record.

    Attributes:
        values: its values, or ``None`` if only their number is known.
        count: how many are still to be seen.
        seen: indexes of the events by which they were seen so far.
    """

    __slots__ = ("_by_value", "count", "seen", "values")

    def __init__(self, outputs: int | Sequence[bytes | None]) -> None:
        self.values: Sequence[bytes | None] | None = None if isinstance(outputs, int) else outputs
        self.count: int = outputs if isinstance(outputs, int) else len(outputs)
        self.seen: list[int] = []
        self._by_value: defaultdict[bytes | None, deque[int]] = defaultdict(deque)
        for number, value in enumerate(self.values or ()):
            self._by_value[value].append(number)

    def is_due(self, value: bytes | None) -> bool:
        """Whether one with this value is still to be seen."""
        return bool(self.count) if self.values is None else bool(self._by_value.get(value))

    def take(self, value: bytes | None) -> int | None:
        """One is seen; return which of the record's outputs it is, or ``None`` if it isn't due."""
        if not self.is_due(value):
            return None
        self.count -= 1
        return len(self.seen) if self.values is None else self._by_value[value].popleft()


def _one(_record: Produced) -> int:
    return 1
