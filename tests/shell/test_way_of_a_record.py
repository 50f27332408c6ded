"""From the batch to the commit: order, concurrency, fairness."""

from __future__ import annotations

from shell.kit import P0, P1, Handling, World, settle

import trio


async def test_everything_is_handled_once_and_committed(world: World) -> None:
    """Every record of every partition is handled once, and a stop commits behind the last."""
    for partition in (P0, P1):
        world.broker.produce(partition, [f"k{n % 7}" for n in range(1200)])
    handle = Handling(work=0.003)
    async with world.consuming(handle) as pc:
        while pc.statistics().totals.completed < 2400:
            await trio.sleep(0.1)
    assert sorted(handle.finished) == [(partition, offset) for partition in (0, 1) for offset in range(1200)]
    assert world.committed(P0) == world.committed(P1) == 1200
    assert not handle.overlaps
