"""Has the client go on reading an assigned partition at another offset."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError as ClientError, KafkaException, TopicPartition as ClientPartition

from trio_parallel_kafka.core.assignments import TopicPartition


def read_on(
    consumer: Consumer, partition: TopicPartition, next_offsets: Mapping[TopicPartition, int], *, is_incremental: bool
) -> None:
    """Read a partition from its offset in ``next_offsets`` on.

    A client that finds the log without the offset that is next reports that, gives the partition up and refuses to
    seek in it: then only assigning it once more helps. Whether it is paused stays as it is.

    Args:
        consumer: owns the partition.
        partition: which.
        next_offsets: for every partition owned, what the client has to return next.
        is_incremental: whether assignments change by increments, not as a whole.

    Raises:
        KafkaException: the client refused.
    """
    place = ClientPartition(*partition, next_offsets[partition])
    try:
        consumer.seek(place)
    except KafkaException as error:
        if error.args[0].code() != ClientError._STATE:  # noqa: SLF001 - the client's name for it
            raise
        if is_incremental:
            consumer.incremental_unassign([place])
            consumer.incremental_assign([place])
        else:
            consumer.assign([ClientPartition(*each, offset) for each, offset in next_offsets.items()])
