"""What the client gives a producer that commits for it: only as a member, and only for what it owns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from confluent_kafka import Consumer
from embedded.kit import PATIENCE, configured
from embedded.poll_rig import A, B, Rig, entry

from trio_parallel_kafka.control.client import Assigned, StartAt
from trio_parallel_kafka.control.kafka_client import open_kafka_client
from trio_parallel_kafka.testing import EmbeddedBroker


def naming(name: str) -> Callable[[], bytes]:
    """Metadata that holds a member's name."""
    return lambda: b"\1\0billing\0%s\0" % name.encode()


@pytest.mark.usefixtures("stand_in")
def test_only_for_what_is_owned() -> None:
    """There is none if one of the partitions isn't owned, or is in another assignment by now."""
    rig = Rig()
    rig.assign({A: (0, 3), B: (0, 4)})
    rig.client.member_id = "me"
    rig.client.consumer_group_metadata = naming("me")  # type: ignore[attr-defined]  # only here
    assert rig.thread.group_metadata([entry(A, 3), entry(B, 4)]) == naming("me")()
    assert rig.thread.group_metadata([entry(A, 3), entry(B, 3)]) is None
    rig.rebalance("on_lost", B)
    assert rig.thread.group_metadata([entry(A, 3), entry(B, 4)]) is None
    assert rig.thread.group_metadata([entry(A, 3)]) is not None


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(("member", "named"), [(None, ""), ("", ""), ("me", "")])
def test_only_of_a_member(member: str | None, named: str) -> None:
    """There is none of a client that has no name, or has lost it between two looks: anybody may commit without one."""
    rig = Rig()
    rig.assign({A: (0, 3)})
    rig.client.member_id = member  # type: ignore[assignment]  # as the client does
    rig.client.consumer_group_metadata = naming(named)  # type: ignore[attr-defined]  # only here
    assert rig.thread.group_metadata([entry(A, 3)]) is None


@pytest.mark.usefixtures("stand_in")
def test_within_a_revoke() -> None:
    """It is to be had while a revoke waits for its answer."""
    rig = Rig()
    rig.assign({A: (0, 3)})
    rig.client.member_id = "me"
    rig.client.consumer_group_metadata = naming("me")  # type: ignore[attr-defined]  # only here
    found: list[object] = []
    rig.while_asked = lambda: rig.thread.submit(lambda: found.append(rig.thread.group_metadata([entry(A, 3)])))
    rig.rebalance("on_revoke", A)
    assert found == [naming("me")()]
    assert rig.thread.group_metadata([entry(A, 3)]) is None


async def test_of_the_real_client(embedded_broker: EmbeddedBroker) -> None:
    """The real client's metadata holds its name, as this relies on."""
    with trio.fail_after(PATIENCE):
        async with open_kafka_client(configured(embedded_broker), []) as client:
            await client.connect()
            client.subscribe(["orders"])
            event = await client.next_event()
            assert isinstance(event, Assigned)
            event.reply(dict.fromkeys(event.partitions, StartAt(0, 7)))
            partition = event.partitions[0]
            assert await client.group_metadata([entry(partition, 6)]) is None
            while (metadata := await client.group_metadata([entry(partition, 7)])) is None:
                await trio.sleep(0.01)
            consumer: Consumer = client._thread.consumer
            assert consumer.memberid().encode() in metadata  # type: ignore[operator]  # it is bytes
