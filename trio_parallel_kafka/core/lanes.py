"""One ordered stream of records per key, and which of them is served next.

Rules
-----

- A lane exists while its key has a record: running, ready or waiting. It is in exactly one place: in its
  group's ready queue, in a worker's hands, parked until a moment, or sealed.
- Records of a lane are handed out in the order offered, the next only after the previous was finished.
- Groups (partitions) with ready lanes are served in turn, and the ready lanes of a group in turn, so neither
  a hot key nor a full partition starves another.
- A key of ``None`` has no order: each such record is a lane of its own that no later record can find.
- Where no record has an order, they are loose: a lane is made when one is taken, and may go on with the next. Loose
  ones and ready lanes of a group are served by turns.
- A parked lane is an entry in its group's heap, and nothing else. A heap is bounded as the records buffered are: it
  never has more than two entries for each record that is stuck, though a lane that becomes ready early leaves its
  entry there.
- While anything holds the scheduler, or a group, nothing of it is handed out; what is in hands goes on.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from trio_parallel_kafka.core.lane import Lane, LaneGroup

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Lingering(Protocol[T_contra]):
    """For how long a lane waits to be filled."""

    @property
    def size(self) -> int:
        """How many records fill it."""

    def until(self, head: T_contra, /) -> float | None:
        """When it becomes ready all the same; ``None``: at once."""


class LaneScheduler(Generic[T]):
    """Hands out lanes, groups in turn."""

    def __init__(self) -> None:
        self._turn: deque[LaneGroup[T]] = deque()
        self._with_parked: dict[LaneGroup[T], None] = {}
        self._order: Final = itertools.count()
        self.lingering: Lingering[T] | None = None
        """How new lanes wait to fill, if they do."""
        self.on_parked: Callable[[float], None] = lambda _until: None
        """Told until when a lane is parked."""
        self.holds: Final[set[str]] = set()
        """Why nothing is handed out."""
        self.is_held: bool = False
        self.may_be_loose: bool = False
        """Records without order needn't be in lanes, for nobody looks at a ready lane before it is taken."""

    def __bool__(self) -> bool:
        """Whether a lane is ready, and may be handed out."""
        return bool(self._turn) and not self.is_held

    @property
    def ready(self) -> int:
        """How many lanes and loose records may be handed out."""
        return 0 if self.is_held else sum([len(group.ready) + len(group.loose) for group in self._turn])

    def offer(self, group: LaneGroup[T], key: Hashable | None, item: T) -> Lane[T]:
        """Put an item behind all others of its key; return its lane.

        Raises:
            TypeError: the key can't be hashed; nothing changed.
        """
        lane = group.by_key.get(key)
        if lane is not None:
            self._append(lane, item)
            return lane
        lane = Lane(group, key, item)
        if key is not None:
            group.by_key[key] = lane
        if self.lingering is None:
            self._make_ready(lane)
        else:
            self._linger_or_make_ready(lane, self.lingering)
        return lane

    def offer_all(self, group: LaneGroup[T], keys: Iterable[Hashable | None], items: Iterable[T]) -> None:
        """Offer one item after another, each under its key.

        Raises:
            TypeError: a key can't be hashed; its item and those after it weren't offered.
        """
        if self.lingering is not None:
            for key, item in zip(keys, items, strict=True):
                self.offer(group, key, item)
            return
        # What offer() does, for lanes that don't linger: a call for each record would cost as much again.
        by_key, ready = group.by_key, group.ready
        was_ready = group.is_ready
        try:
            for key, item in zip(keys, items, strict=True):
                lane = by_key.get(key)
                if lane is None:
                    lane = Lane(group, key, item)
                    if key is not None:
                        by_key[key] = lane
                    ready.append(lane)
                elif lane.detour is None and lane.behind is not None:
                    lane.behind.append(item)
                else:
                    self._append(lane, item)
        finally:
            if ready and not was_ready and not group.is_held:
                self._turn.append(group)

    def offer_loose(self, group: LaneGroup[T], items: Sequence[T]) -> None:
        """Offer items of which none has an order."""
        if not self.may_be_loose:
            self.offer_all(group, [None] * len(items), items)
        elif items:
            if not group.is_ready and not group.is_held:
                self._turn.append(group)
            group.loose.extend(items)

    @property
    def groups(self) -> Sequence[LaneGroup[T]]:
        """The groups with lanes that may be handed out, in their turn; none if the scheduler is held."""
        return () if self.is_held else tuple(self._turn)

    def take(self) -> Lane[T] | None:
        """The next ready lane, now in the caller's hands; ``None`` when nothing may be handed out."""
        turn = self._turn
        if not turn or self.is_held:
            return None
        group = turn[0]
        lane = self._take_by_turns(group) if group.loose else group.ready.popleft()
        if not group.ready and not group.loose:
            turn.popleft()
        elif len(turn) > 1:
            turn.rotate(-1)
        return lane

    def _take_by_turns(self, group: LaneGroup[T]) -> Lane[T]:
        group.loose_is_next = not (group.loose_is_next or not group.ready)
        return group.ready.popleft() if group.loose_is_next else Lane(group, None, group.loose.popleft())

    def take_from(self, group: LaneGroup[T]) -> Lane[T] | None:
        """The next ready lane of one of :attr:`groups`, whose turn is over when it has no more."""
        if not group.ready:
            return None
        lane = group.ready.popleft()
        if not group.is_ready:
            self._turn.remove(group)
        return lane

    def end_turn(self, group: LaneGroup[T]) -> None:
        """Have all other groups go first."""
        if group.is_ready:
            self._turn.remove(group)
            self._turn.append(group)

    def take_despite(self, reason: str) -> Lane[T] | None:
        """The next ready lane, if nothing but this reason holds the scheduler."""
        if self.holds - {reason}:
            return None
        was_held, self.is_held = self.is_held, False
        lane = self.take()
        self.is_held = was_held
        return lane

    def advance(self, lane: Lane[T]) -> bool:
        """The head is finished. ``True``: ``lane.head`` is the next; ``False``: the lane is gone."""
        if lane.behind:
            lane.head = lane.behind.popleft()
            return True
        if lane.key is not None and not lane.group.is_closed:
            del lane.group.by_key[lane.key]
        return False

    def go_on(self, lane: Lane[T]) -> bool:
        """A lane without a key is gone. ``True``: the next loose record of its group is in it now."""
        group = lane.group
        if not group.loose or group.is_held or lane.detour is not None:
            return False
        lane.head = group.loose.popleft()
        if not group.is_ready:
            self._turn.remove(group)
        return True

    def put_back(self, lane: Lane[T]) -> None:
        """The caller stops before the head was started; others of the group go first."""
        if lane.detour is not None:
            lane.detour.taken = 1
        if lane.group.is_closed:
            return
        if self.lingering is None:
            self._make_ready(lane)
        else:
            self._linger_or_make_ready(lane, self.lingering)

    # Several records of a lane at once

    def gather(self, lane: Lane[T], count: int) -> Sequence[T]:
        """Take up to ``count`` records of a lane that is in the caller's hands, from its head on."""
        lane.on_detour().taken = min(count, lane.waiting + 1)
        return lane.in_hands

    def keep(self, lane: Lane[T], remaining: Sequence[T]) -> bool:
        """Of what was gathered, ``remaining`` isn't finished. ``True``: the lane has a head; ``False``: it is gone."""
        if lane.group.is_closed:
            return False
        detour = lane.on_detour()
        if lane.behind:
            for _ in range(detour.taken - 1):
                lane.behind.popleft()
            lane.behind.extendleft(reversed(remaining[1:]))
        detour.taken = 1
        if remaining:
            lane.head = remaining[0]
            return True
        return self.advance(lane)

    # Lanes that don't run for a while, or any more

    def park(self, lane: Lane[T], until: float) -> None:
        """Put a lane that is in the caller's hands aside until a moment."""
        group, detour = lane.group, lane.on_detour()
        detour.taken = 1
        if not group.is_closed:
            detour.parked_until = until
            heapq.heappush(group.parked, (until, next(self._order), lane))
            self._with_parked[group] = None
            self._stick(lane)
            self.on_parked(until)

    def next_due(self) -> float | None:
        """When the next parked lane becomes ready."""
        return min((group.parked[0][0] for group in self._with_parked), default=None)

    def release_due(self, now: float) -> bool:
        """Make the lanes ready that were parked until now at the latest; say whether there were any."""
        has_released = False
        for group in tuple(self._with_parked):
            while group.parked and group.parked[0][0] <= now:
                until, _, lane = heapq.heappop(group.parked)
                if lane.parked_until == until:  # or it was filled before
                    self._unpark(lane)
                    has_released = True
            self._sweep(group)
        return has_released

    def stop_lingering(self) -> None:
        """Have no lane wait to be filled any more."""
        self.lingering = None
        for group in tuple(self._with_parked):
            for _, _, lane in group.parked:
                if lane.lingers:
                    self._unpark(lane)
            self._sweep(group)

    def seal(self, lane: Lane[T]) -> None:
        """Nothing of this lane is to be started any more; what is offered to it only waits."""
        if not lane.group.is_closed:
            lane.group.sealed.append(lane)
            self._stick(lane)

    # What holds the scheduler, or a group

    def hold(self, reason: str) -> None:
        """Hand nothing out until every reason is gone."""
        self.holds.add(reason)
        self.is_held = True

    def release(self, reason: str) -> None:
        """This reason is gone."""
        self.holds.discard(reason)
        self.is_held = bool(self.holds)

    def hold_group(self, group: LaneGroup[T]) -> None:
        """Hand nothing of this group out."""
        if not group.is_held and group.is_ready:
            self._turn.remove(group)
        group.is_held = True

    def release_group(self, group: LaneGroup[T]) -> None:
        """Hand out of this group again."""
        if group.is_held and group.is_ready:
            self._turn.append(group)
        group.is_held = False

    def close(self, group: LaneGroup[T]) -> None:
        """Drop a group: nothing of it is handed out any more."""
        group.is_closed = True
        if group.is_ready and not group.is_held:
            self._turn.remove(group)
        for lane in group.by_key.values():
            lane.behind = deque(lane.in_hands[1:]) or None
        self._with_parked.pop(group, None)
        group.by_key.clear()
        group.ready.clear()
        group.loose.clear()
        group.parked.clear()
        group.sealed.clear()
        group.stuck = 0

    def _append(self, lane: Lane[T], item: T) -> None:
        if lane.behind is None:
            lane.behind = deque((item,))
        else:
            lane.behind.append(item)
        if lane.detour is not None and lane.detour.is_stuck:
            lane.group.stuck += 1
            if lane.lingers and lane.waiting + 1 >= self.lingering.size:  # type: ignore[union-attr]  # or none lingered
                self._unpark(lane)
                self._sweep(lane.group)

    def _make_ready(self, lane: Lane[T]) -> None:
        group = lane.group
        if not group.is_ready and not group.is_held:
            self._turn.append(group)
        group.ready.append(lane)

    def _linger_or_make_ready(self, lane: Lane[T], lingering: Lingering[T]) -> None:
        # A lane without a key is never filled.
        until = None if lane.key is None else lingering.until(lane.head)
        if until is None or lane.waiting + 1 >= lingering.size:
            self._make_ready(lane)
        else:
            self.park(lane, until)
            lane.on_detour().lingers = True

    def _unpark(self, lane: Lane[T]) -> None:
        detour = lane.on_detour()
        detour.parked_until = None
        detour.lingers = False
        detour.is_stuck = False
        lane.group.stuck -= lane.waiting + 1
        self._make_ready(lane)

    def _sweep(self, group: LaneGroup[T]) -> None:
        """Forget the entries of lanes that became ready before they were due, once they are most of the heap."""
        if len(group.parked) > 2 * group.stuck:
            left = (entry for entry in group.parked if entry[2].parked_until == entry[0])
            group.parked = list({entry[2]: entry for entry in left}.values())
            heapq.heapify(group.parked)
        if not group.parked:
            del self._with_parked[group]

    def _stick(self, lane: Lane[T]) -> None:
        lane.on_detour().is_stuck = True
        lane.group.stuck += lane.waiting + 1
