"""Charge orders by a payment service that is away now and then, for an hour at times.

An order is JSON with the fields ``id`` and ``cents``. One that isn't, and one that the service refuses, goes to the
topic ``<topic>.dlt``. While the service is away, orders are tried again, each customer's in their order, at growing
intervals for as long as it takes. The configuration comes from the environment: KAFKA_BOOTSTRAP_SERVERS,
KAFKA_CONSUMER_GROUP, KAFKA_TOPICS and PARALLEL_CONSUMER_<FIELD>, see ``ConsumerConfig.from_env``.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs
import trio

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetter,
    ParallelConsumer,
    Record,
    RetryPolicy,
    parallel_consumer,
)


class PaymentRefusedError(Exception):
    """The service says no, and will say so again."""


class PaymentService(Protocol):
    """Whoever takes the money."""

    async def charge(self, order: int, cents: int) -> None:
        """Charge an order, once, however often it is asked to.

        Raises:
            PaymentRefusedError: there is nothing to be had.
            OSError: the service can't be reached.
        """


class PrintedPayments:
    """Stands in for the client of a real service."""

    async def charge(self, order: int, cents: int) -> None:
        """Take the money."""
        await trio.sleep(0.005)
        print(f"charged {cents} cents for order {order}", flush=True)


def with_patience(config: ConsumerConfig) -> ConsumerConfig:
    """How failures are dealt with is this program's own affair."""
    return attrs.evolve(
        config,
        commit_interval=5.0,
        handler_timeout=10.0,
        retry=RetryPolicy(
            max_attempts=None, initial_backoff=1.0, max_backoff=300.0, retry_on=(OSError, trio.TooSlowError)
        ),
        on_failure="dead_letter",
    )


def charging(service: PaymentService) -> Callable[[Record], Awaitable[None]]:
    """Make the handler."""

    async def charge(record: Record) -> None:
        try:
            order = json.loads(record.value or b"")
            number, cents = int(order["id"]), int(order["cents"])
        except (ValueError, LookupError, TypeError) as error:
            raise DeadLetter("not an order") from error
        try:
            await service.charge(number, cents)
        except PaymentRefusedError as error:
            raise DeadLetter("refused") from error

    return charge


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main(service: PaymentService) -> None:
    """Run until stopped."""
    config = with_patience(ConsumerConfig.from_env())
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, pc)
        await pc.run(charging(service))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, PrintedPayments())
