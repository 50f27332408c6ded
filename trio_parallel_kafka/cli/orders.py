"""The orders that the demonstration produces and handles."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final, Self

import attrs

from trio_parallel_kafka.cli.arguments import WorkTime
from trio_parallel_kafka.record import Record

SEED: Final = 20_000
"""Every run of the same size does the same work, so that runs can be compared."""


@attrs.frozen
class Order:
    """An order of a customer.

    Attributes:
        number: counted from 1, in the order of production.
        customer: who ordered; the record's key.
        partition: where the customer's orders are.
        work: seconds that it takes to handle.
    """

    number: int
    customer: str
    partition: int
    work: float

    @property
    def key(self) -> bytes:
        """The record's key."""
        return self.customer.encode()

    @property
    def value(self) -> bytes:
        """The record's value."""
        return json.dumps({"order": self.number, "work_ms": self.work * 1000}).encode()

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Read an order back."""
        value = json.loads(record.value or b"")
        return cls(value["order"], (record.key or b"").decode(), record.partition, value["work_ms"] / 1000)


@attrs.frozen
class Workload:
    """All orders of a run."""

    orders: Sequence[Order]
    customers: int
    partitions: int
    work_time: WorkTime

    @classmethod
    def make(cls, *, records: int, keys: int, partitions: int, work_time: WorkTime) -> Self:
        """Draw the orders: as many for each customer, in random order.

        Customers are dealt out to the partitions, so that each partition has its share whatever the names hash to.
        """
        chance = random.Random(SEED)  # noqa: S311 - no secret hangs on it
        customers = [number % keys for number in range(records)]
        chance.shuffle(customers)
        orders = [
            Order(
                number=number,
                customer=f"customer-{customer + 1:03}",
                partition=customer % partitions,
                # In whole microseconds: a value stays short.
                work=round(chance.uniform(work_time.shortest, work_time.longest), 6),
            )
            for number, customer in enumerate(customers, start=1)
        ]
        return cls(orders, min(keys, records), partitions, work_time)

    @property
    def total_work(self) -> float:
        """Seconds that the work takes when it is done one order at a time."""
        return sum(order.work for order in self.orders)

    def count_by_partition(self) -> Counter[int]:
        """How many orders each partition has."""
        return Counter(order.partition for order in self.orders)

    def __str__(self) -> str:
        return (
            f"{len(self.orders):,} orders of {self.customers:,} customers in {self.partitions:,} partitions, "
            f"{self.work_time} of work each"
        )
