"""Enrich orders with what an HTTP service knows of their customers.

An order is JSON with the field ``customer``. What the service answers to ``GET /customers/<customer>``, JSON too, goes
on with the order to another topic. Orders that the service refuses, or that are none, go to the topic
``<topic>.dlt``, which has to be there::

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 KAFKA_CONSUMER_GROUP=enrichment KAFKA_TOPICS=orders \
        python examples/enrichment.py --service http://localhost:8000 --output orders.enriched

An order is done once the broker has acknowledged its result. After a crash some results may come a second time; the
example ``exactly_once.py`` prevents that.
"""

from __future__ import annotations

import argparse
import json
import signal
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

import attrs
import httpx2
import trio

from trio_parallel_kafka import (
    BreakerPolicy,
    ConsumerConfig,
    DeadLetter,
    ParallelConsumer,
    ProducerRecord,
    Record,
    RetryPolicy,
    parallel_consumer,
)

PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
"""Answers that blame the client, and yet may be better next time."""


def configuration() -> ConsumerConfig:
    """Where to read comes from the environment; how failures are dealt with is this program's own affair."""
    return attrs.evolve(
        ConsumerConfig.from_env(),
        # A service that is busy or restarts: the order waits, those of other customers go on.
        retry=RetryPolicy(max_attempts=10, max_backoff=10.0, retry_on=(httpx2.HTTPError, trio.TooSlowError)),
        # A service that is down: no order uses up its attempts meanwhile.
        breaker=BreakerPolicy(probe_interval=1.0),
        handler_timeout=30.0,
        on_failure="dead_letter",
    )


def open_client(service: str, patience: float, config: ConsumerConfig) -> httpx2.AsyncClient:
    """Make a client for all handlers: they share its connections, of which there are as many as handlers."""
    return httpx2.AsyncClient(
        base_url=service,
        timeout=patience,
        limits=httpx2.Limits(max_connections=config.max_concurrency, max_keepalive_connections=config.max_concurrency),
    )


async def enrich(client: httpx2.AsyncClient, output: str, record: Record) -> ProducerRecord:
    """Ask the service, and return what is to be sent."""
    try:
        order = json.loads(record.value or b"")
        customer = quote(order["customer"], safe="")
    except (ValueError, KeyError, TypeError) as error:
        raise DeadLetter("not an order") from error
    response = await client.get(f"/customers/{customer}")
    if response.is_client_error and response.status_code not in PASSING:
        raise DeadLetter(f"the service answered {response.status_code}")  # as it would next time
    response.raise_for_status()
    return ProducerRecord(output, json.dumps({**order, "customer": response.json()}), key=record.key)


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main(service: str, patience: float, output: str) -> None:
    """Run until stopped."""
    config = configuration()
    async with (
        open_client(service, patience, config) as client,
        parallel_consumer(config) as pc,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(stop_on_signal, pc)
        await pc.run(partial(enrich, client, output))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", required=True, help="where the HTTP service is")
    parser.add_argument("--output", required=True, help="topic for the enriched orders")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds to wait for an answer (default 5)")
    arguments = parser.parse_args()
    trio.run(main, arguments.service, arguments.patience, arguments.output)
