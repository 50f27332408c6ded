"""Make an invoice of each order, exactly once: consume, process, produce.

An order is JSON with the fields ``id`` and ``net``. Its invoice goes to another topic::

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 KAFKA_CONSUMER_GROUP=invoices KAFKA_TOPICS=orders \
        python examples/exactly_once.py --output invoices --transactional-id invoices-0

Invoices and the offsets of their orders go into one transaction. Whatever is killed, whoever reads ``invoices`` with
``isolation.level=read_committed`` sees each invoice once, those of one customer (the key) in order. That goes for what
is written to Kafka: a mail that a handler sends may be sent again.
"""

from __future__ import annotations

import argparse
import json
import signal
from functools import partial

import attrs
import trio

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, ProducerRecord, Record, parallel_consumer

VAT = 20  # per cent


def configuration(transactional_id: str) -> ConsumerConfig:
    """Where to read comes from the environment; that nothing comes twice is this program's own affair."""
    return attrs.evolve(ConsumerConfig.from_env(), delivery="exactly_once", transactional_id=transactional_id)


async def invoice(output: str, record: Record) -> ProducerRecord:
    """Make the invoice of an order."""
    order = json.loads(record.value or b"")
    await trio.sleep(0.005)  # stands in for asking a service or a database
    gross = order["net"] * (100 + VAT) // 100
    return ProducerRecord(output, json.dumps({"order": order["id"], "gross": gross}), key=record.key)


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main(output: str, transactional_id: str) -> None:
    """Run until stopped."""
    async with parallel_consumer(configuration(transactional_id)) as pc, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, pc)
        await pc.run(partial(invoice, output))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="topic for the invoices")
    # A name of the machine or of a StatefulSet's pod will do: who comes later with the same shuts out who was there.
    parser.add_argument(
        "--transactional-id", required=True, help="the same after a restart, and different for each process"
    )
    arguments = parser.parse_args()
    trio.run(main, arguments.output, arguments.transactional_id)
