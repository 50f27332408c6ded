"""A machine that drives the whole core, in several members that share a broker, through anything in any order.

What members do is checked against a naive broker after every step, promise by promise.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import product
from typing import Literal

import attrs
import pytest
from core.kit import Item, new_member, state_of, state_of_assignment
from core.naive_broker import Log, Process, Tenure
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_parallel_kafka.core.assignments import Assignment, Phase, TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.lane import Lane
from trio_parallel_kafka.core.member import BUFFER_FULL, ENOUGH_READ
from trio_parallel_kafka.core.tracker import OffsetWentBackError

Outcome = Literal["taken", "refused", "half", "taken, answer lost"]
Ordering = Literal["key", "partition", "unordered"]
Content = Sequence[tuple[int, bytes | None, int]]
"""Records: the gap before each, its key, and its size; one of size 0 is a marker."""

MEMBERS = 3
PARTITIONS = (TopicPartition("orders", 0), TopicPartition("orders", 1))
TOPIC_ID = bytes(range(16))

numbers = st.integers(0, MEMBERS - 1)
partitions = st.sampled_from(PARTITIONS)
picks = st.integers(0, 9)
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(["taken", "taken", "refused", "half", "taken, answer lost"])
logs = st.lists(
    st.sampled_from([*product([0, 0, 0, 1, 5], [b"a", b"b", b"c", None], [1, 2, 3, 0])]),  # one draw is soon done
    min_size=3,
    max_size=15,
)
limits = st.builds(
    FlowLimits,
    max_records=st.integers(1, 40),
    max_bytes=st.sampled_from([100, 20, 10, 1]),
    read_ahead=st.sampled_from([1000, 1, 3, 8]),
    read_in_all=st.sampled_from([0, 5, 10]),
)
ACTS = [*["fetch", "go on", "put back"] * 2, *["take"] * 3, "fetch to the end", "look", "fail", "retry", "tick"]
blows = st.sampled_from(["revoked", "revoked", "revoked", "revoked", "lost", "crash", "small metadata"])
plans = st.lists(st.sampled_from([*product(ACTS, range(10))]), min_size=2, max_size=16)


class CoreMachine(RuleBasedStateMachine):
    """Plays broker, client, workers and group for three members."""

    @initialize(
        flow=limits,
        ordering=st.sampled_from(["key", "key", "partition", "unordered"]),
        topic_id=st.sampled_from([None, TOPIC_ID]),
        contents=st.tuples(logs, logs),
    )
    def begin(
        self,
        flow: FlowLimits,
        ordering: Ordering,
        topic_id: bytes | None,
        contents: tuple[Content, ...],
    ) -> None:
        """A topic with some records, each of its partitions owned by a member."""
        self.flow, self.ordering, self.topic_id = flow, ordering, topic_id
        self.now = 0
        self.processes = [self.new_process() for _ in range(MEMBERS)]
        self.logs = {partition: Log() for partition in PARTITIONS}
        for partition, content in zip(PARTITIONS, contents, strict=True):
            self.produce(partition, content)
            self.assign(len(content), partition, starts=True)

    def new_process(self) -> Process:
        return Process(new_member(self.flow))

    def lane_key(self, key: bytes | None) -> Hashable | None:
        return {"key": key, "partition": 0, "unordered": None}[self.ordering]

    def tenures(self, *phases: Phase) -> list[Tenure]:
        owners = [log.owner for log in self.logs.values() if log.owner is not None]
        return [owner for owner in owners if owner.assignment.phase in phases]

    def fetchable(self) -> list[Tenure]:
        return [tenure for tenure in self.tenures(Phase.ACTIVE) if tenure.assignment.pause_reason is None]

    def paused(self) -> list[Tenure]:
        return [tenure for tenure in self.tenures(Phase.ACTIVE) if tenure.assignment.pause_reason is not None]

    def held(self) -> list[tuple[Process, Lane[Item]]]:
        return [(process, lane) for process in self.processes for lane in process.hands]

    def log_of(self, tenure: Tenure) -> Log:
        return self.logs[tenure.assignment.partition]

    # The topic

    @precondition(lambda self: any(each.fetch_from >= self.log_of(each).end for each in self.fetchable()))
    @rule(partition=partitions, content=logs)
    def produce_more(self, partition: TopicPartition, content: Content) -> None:
        """Where something was read to its end, more comes."""
        self.produce(partition, content)

    def produce(self, partition: TopicPartition, content: Content) -> None:
        """Records come, with gaps before them as compaction leaves; a record of size 0 is only a marker."""
        log = self.logs[partition]
        for gap, key, size in content:
            if size:
                log.records.append((Item(log.end + gap, size), self.lane_key(key)))
            log.end += gap + 1

    # The group

    @precondition(lambda self: any(log.owner is None for log in self.logs.values()))
    @rule(number=numbers, starts=st.sampled_from([True, True, True, False]))
    def assign_what_is_free(self, number: int, starts: bool) -> None:
        """A partition that nobody owns is given to a member."""
        free = [partition for partition, log in self.logs.items() if log.owner is None]
        self.assign(number, free[0], starts=starts)

    def assign(self, number: int, partition: TopicPartition, *, starts: bool) -> None:
        log, process = self.logs[partition], self.processes[number % MEMBERS]
        log.owner = Tenure(process, process.member.assign(partition))
        process.assignments.append(log.owner.assignment)
        if starts:
            self.start(log.owner)

    @precondition(lambda self: self.tenures(Phase.STARTING))
    @rule(pick=picks)
    def start_late(self, pick: int) -> None:
        """The committed offset of a partition wasn't to be had at once."""
        waiting = self.tenures(Phase.STARTING)
        self.start(waiting[pick % len(waiting)])

    def start(self, tenure: Tenure) -> None:
        """The committed offset and its metadata are read back, and reading starts there."""
        log, member = self.log_of(tenure), tenure.process.member
        position, completed = log.held
        member.start(tenure.assignment, position, completed, self.topic_id)
        if log.committed is not None:
            member.ledger.inherit(tenure.assignment, *log.committed)
        tenure.fetch_from, tenure.covered = position, frozenset(log.covered())
        tenure.done |= tenure.covered
        assert tenure.covered >= log.must_not_replay, "P4: what was handed over is replayed"

    @precondition(lambda self: self.tenures(Phase.STARTING, Phase.REVOKING))
    @rule(pick=picks, is_taken=st.booleans(), earlier=st.booleans())
    def end_revoke(self, pick: int, is_taken: bool, earlier: bool) -> None:
        """The last commit is made, and the partition is let go, whatever became of it."""
        leaving = self.tenures(Phase.STARTING, Phase.REVOKING)
        tenure = leaving[pick % len(leaving)]
        log, member = self.log_of(tenure), tenure.process.member
        self.settle(tenure, is_taken=earlier)
        entries = member.pending_commits([tenure.assignment])
        if is_taken:
            for entry in entries:
                self.apply(entry)
            member.acknowledge(entries)
        is_clean = member.pending_commits([tenure.assignment]) == ()
        if is_clean and tenure.assignment.is_current and not member.ledger.entry_of(tenure.assignment).is_cut:
            log.must_not_replay = set(tenure.done)
        self.end(tenure)

    @precondition(lambda self: any(tenure.started for tenure in self.tenures(*Phase)))
    @rule(pick=picks, is_taken=st.booleans(), how=blows)
    def suffer(self, pick: int, is_taken: bool, how: str) -> None:
        """A partition is revoked or lost, a process is killed, or the broker's bound on metadata is met."""
        owned = self.tenures(*Phase)
        tenure = owned[pick % len(owned)]
        if how == "revoked":
            if tenure.assignment.phase is Phase.ACTIVE:
                tenure.process.member.begin_revoke(tenure.assignment)
        elif how == "lost":
            self.settle(tenure, is_taken=is_taken)
            self.end(tenure)
        elif how == "crash":
            self.crash(tenure.process, is_taken=is_taken)
        else:
            tenure.process.member.ledger.metadata_refused()

    def crash(self, process: Process, *, is_taken: bool) -> None:
        """Another takes its place, and knows nothing."""
        for tenure in self.tenures(*Phase):
            if tenure.process is process:
                self.settle(tenure, is_taken=is_taken)
                self.log_of(tenure).owner = None
        self.processes[self.processes.index(process)] = self.new_process()

    def end(self, tenure: Tenure) -> None:
        tenure.process.member.end(tenure.assignment)
        self.log_of(tenure).owner = None

    def settle(self, tenure: Tenure, *, is_taken: bool) -> None:
        """What a member has sent reaches the broker before the partition has another owner, or never."""
        for entry, fate in tenure.process.sent.items():
            if fate is None and entry.partition == tenure.assignment.partition:
                tenure.process.sent[entry] = is_taken
                if is_taken:
                    self.apply(entry)

    # Fetching

    def fetch(self, tenure: Tenure, *, most: int, tells_end: bool) -> None:
        """A batch of a partition that isn't paused is delivered; at the log's end, that is told."""
        log, assignment, member = self.log_of(tenure), tenure.assignment, tenure.process.member
        left = [each for each in log.records if each[0].offset >= tenure.fetch_from]
        batch = left[: min(most, self.flow.batch_size)]
        if batch and most % 2:
            items, keys = zip(*batch, strict=True)
            offsets = [item.offset for item in items]
            assert member.deliver_all(assignment, keys, offsets, items) == len(set(offsets) - tenure.covered)
        else:
            for item, key in batch:
                assert member.deliver(assignment, key, item) is (item.offset not in tenure.covered)
        if batch:
            tenure.fetch_from = batch[-1][0].offset + 1
        assert len(assignment.tracker) <= self.flow.max_records, "P6: more is buffered than the bound allows"
        if tells_end and len(batch) == len(left):
            assignment.tracker.skip_to(log.end)
            tenure.fetch_from = log.end
        is_full = self.flow.is_full(len(assignment.tracker), assignment.buffered_bytes)
        assert member.pause_if_full(assignment) is is_full
        assert not member.pause_if_full(assignment)
        assert assignment.pause_reason == (BUFFER_FULL if is_full else None)
        if not is_full:
            self.pause_if_enough(tenure)

        if tells_end:
            self.deliver_what_is_refused(tenure, back=most)

    def deliver_what_is_refused(self, tenure: Tenure, *, back: int) -> None:
        """An offset that goes back, or a key that can't be hashed, is refused, and nothing changed."""
        member, next_offset = tenure.process.member, tenure.assignment.tracker.next_offset
        before = state_of(member)
        with pytest.raises(OffsetWentBackError):
            member.deliver(tenure.assignment, b"a", Item(next_offset - back))
        with pytest.raises(OffsetWentBackError):
            member.deliver_all(tenure.assignment, [b"a"], [next_offset - back], [Item(next_offset - back)])
        with pytest.raises(TypeError):
            member.deliver(tenure.assignment, [], Item(next_offset))  # type: ignore[arg-type]  # the point
        assert state_of(member) == before

    def pause_if_enough(self, tenure: Tenure) -> None:
        """It pauses only where lanes wait for a worker, and more records than are to be read ahead."""
        assignment, member = tenure.assignment, tenure.process.member
        ready = list(assignment.lanes.ready)
        waiting = sum(lane.waiting + 1 for lane in ready)
        waiting += sum(lane.waiting for lane in tenure.process.hands_of(assignment))
        pauses = member.pause_if_enough(assignment, lambda each: len(tenure.process.hands_of(each)))
        in_all = sum(len(each.tracker) for each in member.assignments)
        is_enough = waiting > self.flow.read_ahead and in_all > self.flow.read_in_all
        assert pauses is (bool(ready) and is_enough)
        assert assignment.pause_reason == (ENOUGH_READ if pauses else None)

    def resume(self, process: Process, assignment: Assignment[Item], stuck: list[Lane[Item]]) -> None:
        """A full partition is looked at, after each completion in it and now and then."""
        member = process.member
        before = state_of(member)
        in_hands = len(process.hands_of(assignment)) - len(stuck)
        if member.resume_if_low(assignment, stuck):
            assert not member.pause_if_full(assignment), "it flaps"
        elif member.resume_if_dry(assignment, in_hands, stuck):
            assert not member.pause_if_enough(assignment, lambda _: 0), "it flaps"
        else:
            assert state_of(member) == before
            assert len(assignment.tracker), "paused for ever, with nothing buffered"

    # Workers

    @rule(plan=plans)
    def work(self, plan: list[tuple[str, int]]) -> None:
        """Batches arrive, workers take lanes, handlers return or fail, in time or after their assignment ended."""
        for act, pick in plan:
            self.act(act, pick)

    def act(self, act: str, pick: int) -> None:
        fetchable, paused, held = self.fetchable(), self.paused(), self.held()
        ready = [process for process in self.processes if process.member.lanes]
        if act.startswith("fetch") and fetchable:
            self.fetch(fetchable[pick % len(fetchable)], most=pick + 1, tells_end=act == "fetch to the end")
        elif act == "take" and ready:
            self.take(ready[pick % len(ready)])
        elif act == "look" and paused:
            tenure = paused[pick % len(paused)]
            hands = tenure.process.hands_of(tenure.assignment)
            self.resume(tenure.process, tenure.assignment, hands[pick // 2 :])
        elif act == "fail" and held:
            self.fail(*held[pick % len(held)])
        elif act == "retry" and held:
            self.retry(*held[pick % len(held)], delay=pick)
        elif act == "tick":
            self.tick(pick)
        elif held:
            self.complete(*held[pick % len(held)], visit_ends=act == "put back")

    def take(self, process: Process) -> None:
        """A free worker takes the next lane, and starts its head."""
        lane = process.member.lanes.take()
        assert lane is not None
        self.check_start(process, lane)
        process.hands.append(lane)

    def complete(self, process: Process, lane: Lane[Item], *, visit_ends: bool) -> None:
        """A handler returns; its worker goes on with the lane, or changes it."""
        assignment: Assignment[Item] = lane.group.owner
        record = lane.head
        process.hands.remove(lane)
        if not assignment.is_current:
            before = state_of(process.member, assignment)
            assert not assignment.complete(record)
            assert state_of(process.member, assignment) == before, "P3: a late completion changed something"
            return
        assert assignment.complete(record)
        log = self.logs[assignment.partition]
        assert log.owner is not None
        log.done.add(record.offset)
        log.owner.done.add(record.offset)
        if assignment.phase is Phase.ACTIVE and assignment.pause_reason is not None:
            self.resume(process, assignment, [])
        if not process.member.lanes.advance(lane):
            return
        if visit_ends:
            process.member.lanes.put_back(lane)
        else:
            self.check_start(process, lane)
            process.hands.append(lane)

    def fail(self, process: Process, lane: Lane[Item]) -> None:
        """A handler fails for good, or is cancelled."""
        assignment: Assignment[Item] = lane.group.owner
        before = state_of_assignment(assignment)
        process.hands.remove(lane)
        process.member.lanes.seal(lane)
        assert (state_of_assignment(assignment) == before) is (assignment.phase is not Phase.ACTIVE)

    def retry(self, process: Process, lane: Lane[Item], *, delay: int) -> None:
        """A handler fails, and its record is to be tried again."""
        assignment: Assignment[Item] = lane.group.owner
        record, before = lane.head, state_of_assignment(assignment)
        process.hands.remove(lane)
        lane.head = attrs.evolve(record, attempt=record.attempt + 1)
        assignment.replace(lane.head)
        process.member.lanes.park(lane, self.now + delay)
        assert (state_of_assignment(assignment) == before) is (not assignment.is_current)
        tenure = self.logs[assignment.partition].owner
        if tenure is not None and tenure.assignment is assignment:
            tenure.started.discard(record.offset)

    def tick(self, seconds: int) -> None:
        """Time goes by: what is due may be tried again."""
        self.now += seconds
        for process in self.processes:
            process.member.lanes.release_due(self.now)
            due = process.member.lanes.next_due()
            assert due is None or due > self.now, "P5: it is due, and stays parked"

    def check_start(self, process: Process, lane: Lane[Item]) -> None:
        """P2: what was before it in its lane is done; it runs once in a tenure, and alone in its lane."""
        assignment: Assignment[Item] = lane.group.owner
        log, offset = self.logs[assignment.partition], lane.head.offset
        tenure = log.owner
        assert tenure is not None
        assert tenure.assignment is assignment, "P3: a record of an ended assignment is started"
        assert assignment.phase is Phase.ACTIVE, "a record is started after its partition was revoked"
        assert offset not in tenure.covered, "a record is replayed that was completed and committed"
        assert offset not in tenure.started, "a record is started twice"
        tenure.started.add(offset)
        if lane.key is not None:
            before = {item.offset for item, key in log.records if key == lane.key and item.offset < offset}
            assert before <= tenure.done, "P2: a record overtakes another of its key"
            assert all(lane.key != other.key for other in process.hands_of(assignment)), "P2: two of one key at once"

    # Commits

    @precondition(lambda self: any(not each.sent and each.member.pending_commits() for each in self.processes))
    @rule()
    def send_commits(self) -> None:
        """Each member sends what changed; one commit of each is on its way at most."""
        for process in self.processes:
            if not process.sent:
                process.sent = dict.fromkeys(process.member.pending_commits())

    @precondition(lambda self: any(process.sent for process in self.processes))
    @rule(pick=picks, outcome=outcomes)
    def answer_commit(self, pick: int, outcome: Outcome) -> None:
        """The broker takes a commit or not, and its answer arrives or not."""
        waiting = [process for process in self.processes if process.sent]
        process = waiting[pick % len(waiting)]
        taken = []
        for index, (entry, fate) in enumerate(process.sent.items()):
            is_taken = fate
            if is_taken is None:
                is_taken = outcome.startswith("taken") or (outcome == "half" and index % 2 == 0)
                if is_taken:
                    self.apply(entry)
            if is_taken:
                taken.append(entry)
        process.sent = {}
        if outcome != "taken, answer lost":
            process.member.acknowledge(taken)

    def apply(self, entry: CommitEntry) -> None:
        """The broker takes whatever it is sent."""
        log = self.logs[entry.partition]
        assert log.committed is None or entry.offset >= log.committed[0], "a commit moves the group back"
        log.committed = entry.offset, entry.metadata
        log.must_not_replay &= log.covered()

    # The promises

    @invariant()
    def nothing_is_lost(self) -> None:
        """P1: what is committed covers records alone whose completion counted."""
        for log in self.logs.values():
            assert log.covered() <= log.done

    @invariant()
    def only_owners_commit(self) -> None:
        """P3: nothing is to be committed but for assignments of now; nor is anything kept of others."""
        for process in self.processes:
            current = {
                (tenure.assignment.partition, tenure.assignment.assignment_epoch)
                for tenure in self.tenures(Phase.ACTIVE, Phase.REVOKING)
                if tenure.process is process
            }
            entries = process.member.pending_commits(process.assignments)
            assert {(entry.partition, entry.assignment_epoch) for entry in entries} <= current
            kept = process.member.ledger._acknowledged.values()
            assert {(entry.partition, entry.assignment_epoch) for entry in kept} <= current

    @invariant()
    def clean_means_committed(self) -> None:
        """P4: where nothing is to be committed, the broker holds all that completed, as far as the map reaches."""
        for tenure in self.tenures(Phase.ACTIVE, Phase.REVOKING):
            log, member = self.log_of(tenure), tenure.process.member
            if member.pending_commits([tenure.assignment]):
                continue
            entry = member.ledger.entry_of(tenure.assignment)
            assert log.committed == (entry.offset, entry.metadata)
            assert entry.is_cut or log.covered() == tenure.done

    @invariant()
    def bounds_are_kept(self) -> None:
        """P6: records, bytes and lanes are those of incomplete records, and within their bounds."""
        for tenure in self.tenures(*Phase):
            assignment, log = tenure.assignment, self.log_of(tenure)
            read = {item.offset: (item, key) for item, key in log.records if item.offset < tenure.fetch_from}
            incomplete = {offset: each for offset, each in read.items() if offset not in tenure.done}
            assert len(assignment.tracker) == len(incomplete) <= self.flow.max_records
            assert assignment.buffered_bytes == sum(item.size for item, _ in incomplete.values())
            keys = {key for _, key in incomplete.values() if key is not None}
            assert assignment.lanes.by_key.keys() == (keys if assignment.phase is Phase.ACTIVE else set())
            if assignment.phase is Phase.ACTIVE:
                keyed = sum(lane.waiting + 1 for lane in assignment.lanes.by_key.values())
                assert keyed == sum(key is not None for _, key in incomplete.values())

    @invariant()
    def everything_is_somewhere(self) -> None:
        """Each lane of an active partition is ready, parked, in a worker's hands, or sealed: none is forgotten."""
        for tenure in self.tenures(Phase.ACTIVE):
            lanes = tenure.assignment.lanes
            stuck = [*lanes.sealed, *(lane for _, _, lane in lanes.parked)]
            placed = [*lanes.ready, *stuck, *tenure.process.hands_of(tenure.assignment)]
            assert len(set(placed)) == len(placed)
            assert set(lanes.by_key.values()) <= set(placed)
            assert sum(lane.waiting + 1 for lane in placed) == len(tenure.assignment.tracker)
            assert sum(lane.waiting + 1 for lane in stuck) == lanes.stuck

    @invariant()
    def attempts_are_noted(self) -> None:
        """What is told of an incomplete record is its newest attempt."""
        for tenure in self.tenures(Phase.ACTIVE):
            incomplete = {item.offset: item for item in tenure.assignment.tracker._incomplete.values()}
            for lane in (*tenure.assignment.lanes.by_key.values(), *tenure.process.hands_of(tenure.assignment)):
                assert incomplete[lane.head.offset] is lane.head
