"""When the client is asked for more: at once as long as workers need it, later while they have enough."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from shell.kit import P0, P1, Handling, World
from trio.testing import MockClock

from trio_parallel_kafka import Record
from trio_parallel_kafka.control.client import Client, Event, Fetched, Trouble
from trio_parallel_kafka.control.intake import LOOK_AGAIN, PACE, Intake
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.visits import Visits, Worker
from trio_parallel_kafka.execution.workers import ENOUGH, WorkerPool


class Source:
    """As much of a client as gives events, and notes when it is asked for the next batch."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[Event](10)
        self.asked_at: list[float] = []

    async def next_event(self) -> Event:
        return await self.receive.receive()

    def fetch(self) -> Fetched:
        event = Fetched((), {}, taken=lambda: self.asked_at.append(trio.current_time()))
        self.send.send_nowait(event)
        return event


def intake(source: Source, enough: Collection[object]) -> Intake:
    """One whose workers have enough as long as ``enough`` isn't empty."""
    client: Client = source  # type: ignore[assignment]  # all of it that is used
    return Intake(client, lambda: bool(enough))


async def test_asked_at_once(autojump_clock: MockClock) -> None:
    """Who comes back for more has taken the last batch: the next is asked for without delay, and once."""
    source = Source()
    tested = intake(source, [])
    first, second = source.fetch(), source.fetch()
    assert await tested.next_event() is first
    assert not source.asked_at
    assert await tested.next_event() is second
    began = trio.current_time()
    with trio.move_on_after(1):
        await tested.next_event()
    assert source.asked_at == [began, began]


async def test_asked_when_it_is_needed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While workers have enough the next batch waits, and is asked for soon after they haven't."""
    source, enough = Source(), ["much"]
    tested = intake(source, enough)
    source.fetch()
    await tested.next_event()
    began = trio.current_time()
    nursery.start_soon(tested.next_event)
    await trio.sleep(PACE / 2)
    assert not source.asked_at
    enough.clear()
    await trio.sleep(2 * LOOK_AGAIN)
    assert began + PACE / 2 <= source.asked_at[0] <= began + PACE / 2 + LOOK_AGAIN


async def test_asked_after_a_while(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """However much there is to do, more is asked for after a while: of a partition that isn't at hand."""
    source = Source()
    tested = intake(source, ["much"])
    source.fetch()
    await tested.next_event()
    began = trio.current_time()
    nursery.start_soon(tested.next_event)
    await trio.sleep(10 * PACE)
    assert source.asked_at == [pytest.approx(began + PACE, abs=2 * LOOK_AGAIN)]


async def test_asked_when_a_worker_is_idle(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A worker that finds nothing to do has it looked at once whether there is enough, in no time."""
    source, enough = Source(), ["much"]
    tested = intake(source, enough)
    source.fetch()
    await tested.next_event()
    began = trio.current_time()
    nursery.start_soon(tested.next_event)
    await trio.testing.wait_all_tasks_blocked()
    tested.look_again()
    await trio.testing.wait_all_tasks_blocked()
    assert not source.asked_at
    enough.clear()
    tested.look_again()
    await trio.testing.wait_all_tasks_blocked()
    assert source.asked_at == [began]
    tested.look_again()


async def test_other_events_do_not_wait(autojump_clock: MockClock) -> None:
    """What else the client tells is heard at once, and doesn't change when it is asked."""
    source = Source()
    tested = intake(source, ["much"])
    source.fetch()
    await tested.next_event()
    began = trio.current_time()
    told = Trouble(ClientError(ClientError._TRANSPORT))
    for _ in range(2):
        source.send.send_nowait(told)
        assert await tested.next_event() is told
    assert trio.current_time() == began
    assert not source.asked_at


class Held:
    """Visits that take a lane each, and never end."""

    def __init__(self, member: Member[Record], *, has_waited: bool) -> None:
        self.lanes = member.lanes
        self.has_waited = has_waited

    def take(self) -> tuple[object, ...]:
        lane = self.lanes.take()
        return () if lane is None else (lane,)

    async def visit(self, _worker: Worker) -> None:
        await trio.sleep_forever()

    def abandon(self, _worker: Worker) -> None:
        """Nothing comes back."""


@pytest.mark.parametrize(
    ("bound", "records", "has_waited", "has_enough"),
    [
        (4, 4 + ENOUGH, True, True),
        (4, 3 + ENOUGH, True, False),
        (4, 4 + ENOUGH, False, False),
        (100, 100 + ENOUGH, False, True),
        (100, 99 + ENOUGH, False, False),
    ],
)
async def test_what_is_enough(
    nursery: trio.Nursery, bound: int, records: int, has_waited: bool, has_enough: bool
) -> None:
    """Enough is a lane for each worker and some more, if handlers wait; where many are busy at once, they do."""
    member: Member[Record] = Member(FlowLimits(1000, 10**6))
    pool = WorkerPool(member.lanes, bound)
    assignment = member.assign(TopicPartition("orders", 0))
    member.start(assignment, 0)
    visits: Visits = Held(member, has_waited=has_waited)  # type: ignore[assignment]  # all of it that is used
    nursery.start_soon(pool.run, visits)
    await trio.testing.wait_all_tasks_blocked()
    for offset in range(records):
        member.deliver(assignment, None, Record("orders", 0, offset))
    pool.wake()
    assert not pool.has_enough(), "with one worker at it, nothing tells that handlers wait"
    await trio.testing.wait_all_tasks_blocked()
    assert len(pool.running()) == bound
    assert pool.has_enough() is has_enough
    nursery.cancel_scope.cancel()


async def test_buffers_that_do_not_fill_up(autojump_clock: MockClock, world: World) -> None:
    """Slow handlers with much to do have what they need at hand, not all that there is."""
    world.broker.add(P0, [f"{number}" for number in range(5000)])
    world.broker.add(P1, [f"{number}" for number in range(5000)])
    async with world.consuming(Handling(work=1.0), max_concurrency=20, shutdown_timeout=0) as pc:
        await trio.sleep(PACE / 2)
        at_once = pc.statistics().buffered_records
        await trio.sleep(2 * PACE)
        assert at_once < pc.statistics().buffered_records < 10_000
