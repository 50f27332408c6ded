"""Handle payments; those that can't be handled go to the dead letters, and the others go on.

A payment is JSON with the fields ``id`` and ``currency``. The topic ``<topic>.dlt`` has to be there::

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 KAFKA_CONSUMER_GROUP=payments KAFKA_TOPICS=payments \
        python examples/dead_letters.py --currencies EUR

Once the cause is mended (``--currencies EUR USD``), ``replay_dead_letters.py`` brings them back.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Collection
from functools import partial

import attrs
import trio

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, Record, RetryPolicy, parallel_consumer


class UnknownCurrencyError(ValueError):
    """A payment is in a currency that isn't known here."""


def configuration() -> ConsumerConfig:
    """Where to read comes from the environment; how failures are dealt with is this program's own affair."""
    return attrs.evolve(
        ConsumerConfig.from_env(),
        retry=RetryPolicy(max_attempts=5, retry_on=OSError),  # what is wrong with a payment stays wrong
        on_failure="dead_letter",
    )


async def pay(currencies: Collection[str], record: Record) -> None:
    """Handle one payment; any exception is told by its dead letter."""
    payment = json.loads(record.value or b"")
    if payment["currency"] not in currencies:
        raise UnknownCurrencyError(payment["currency"])
    print(f"paid {payment['id']}", flush=True)  # stands in for what awaits a service or a database


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main(currencies: Collection[str]) -> None:
    """Run until stopped."""
    async with parallel_consumer(configuration()) as pc, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, pc)
        await pc.run(partial(pay, currencies))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--currencies", nargs="+", required=True, help="the currencies that are known")
    trio.run(main, parser.parse_args().currencies)
