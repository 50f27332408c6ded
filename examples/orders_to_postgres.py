"""Store orders in PostgreSQL, and what each customer has spent; each order counts once, however often it is read.

An order is JSON with the fields ``customer`` and ``cents``. What isn't an order goes to the topic ``<topic>.dlt``,
which has to be there. libpq finds the database by its own variables::

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 KAFKA_CONSUMER_GROUP=billing KAFKA_TOPICS=orders \
        PGHOST=localhost PGDATABASE=billing PGUSER=billing PGPASSWORD=... \
        python examples/orders_to_postgres.py

A record's topic, partition and offset never change, so they are the primary key. After a crash, records come again that
were stored, but not yet committed; their rows are there already, and nothing is added.
"""

from __future__ import annotations

import argparse
import json
import signal
from functools import partial

import attrs
import psycopg
import trio
from psycopg_pool import ConnectionPool

from trio_parallel_kafka import (
    ConsumerConfig,
    DeadLetter,
    DeadLetterConfig,
    ParallelConsumer,
    Record,
    RetryPolicy,
    parallel_consumer,
)

TABLES = """
    CREATE TABLE IF NOT EXISTS orders (
        topic text, partition integer, "offset" bigint, customer text NOT NULL, cents bigint NOT NULL,
        PRIMARY KEY (topic, partition, "offset")
    );
    CREATE TABLE IF NOT EXISTS customers (customer text PRIMARY KEY, spent bigint NOT NULL);
"""

# Only what is new in the first table is added to the second.
STORE = """
    WITH stored AS (
        INSERT INTO orders VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING customer, cents
    )
    INSERT INTO customers SELECT customer, cents FROM stored
    ON CONFLICT (customer) DO UPDATE SET spent = customers.spent + excluded.spent
"""

Row = tuple[str, int, int, str, int]


def configuration(connections: int) -> ConsumerConfig:
    """Where to read comes from the environment; how failures are dealt with is this program's own affair."""
    return attrs.evolve(
        ConsumerConfig.from_env(),
        max_concurrency=connections,  # a batch for each connection
        # A database that is away is nobody's fault: however long it takes, the orders wait for it.
        retry=RetryPolicy(max_attempts=None, retry_on=psycopg.OperationalError),
        dead_letter=DeadLetterConfig(),
    )


class Database:
    """psycopg waits with asyncio or in a thread; under Trio it is threads.

    They have a limiter of their own: whatever else the program does in threads doesn't wait for a slow database.
    """

    def __init__(self, pool: ConnectionPool, connections: int) -> None:
        self._pool = pool
        self._limiter = trio.CapacityLimiter(connections)

    async def create_tables(self) -> None:
        """Make the tables unless they are there."""
        await trio.to_thread.run_sync(self._create_tables, limiter=self._limiter)

    async def store(self, rows: list[Row]) -> None:
        """Store all rows in one transaction, but those that are there."""
        await trio.to_thread.run_sync(self._store, rows, limiter=self._limiter)

    def _create_tables(self) -> None:
        with self._pool.connection() as connection:
            connection.execute(TABLES)

    def _store(self, rows: list[Row]) -> None:
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(STORE, rows)


def row_of(record: Record) -> Row:
    """Make a row of a record; raises if it isn't an order."""
    order = json.loads(record.value or b"")
    return record.topic, record.partition, record.offset, str(order["customer"]), int(order["cents"])


async def store_batch(database: Database, records: tuple[Record, ...]) -> list[DeadLetter | None]:
    """Store the orders among the records, and say which of them are none."""
    rows: list[Row] = []
    outcomes: list[DeadLetter | None] = []
    for record in records:
        try:
            rows.append(row_of(record))
            outcomes.append(None)
        except (ValueError, KeyError, TypeError) as error:
            outcomes.append(DeadLetter(f"not an order: {error!r}"))
    await database.store(rows)
    return outcomes


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main(connections: int, batch_size: int) -> None:
    """Run until stopped."""
    # The server ends a statement that hangs, and so the thread that waits for it.
    options = {"options": "-c statement_timeout=30s"}
    with ConnectionPool(min_size=1, max_size=connections, kwargs=options) as pool:
        database = Database(pool, connections)
        await database.create_tables()
        async with parallel_consumer(configuration(connections)) as pc, trio.open_nursery() as nursery:
            await nursery.start(stop_on_signal, pc)
            await pc.run_batches(partial(store_batch, database), max_size=batch_size, linger=0.05)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=4, help="to the database (default 4)")
    parser.add_argument("--batch-size", type=int, default=200, help="orders in a transaction at most (default 200)")
    arguments = parser.parse_args()
    trio.run(main, arguments.connections, arguments.batch_size)
