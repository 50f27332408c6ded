"""Bring dead letters back to where they came from, once each, and end.

It reads the dead letters that are there when it starts, and sends each to its original topic and partition, as it was.
What fails again becomes a new dead letter, for the next time::

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 KAFKA_CONSUMER_GROUP=replay KAFKA_TOPICS=payments.dlt \
        python examples/replay_dead_letters.py --transactional-id replay

The group remembers what was brought back. Record and offset go into one transaction: interrupt or kill it, run it
again, and it goes on where it stood. The order of a key is kept among what is brought back; but later records of that
key have been handled meanwhile. Whether that matters is for you to say.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping

import attrs
import trio
from confluent_kafka import Consumer, TopicPartition

from trio_parallel_kafka import ConsumerConfig, ParallelConsumer, ProducerRecord, Record, parallel_consumer

Place = tuple[str, int]


def configuration(transactional_id: str) -> ConsumerConfig:
    """Where to read comes from the environment; that nothing is brought back twice is this program's own affair."""
    return attrs.evolve(ConsumerConfig.from_env(), delivery="exactly_once", transactional_id=transactional_id)


async def bring_back(dead_letter: Record) -> ProducerRecord:
    """Make the original record of a dead letter: all but the headers that tell of its failure."""
    headers = dict(dead_letter.headers)
    return ProducerRecord(
        (headers["kafka_dlt-original-topic"] or b"").decode(),
        dead_letter.value,
        key=dead_letter.key,
        headers=[header for header in dead_letter.headers if not is_about_the_failure(header[0])],
        partition=int.from_bytes(headers["kafka_dlt-original-partition"] or b"", "big"),
        timestamp=dead_letter.timestamp,
    )


def is_about_the_failure(header: str) -> bool:
    """Tell what a dead letter has more than its original."""
    return header.startswith("kafka_dlt-") or header == "kafka_deliveryAttempt"


def find_ends(config: ConsumerConfig) -> dict[Place, int]:
    """Ask where the dead letters end now, by partition."""
    connection = {**config.kafka, "bootstrap.servers": config.bootstrap_servers, "group.id": config.group_id}
    client = Consumer(connection)  # it doesn't subscribe, so it doesn't join the group
    try:
        known = client.list_topics(timeout=config.connect_timeout).topics
        places = [(topic, partition) for topic in config.topics for partition in known[topic].partitions]
        return {place: client.get_watermark_offsets(TopicPartition(*place), timeout=10)[1] for place in places}
    finally:
        client.close()


def has_reached(ends: Mapping[Place, int], pc: ParallelConsumer) -> bool:
    """Tell whether all that was there is done."""
    positions = {(each.topic, each.partition): each.position or 0 for each in pc.statistics().partitions}
    return all(positions.get(place, 0) >= end for place, end in ends.items())


async def stop_at(ends: Mapping[Place, int], pc: ParallelConsumer) -> None:
    """Stop once all that was there is done."""
    while not has_reached(ends, pc):  # noqa: ASYNC110 - no event tells of positions
        await trio.sleep(0.2)
    pc.stop()


async def stop_on_signal(pc: ParallelConsumer, *, task_status: trio.TaskStatus[None]) -> None:
    """Drain on the first signal."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            pc.stop()


async def main(transactional_id: str) -> None:
    """Run until all is brought back, or stopped."""
    config = configuration(transactional_id)
    ends = await trio.to_thread.run_sync(find_ends, config)
    async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, pc)
        nursery.start_soon(stop_at, ends, pc)
        await pc.run(bring_back)
        nursery.cancel_scope.cancel()
    print(f"brought back {pc.statistics().totals.completed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactional-id", required=True, help="the same whenever this group is run")
    trio.run(main, parser.parse_args().transactional_id)
