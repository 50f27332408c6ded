"""Has the client go on reading an assigned partition at another offset."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError as ClientError, KafkaException, TopicPartition as ClientPartition

from trio_parallel_kafka.core.assignments import TopicPartition


def read_from_begin(
    consumer: Consumer, partition: TopicPartition, begins: Mapping[TopicPartition, int], *, is_incremental: bool
) -> None:
    """Read a partition from where ``begins`` says.

    A client that finds the log without the offset that is next reports that, gives the partition up and refuses to
    seek in it: then only assigning it once more helps. Whether it is paused stays as it is.

    Args:
        consumer: owns the partition.
        partition: which.
        begins: for every partition owned, where its reading was last told to begin.
        is_incremental: whether assignments change by increments, not as a whole.

    Raises:
        KafkaException: the client refused.
    """
    place = ClientPartition(*partition, begins[partition])
    try:
        consumer.seek(place)
    except KafkaException as error:
        if error.args[0].code() != ClientError._STATE:  # noqa: SLF001 - the client's name for it
            raise
        if is_incremental:
            consumer.incremental_unassign([place])
            consumer.incremental_assign([place])
        else:
            consumer.assign([place, *_positions(consumer, {tp: begins[tp] for tp in begins if tp != partition})])


def _positions(consumer: Consumer, begins: Mapping[TopicPartition, int]) -> list[ClientPartition]:
    """Where reading stands; the client knows it only once it has returned a message since it was told."""
    positions = consumer.position([ClientPartition(*partition) for partition in begins])
    return [
        ClientPartition(each.topic, each.partition, each.offset)
        if each.offset >= 0
        else ClientPartition(each.topic, each.partition, begins[TopicPartition(each.topic, each.partition)])
        for each in positions
    ]
