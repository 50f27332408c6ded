"""Charging orders: hours of trouble, in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from payments import PaymentRefusedError, charging, main, with_patience

from trio_parallel_kafka import ConsumerConfig, parallel_consumer
from trio_parallel_kafka.testing import AtLeastOnce, KeyOrder, KeySerial, OneOwner, SimulatedBroker, SimulatedProcess

HOUR = 3600.0
CONFIG = with_patience(ConsumerConfig(bootstrap_servers="kafka:9092", group_id="payments", topics=["orders"]))


class FlakyService:
    """Answers in 50 ms, but hangs for the first minute, and is away for the rest of an hour.

    Attributes:
        charged: the orders, as they were charged.
        asked: how often it was.
    """

    def __init__(self) -> None:
        self.charged: list[int] = []
        self.asked = 0

    async def charge(self, order: int, cents: int) -> None:
        """Charge, or don't."""
        self.asked += 1
        if trio.current_time() < 60:
            await trio.sleep_forever()
        if trio.current_time() < HOUR:
            raise ConnectionRefusedError
        await trio.sleep(0.05)
        if cents > 10_000:
            raise PaymentRefusedError
        self.charged.append(order)


@pytest.fixture
def orders(simulated_broker: SimulatedBroker) -> SimulatedBroker:
    """A broker with 60 orders of 10 customers."""
    simulated_broker.create_topic("orders", 4)
    simulated_broker.create_topic("orders.dlt")
    for number in range(60):
        simulated_broker.produce("orders", order(number), key=f"customer-{number % 10}")
    return simulated_broker


def order(number: int, cents: int = 100) -> str:
    """An order as it is written."""
    return json.dumps({"id": number, "cents": cents})


async def until_all_are_handled(broker: SimulatedBroker) -> None:
    """Wait, for a day at most."""
    with trio.fail_after(24 * HOUR):
        while broker.lag("payments", "orders"):
            await trio.sleep(10)


@asynccontextmanager
async def charging_with(service: FlakyService) -> AsyncIterator[None]:
    """Consume for the length of the block."""
    async with parallel_consumer(CONFIG) as pc, trio.open_nursery() as nursery:
        nursery.start_soon(pc.run, charging(service))
        yield
        pc.stop()


async def test_an_hour_without_the_service(orders: SimulatedBroker, autojump_clock: trio.abc.Clock) -> None:
    """Orders wait for it, and each is charged once it is back, those of a customer in their order."""
    service = FlakyService()
    async with charging_with(service):
        await until_all_are_handled(orders)
    assert HOUR <= trio.current_time() < HOUR + 500
    for customer in range(10):
        of_one = [number for number in service.charged if number % 10 == customer]
        assert of_one == list(range(customer, 60, 10))
    assert service.asked < 500
    assert orders.records("orders.dlt") == []


async def test_what_is_put_aside(orders: SimulatedBroker, autojump_clock: trio.abc.Clock) -> None:
    """What is no order, and what the service refuses, doesn't stop its customer's next; why is written on it."""
    refused = [b"not JSON", b'{"id": 7}', order(1_000, cents=20_000).encode()]
    for value in refused:
        orders.produce("orders", value, key="customer-7")
    orders.produce("orders", order(2_007), key="customer-7")
    service = FlakyService()
    async with charging_with(service):
        await until_all_are_handled(orders)
    assert [number for number in service.charged if number % 10 == 7][-1] == 2_007
    dead_letters = orders.records("orders.dlt")
    assert [each.value for each in dead_letters] == refused
    reasons = [dict(each.headers)["kafka_dlt-reason"] or b"" for each in dead_letters]
    assert [reason.split(b":")[-1].strip() for reason in reasons] == [b"not an order", b"not an order", b"refused"]


@pytest.mark.seeds(3)
async def test_members_come_and_die(orders: SimulatedBroker, autojump_clock: trio.abc.Clock) -> None:
    """Whoever dies on the way: no order is lost, and no two of a customer are in work at once."""
    service, history = FlakyService(), orders.history

    async def member(name: str) -> None:
        config = attrs.evolve(CONFIG, kafka={"client.id": name})
        async with parallel_consumer(config) as pc:
            await pc.run(history.watch(charging(service), name, config=config))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            process = SimulatedProcess()
            nursery.start_soon(process.run, member, f"doomed-{number}")
            await trio.sleep(HOUR / 3)
            process.kill()
        nursery.start_soon(member, "last")
        await until_all_are_handled(orders)
        nursery.cancel_scope.cancel()
    assert set(service.charged) == set(range(60))
    for guarantee in (AtLeastOnce, KeyOrder, KeySerial, OneOwner):
        guarantee(history).check()


async def test_the_program(
    orders: SimulatedBroker, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it, as it is started: configured by the environment."""
    for name, value in (
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092"),
        ("KAFKA_CONSUMER_GROUP", "payments"),
        ("KAFKA_TOPICS", "orders"),
    ):
        monkeypatch.setenv(name, value)
    service = FlakyService()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(main, service)
        await until_all_are_handled(orders)
        nursery.cancel_scope.cancel()
    assert sorted(service.charged) == list(range(60))
