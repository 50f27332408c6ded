"""A machine that does to a scheduler anything that its callers may do, beside queues that remember everything."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import count, product
from random import Random

import attrs
import pytest
from core.kit import is_dropped, records_of, state_of_group, state_of_scheduler
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trio_parallel_kafka.core.lane import Lane, LaneGroup
from trio_parallel_kafka.core.lanes import LaneScheduler

GROUPS = 3
LINGER = 3
FULL = 3
"""Records that fill a lane that lingers."""

KEYS = ["a", "b", "c", None]
REASONS = ["paused", "circuit open"]
ACTS = {
    "offer": 8,
    "offer_all": 4,
    "offer_loose": 4,
    "take": 6,
    "take_despite": 1,
    "take_several": 2,
    "gather": 3,
    "finish_head": 4,
    "finish_several": 3,
    "put_back": 2,
    "park": 4,
    "seal": 1,
    "wait": 4,
    "stop_lingering": 0.1,
    "hold_or_release": 1,
    "hold_or_release_group": 1,
    "close": 0.3,
    "return_late": 1,
    "offer_what_cannot_be_hashed": 0.1,
}
"""What may happen, and how often."""

names = [name for name, weight in ACTS.items() for _ in range(round(10 * weight))]
acts = [*product(names, range(48))]
Random(1).shuffle(acts)  # the first of a list are drawn more often than the others
plans = st.lists(st.sampled_from(acts), min_size=2, max_size=30)


@attrs.define(eq=False)
class NaiveLane:
    """All items of one key, and where the lane is."""

    key: Hashable | None
    items: list[int]
    place: str = "nowhere"
    ready_since: int = 0
    due_by: int = 0
    until: int = 0
    lingers: bool = False
    taken: int = 1


@attrs.define(eq=False)
class NaiveGroup:
    """Lanes in the order in which they came; the one that waited longest is next."""

    lanes: list[NaiveLane] = attrs.field(factory=list)
    loose: list[int] = attrs.field(factory=list)
    loose_is_next: bool = False
    turn_since: int = 0
    is_held: bool = False

    def at(self, *places: str) -> list[NaiveLane]:
        return [lane for lane in self.lanes if lane.place in places]

    @property
    def ready(self) -> list[NaiveLane]:
        return sorted(self.at("ready"), key=lambda lane: lane.ready_since)

    @property
    def is_ready(self) -> bool:
        return bool(self.ready or self.loose)

    def find(self, key: Hashable | None) -> NaiveLane | None:
        return next((lane for lane in self.lanes if key is not None and lane.key == key), None)


@attrs.define(eq=False)
class Hand:
    """A lane that a worker has."""

    lane: Lane[int]
    naive: NaiveLane
    model: NaiveGroup


class LaneMachine(RuleBasedStateMachine):
    """See the module."""

    size = FULL

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: LaneScheduler[int] = LaneScheduler()
        self.scheduler.may_be_loose = True
        self.clock = count(1)
        self.items = count()
        self.takes = 0
        self.now = 0
        self.groups = [LaneGroup[int](number) for number in range(GROUPS)]
        self.models = [NaiveGroup() for _ in range(GROUPS)]
        self.hands: list[Hand] = []
        self.orphans: list[Lane[int]] = []
        self.received: dict[int, int] = {}
        self.holds: set[str] = set()
        self.told: list[float] = []
        self.scheduler.on_parked = self.told.append
        self.parked: list[float] = []

    @initialize(lingers=st.booleans())
    def begin(self, lingers: bool) -> None:
        """Lanes wait to be filled, or don't."""
        if lingers:
            self.scheduler.lingering = self

    def until(self, head: int) -> int | None:
        due = self.received[head] + LINGER
        return due if due > self.now else None

    # The model

    def make_ready(self, model: NaiveGroup, lanes: Iterable[NaiveLane]) -> None:
        """They wait behind the ready ones of their group, and are served within so many rounds of all groups."""
        for lane in lanes:
            if not model.is_ready:
                model.turn_since = next(self.clock)
            lane.place, lane.lingers, lane.ready_since = "ready", False, next(self.clock)
        self.promise(model)

    def promise(self, model: NaiveGroup) -> None:
        """From now on each is served within two rounds of all groups for each lane ahead of it, if nothing holds it.

        In each other round a loose record may be served.
        """
        for ahead, lane in enumerate(model.ready):
            promised = self.takes + (ahead + 1) * GROUPS * 2
            lane.due_by = promised if model.is_held or not lane.due_by else min(lane.due_by, promised)

    def put_down(self, model: NaiveGroup, lane: NaiveLane) -> None:
        """The lane is new, or comes back: it is ready, or waits to be filled."""
        lane.taken, lane.due_by = 1, 0
        until = self.until(lane.items[0])
        if self.scheduler.lingering is None or lane.key is None or len(lane.items) >= FULL or until is None:
            self.make_ready(model, [lane])
        else:
            self.put_aside(lane, until, lingers=True)

    def put_aside(self, lane: NaiveLane, until: int, *, lingers: bool) -> None:
        lane.place, lane.until, lane.lingers, lane.taken, lane.due_by = "parked", until, lingers, 1, 0
        self.parked.append(until)

    def in_turn(self) -> list[NaiveGroup]:
        waiting = [model for model in self.models if model.is_ready and not model.is_held]
        return [] if self.holds else sorted(waiting, key=lambda model: model.turn_since)

    def state(self) -> object:
        return [state_of_group(group) for group in self.groups], state_of_scheduler(self.scheduler)

    def released(self, due: list[list[NaiveLane]]) -> None:
        """What is ready by time was so in the order of its time; among equals, and groups, any order will do."""
        in_turn = [group.owner for group in self.scheduler._turn]
        for number in sorted(range(GROUPS), key=lambda each: in_turn.index(each) if each in in_turn else 0):
            model, lanes = self.models[number], due[number]
            heads = [lane.head for lane in self.groups[number].ready][len(model.ready) :]
            assert sorted(heads) == sorted(lane.items[0] for lane in lanes)
            self.make_ready(model, sorted(lanes, key=lambda lane: heads.index(lane.items[0])))

    @rule(plan=plans)
    def work(self, plan: list[tuple[str, int]]) -> None:
        """Anything happens; what always holds is looked at after each."""
        for name, pick in plan:
            getattr(self, name)(pick)
            self.everything_holds()

    def undone(self, lane: Lane[int], pick: int) -> list[int]:
        """Some of the records that a worker has."""
        return [item for index, item in enumerate(lane.in_hands) if pick & 1 << index]

    # Records come

    def offer(self, pick: int) -> None:
        """A record of a key, or of none, arrives."""
        number, key = pick % GROUPS, KEYS[pick // GROUPS % len(KEYS)]
        item, lane = self.expect(number, key)
        offered_to = self.scheduler.offer(self.groups[number], key, item)
        assert (offered_to.key, offered_to.head) == (key, lane.items[0])

    def offer_all(self, pick: int) -> None:
        """Several records arrive, of several keys."""
        number, keys = pick % GROUPS, [KEYS[(pick + n * n) % len(KEYS)] for n in range(pick % 6)]
        items = [self.expect(number, key)[0] for key in keys]
        self.scheduler.offer_all(self.groups[number], keys, items)

    def offer_loose(self, pick: int) -> None:
        """Several records arrive that have no order, and need no lane yet."""
        number, items = pick % GROUPS, [next(self.items) for _ in range(pick // GROUPS % 4)]
        model = self.models[number]
        self.received.update(dict.fromkeys(items, self.now))
        if items and not model.is_ready:
            model.turn_since = next(self.clock)
        model.loose += items
        self.scheduler.offer_loose(self.groups[number], items)

    def expect(self, number: int, key: str | None) -> tuple[int, NaiveLane]:
        """Have the model take a record of this group; return it, and its lane."""
        item, model = next(self.items), self.models[number]
        self.received[item] = self.now
        lane = model.find(key)
        if lane is None:
            lane = NaiveLane(key, [item])
            model.lanes.append(lane)
            self.put_down(model, lane)
        else:
            lane.items.append(item)
            if lane.lingers and len(lane.items) >= FULL:
                self.make_ready(model, [lane])
        return item, lane

    def offer_what_cannot_be_hashed(self, pick: int) -> None:
        """A key that can't be hashed is refused, and nothing changed."""
        before = self.state()
        with pytest.raises(TypeError):
            self.scheduler.offer(self.groups[pick % GROUPS], [], 0)  # type: ignore[arg-type]  # the point
        with pytest.raises(TypeError):
            self.scheduler.offer_all(self.groups[pick % GROUPS], [[]], [0])  # type: ignore[list-item]  # the point
        assert before == self.state()

    # Workers take lanes

    def check_taken(self, taken: Lane[int] | None, model: NaiveGroup) -> None:
        """The lane that waited longest in its group is in hands."""
        assert taken is not None
        lane = model.ready[0]
        assert (taken.group, taken.key, taken.head) == (self.groups[self.models.index(model)], lane.key, lane.items[0])
        assert (taken.parked_until, taken.lingers, taken.is_stuck, taken.taken) == (None, False, False, 1)
        lane.place = "hands"
        self.hands.append(Hand(taken, lane, model))
        assert self.takes <= lane.due_by

    def take_in_turn(self, taken: Lane[int] | None) -> None:
        """The group that waited longest is served: by turns a lane, and a loose record."""
        waiting = self.in_turn()
        if not waiting:
            assert taken is None
            return
        self.takes += 1
        model = waiting[0]
        if not model.loose:
            self.check_taken(taken, model)
        elif model.loose_is_next or not model.ready:
            self.check_loose(taken, model)
            model.loose_is_next = False
        else:
            self.check_taken(taken, model)
            model.loose_is_next = True
        model.turn_since = next(self.clock)

    def check_loose(self, taken: Lane[int] | None, model: NaiveGroup) -> None:
        """The record that waited longest is in hands, in a lane of its own."""
        assert taken is not None
        lane = NaiveLane(None, [model.loose.pop(0)], place="hands")
        assert (taken.group, taken.key, taken.head) == (self.groups[self.models.index(model)], None, lane.items[0])
        model.lanes.append(lane)
        self.hands.append(Hand(taken, lane, model))

    def take(self, _pick: int) -> None:
        """A worker takes the next lane."""
        self.take_in_turn(self.scheduler.take())

    def take_despite(self, pick: int) -> None:
        """A probe is let through, if nothing else holds the scheduler."""
        reason = REASONS[pick % 2]
        taken = self.scheduler.take_despite(reason)
        assert self.scheduler.is_held is bool(self.holds)
        if self.holds - {reason}:
            assert taken is None
            return
        holds, self.holds = self.holds, set()
        self.take_in_turn(taken)
        self.holds = holds

    def take_several(self, pick: int) -> None:
        """A batch is made of lanes of one group, whose turn may be over then."""
        number, most, ends_turn = pick % GROUPS, pick // 12 + 1, pick % 2
        group, model = self.groups[number], self.models[number]
        if model.is_held or self.holds:
            return
        for _ in range(most):
            taken = self.scheduler.take_from(group)
            if not model.ready:
                assert taken is None
                break
            self.check_taken(taken, model)
        if ends_turn:
            self.scheduler.end_turn(group)
            model.turn_since = next(self.clock)
            for lane in model.ready:
                lane.due_by = 0
            self.promise(model)

    def gather(self, pick: int) -> None:
        """More records of a lane are taken, up to so many."""
        if not self.hands:
            return
        hand, most = self.hands[pick % len(self.hands)], pick // 12 + 1
        gathered = self.scheduler.gather(hand.lane, most)
        assert list(gathered) == list(hand.lane.in_hands) == hand.naive.items[:most]
        assert hand.lane.taken == len(gathered)
        hand.naive.taken = len(gathered)

    # Workers are done with them

    def finish_head(self, pick: int) -> None:
        """A record is finished; the worker takes the next of the lane, or gives the lane back."""
        single = [hand for hand in self.hands if hand.naive.taken == 1]
        if single:
            hand = single[pick % len(single)]
            is_left = self.scheduler.advance(hand.lane)
            if not is_left and hand.naive.key is None and pick % 2:
                is_left = self.go_on(hand)
            self.finish(hand, [], is_left=is_left, goes_on=pick < 20)

    def go_on(self, hand: Hand) -> bool:
        """A record without order is finished; the worker takes the next one that is loose in the same lane."""
        may = bool(hand.model.loose) and not hand.model.is_held and hand.lane.detour is None
        assert self.scheduler.go_on(hand.lane) is may
        if may:
            hand.naive.items.append(hand.model.loose.pop(0))
        return may

    def finish_several(self, pick: int) -> None:
        """Of the records that were taken some are finished, whichever."""
        if self.hands:
            hand = self.hands[pick % len(self.hands)]
            remaining = self.undone(hand.lane, pick // 3)
            self.finish(hand, remaining, is_left=self.scheduler.keep(hand.lane, remaining), goes_on=pick < 20)

    def finish(self, hand: Hand, remaining: list[int], *, is_left: bool, goes_on: bool) -> None:
        lane = hand.naive
        lane.items[: lane.taken] = remaining
        lane.taken = 1
        assert is_left is bool(lane.items)
        if not is_left:
            self.hands.remove(hand)
            hand.model.lanes.remove(lane)
            return
        assert (hand.lane.head, hand.lane.taken) == (lane.items[0], 1)
        if not goes_on:
            self.give_back(hand)

    def put_back(self, pick: int) -> None:
        """A worker gives a lane back before it started the head, or any of those that it took."""
        if self.hands:
            self.give_back(self.hands[pick % len(self.hands)])

    def give_back(self, hand: Hand) -> None:
        self.hands.remove(hand)
        self.put_down(hand.model, hand.naive)
        self.scheduler.put_back(hand.lane)

    def park(self, pick: int) -> None:
        """A record failed, and is to be tried again: as another item."""
        if not self.hands:
            return
        hand, delay = self.hands[pick % len(self.hands)], pick % 5
        self.hands.remove(hand)
        again = next(self.items)
        self.received[again] = self.received[hand.naive.items[0]]
        hand.lane.head = hand.naive.items[0] = again
        self.put_aside(hand.naive, self.now + delay, lingers=False)
        self.scheduler.park(hand.lane, self.now + delay)

    def seal(self, pick: int) -> None:
        """A record failed for good."""
        if not self.hands:
            return
        hand = self.hands[pick % len(self.hands)]
        self.hands.remove(hand)
        hand.naive.place = "sealed"
        self.scheduler.seal(hand.lane)

    # Time goes by, and dispatch is held

    def wait(self, pick: int) -> None:
        """What was parked until now, or before, is ready; all else stays where it is."""
        self.now += pick % 4
        due = [[lane for lane in model.at("parked") if lane.until <= self.now] for model in self.models]
        assert self.scheduler.release_due(self.now) is any(due)
        self.released(due)
        next_due = self.scheduler.next_due()
        assert next_due is None or next_due > self.now

    def stop_lingering(self, _pick: int) -> None:
        """Nothing waits to be filled any more; what is to be tried again still waits."""
        lingering = [[lane for lane in model.at("parked") if lane.lingers] for model in self.models]
        self.scheduler.stop_lingering()
        self.released(lingering)

    def hold_or_release(self, pick: int) -> None:
        """One reason to hold everything comes, or is gone."""
        reason, holds = REASONS[pick % 2], pick < 16
        (self.scheduler.hold if holds else self.scheduler.release)(reason)
        (self.holds.add if holds else self.holds.discard)(reason)
        assert self.scheduler.holds == self.holds

    def hold_or_release_group(self, pick: int) -> None:
        """A partition is held, or goes on, once or twice; then it waits for its turn behind the others."""
        number, holds = pick % GROUPS, pick < 20
        model = self.models[number]
        (self.scheduler.hold_group if holds else self.scheduler.release_group)(self.groups[number])
        if model.is_held and not holds:
            model.turn_since = next(self.clock)
            self.promise(model)
        model.is_held = holds

    def close(self, pick: int) -> None:
        """A partition is gone, wherever its lanes are; another of the same number comes."""
        number = pick % GROUPS
        for hand in [hand for hand in self.hands if hand.model is self.models[number]]:
            self.hands.remove(hand)
            self.orphans.append(hand.lane)
        closed = self.groups[number]
        self.scheduler.close(closed)
        if pick % 2:
            self.scheduler.close(closed)
        self.groups[number], self.models[number] = LaneGroup(number), NaiveGroup()
        assert is_dropped(closed)

    def return_late(self, pick: int) -> None:
        """A worker returns a lane of a closed group, in whatever way: nothing comes of it."""
        if not self.orphans:
            return
        act = ["advance", "put_back", "seal", "park", "keep"][pick % 5]
        lane = self.orphans.pop(pick % len(self.orphans))
        if act == "advance" and lane.taken > 1:
            act = "keep"  # who has gathered records advances by that alone
        before = self.state()
        more: dict[str, tuple[object, ...]] = {"park": (self.now,), "keep": (self.undone(lane, pick // 5),)}
        result = getattr(self.scheduler, act)(lane, *more.get(act, ()))
        assert not result
        assert before == self.state()
        assert is_dropped(lane.group)

    # What always holds

    @invariant()
    def everything_holds(self) -> None:
        """All of the following."""
        self.ready_is_told()
        self.each_lane_is_in_one_place()
        self.parked_lanes_are_told()

    def ready_is_told(self) -> None:
        """The scheduler is true exactly while something can be taken, and names its groups in their turn."""
        in_turn = self.in_turn()
        assert [group.owner for group in self.scheduler.groups] == [self.models.index(model) for model in in_turn]
        assert bool(self.scheduler) is bool(in_turn)

    def each_lane_is_in_one_place(self) -> None:
        """Lanes exist for keys with records alone, and each is ready, parked, in a worker's hands, or sealed."""
        for group, model in zip(self.groups, self.models, strict=True):
            assert group.by_key.keys() == {lane.key for lane in model.lanes if lane.key is not None}
            assert [lane.head for lane in group.ready] == [lane.items[0] for lane in model.ready]
            assert list(group.loose) == model.loose
            assert sorted(lane.head for lane in group.sealed) == sorted(lane.items[0] for lane in model.at("sealed"))
            for lane in group.by_key.values():
                expected = model.find(lane.key)
                assert expected is not None
                assert lane.waiting == len(expected.items) - 1
                assert records_of(lane) == expected.items

    def parked_lanes_are_told(self) -> None:
        """Each has its time, in its group's heap, and whoever waits for the time is told of it when it is parked."""
        assert self.told == self.parked
        for group, model in zip(self.groups, self.models, strict=True):
            waiting = {lane for until, _, lane in group.parked if lane.parked_until == until}
            expected = [(lane.items[0], lane.until, lane.lingers) for lane in model.at("parked")]
            assert sorted((lane.head, lane.parked_until, lane.lingers) for lane in waiting) == sorted(expected)
            assert (group in self.scheduler._with_parked) is bool(group.parked)
            assert group.stuck == sum(len(lane.items) for lane in model.at("parked", "sealed"))
            assert len(group.parked) <= 2 * group.stuck, "P6: a heap grows beyond what is buffered"
        due = [lane.until for model in self.models for lane in model.at("parked")]
        next_due = self.scheduler.next_due()
        assert not due or (next_due is not None and next_due <= min(due))
