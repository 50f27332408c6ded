"""How it is said that a guarantee was broken: in words, and by the events that matter."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from trio_parallel_kafka.testing.events import (
    AttemptEvent,
    Died,
    Event,
    GivenUp,
    GroupEvent,
    Joined,
    Output,
    Place,
    Produced,
)

Lane: TypeAlias = Hashable
"""Stands for all records of a topic, partition and key."""

SHOWN_BEFORE: Final = 15
"""Events that an explanation shows before the one that broke the guarantee."""

SHOWN_AFTER: Final = 5
"""Events that it shows after it."""

LONGEST_VALUE: Final = 40
"""Bytes of an output's value that it shows."""


@attrs.frozen
class Finding:
    """How a guarantee was broken.

    Attributes:
        text: says it.
        place: the record that it is about.
        index: of the event that broke it; ``None``: something never happened.
        also: of events that have to be shown.
    """

    text: str
    place: Place
    index: int | None = None
    also: Collection[int] = ()


def explanation(finding: Finding, events: Sequence[Event], lanes: Mapping[Place, Lane]) -> str:
    """Say what was found, and show the events of the record's lane around it, one a line."""
    shown = [
        index
        for index, event in enumerate(events)
        if index == finding.index or index in finding.also or _concerns(event, finding.place, lanes)
    ]
    members = {event.member for index in shown if isinstance(event := events[index], AttemptEvent | GroupEvent)}
    shown += [
        index for index, event in enumerate(events) if isinstance(event, Joined | Died) and event.member in members
    ]
    shown.sort()
    turn = len(shown) if finding.index is None else shown.index(finding.index)
    around = set(shown[max(turn - SHOWN_BEFORE, 0) : turn + SHOWN_AFTER + 1])
    kept = [index for index in shown if index in around or index in finding.also]
    left_out = f" ({len(shown) - len(kept)} more events are left out)" if len(kept) < len(shown) else ""
    lines = _table([(index, events[index]) for index in kept], finding.index)
    return "\n".join(
        [f"{finding.text}\n", f"What happened to {finding.place} and the records of its lane{left_out}:", *lines]
    )


def _concerns(event: Event, place: Place, lanes: Mapping[Place, Lane]) -> bool:
    match event:
        case Produced() | AttemptEvent() | GivenUp():
            return lanes.get(event.place, event.place) == lanes.get(place, place)
        case Output(origin=Place() as origin):
            return lanes.get(origin, origin) == lanes.get(place, place)
        case GroupEvent():
            return place[:2] in event.partitions
    return False


def _table(numbered: Sequence[tuple[int, Event]], broken_by: int | None) -> Iterator[str]:
    rows = [(f"#{index}", f"{event.at:.3f} s", type(event).__name__, *_said_of(event)) for index, event in numbered]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for (index, _), row in zip(numbered, rows, strict=True):
        number, at, *words = row
        cells = [
            number.rjust(widths[0]),
            at.rjust(widths[1]),
            *(word.ljust(width) for word, width in zip(words, widths[2:], strict=True) if width),
        ]
        yield f"{'>' if index == broken_by else ' '} {'  '.join(cells)}".rstrip()


def _said_of(event: Event) -> tuple[str, str]:
    """The member concerned, if there is one, and the rest."""
    names = [field.name for field in attrs.fields(type(event)) if field.name not in {"at", "member"}]
    words = [_word(name, getattr(event, name)) for name in names]
    return getattr(event, "member", ""), "  ".join(word for word in words if word)


def _word(name: str, value: Any) -> str:
    match name:
        case "topic" | "place" | "partition":
            return str(value)
        case "partitions":
            return ", ".join(map(str, value))
        case "origin" | "metadata" if not value:
            return ""
        case "origin" | "error":
            return f"{name}={value}"
        case "value" if len(value or b"") > LONGEST_VALUE:
            return f"value={value[:LONGEST_VALUE]!r}... ({len(value)} bytes)"
    return f"{name}={value!r}"
