"""What every guarantee is, whatever it guarantees."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from trio_parallel_kafka.testing.events import Event, Place, Produced, Started
from trio_parallel_kafka.testing.explanations import Finding, Lane, explanation
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.timeline import Moment

KeyOf: TypeAlias = Callable[[Produced | Started], Hashable | None]
"""Says what orders a record: something hashable, or ``None`` for no order."""


class GuaranteeViolationError(AssertionError):
    """A guarantee was broken; the text says how, and shows the history of what is concerned.

    Attributes:
        guarantee: the name of its class.
        event: the event that broke it, or ``None`` where what broke it is that something never happened.
    """

    def __init__(self, message: str, *, guarantee: str, event: Event | None) -> None:
        super().__init__(message)
        self.guarantee: str = guarantee
        self.event: Event | None = event


class Facts:
    """What a guarantee is held against.

    Args:
        history: what happened.
        key_of: what orders a record.

    Attributes:
        events: what happened.
        moments: those of the events that count, put together.
    """

    def __init__(self, history: History, key_of: KeyOf) -> None:
        self.events: Final[Sequence[Event]] = history.timeline.events
        self.moments: Final[Sequence[Moment]] = history.timeline.moments
        self._key_of: Final = key_of

    @functools.cached_property
    def lanes(self) -> Mapping[Place, Lane]:
        """Of each record that is known, its lane; one that has no order has a lane of its own."""
        lanes: dict[Place, Lane] = {}
        for event in self.events:
            if isinstance(event, Produced | Started) and event.place not in lanes:
                key = self._key_of(event)
                topic, partition, offset = event.place
                lanes[event.place] = (topic, partition, offset, None) if key is None else (topic, partition, key)
        return lanes


class Guarantee(abc.ABC):
    """Something that holds in every run, held against a history.

    Args:
        history: what happened.
        key_of: what orders a record, from its :class:`.Produced` or :class:`.Started` event; ``None`` for no order.
            Default: its key. With ``ordering="partition"`` give ``lambda event: ""``, with ``"unordered"``
            ``lambda event: None``, and with ``key_of`` in the configuration, what that makes of the record.
    """

    def __init__(self, history: History, *, key_of: KeyOf | None = None) -> None:
        self._history: Final = history
        self._key_of: Final = key_of or _key

    @property
    def is_held(self) -> bool:
        """Whether nothing in the history breaks it."""
        return self.violation() is None

    def check(self) -> None:
        """See to it that it holds.

        Raises:
            GuaranteeViolationError: it doesn't; the first violation is explained.
        """
        violation = self.violation()
        if violation is not None:
            raise violation

    def violation(self) -> GuaranteeViolationError | None:
        """The first violation, or ``None`` if there is none."""
        facts = Facts(self._history, self._key_of)
        finding = next(self._findings(facts), None)
        if finding is None:
            return None
        name = type(self).__name__
        event = None if finding.index is None else facts.events[finding.index]
        message = f"{name} doesn't hold: {explanation(finding, facts.events, facts.lanes)}"
        return GuaranteeViolationError(message, guarantee=name, event=event)

    @abc.abstractmethod
    def _findings(self, facts: Facts) -> Iterator[Finding]:
        """Go through what happened; what is yielded first counts, nothing after it is looked at."""


def _key(event: Produced | Started) -> bytes | None:
    return event.key
