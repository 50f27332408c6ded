"""Where the reading of a partition starts.

Position and map come from one answer of the broker, and reading starts at that position: two look-ups could
disagree, and the next commit would then erase the map.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final, Literal

import attrs

from trio_parallel_kafka.control.client import Client, Committed
from trio_parallel_kafka.control.zstd import zstd_decompressor
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.metadata import ReadMap, read_metadata
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.errors import KafkaError, OffsetResetError
from trio_parallel_kafka.failures import FINAL, as_error, final_error

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.positions")

ResetPolicy = Literal["earliest", "latest", "none"]


@attrs.frozen
class Start:
    """Where one partition starts.

    Attributes:
        position: the first offset to read.
        completed: what is completed above it.
        topic_id: the topic's id, if it is to be had.
        committed: what the broker holds (offset and metadata), or ``None`` if it has to be committed anew.
        lost: offsets that the broker deleted before they were read.
        goes_on: it is the log that was read before; what was read of it still counts.
    """

    position: int
    completed: OffsetRanges = ()
    topic_id: bytes | None = None
    committed: tuple[int, str] | None = None
    lost: int = 0
    goes_on: bool = False


class Positions:
    """Decides where partitions start.

    Args:
        client: asked for what it takes.
        policy: where to start without a usable committed offset.
    """

    def __init__(self, client: Client, policy: ResetPolicy) -> None:
        self._client: Final = client
        self._policy: Final = policy
        self._new_at_join: frozenset[TopicPartition] = frozenset()

    async def prepare(self) -> None:
        """Before joining with ``"latest"``: find out which partitions are new to the group.

        ``"latest"`` skips what stands in a partition when the group first meets its topic. A partition that is
        added later is read from its start, or the records written to it before its first assignment were lost.

        Raises:
            KafkaError: the broker didn't answer in time.
        """
        if self._policy != "latest":
            return
        counts = await self._client.partition_counts()
        partitions = [TopicPartition(topic, n) for topic, count in counts.items() for n in range(count)]
        held = await self._client.committed(partitions)
        for partition, each in held.items():
            if each.error is not None:  # a guess would skip what is there, or read all of it
                raise as_error(each.error, "can't tell which partitions are new to the group", partition)
        known = {partition.topic for partition, each in held.items() if each.offset is not None}
        self._new_at_join = frozenset(each for each in partitions if each.topic not in known)

    async def resolve(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Start]:
        """Find the starts of those partitions for which the broker answers; the rest is to be tried again.

        Raises:
            OffsetResetError: nothing usable is committed, and the policy is ``"none"``.
            AuthorizationError: an ACL is missing.
        """
        held = await self._client.committed(partitions)
        ids = await self._client.topic_ids({partition.topic for partition in partitions})
        starts = {}
        for partition in partitions:
            committed = held[partition]
            if committed.error is not None:
                final = final_error(committed.error, partition)
                if final is not None:
                    raise final
                logger.warning("the committed offset of %s isn't to be had yet: %s", partition, committed.error)
                continue
            try:
                starts[partition] = await self._start(partition, committed, ids.get(partition.topic))
            except FINAL:
                raise
            except KafkaError as error:
                logger.warning("where to start %s isn't to be had yet: %s", partition, error)
        return starts

    async def reset(
        self, partition: TopicPartition, next_offset: int, *, incomplete_from: int, topic_id: bytes | None
    ) -> Start:
        """Find where to go on in a partition whose log may not hold what is to be read next.

        Args:
            partition: which.
            next_offset: what is to be read next.
            incomplete_from: the lowest offset that isn't completed.
            topic_id: the id of the topic that was read so far.

        Raises:
            OffsetResetError: the policy is ``"none"``.
            KafkaError: the broker didn't answer in time.
        """
        first, end = await self._client.offset_range(partition)
        found_id = (await self._client.topic_ids([partition.topic])).get(partition.topic)
        is_another = found_id is not None and topic_id is not None and found_id != topic_id
        if first <= next_offset <= end and not is_another:
            return Start(next_offset, goes_on=True)
        if self._policy == "none":
            message = (
                f"offset {next_offset} of {partition} isn't there: the log holds {first} to {end} (exclusive), and "
                "auto_offset_reset is 'none'. Set the group's offset, or choose 'earliest' or 'latest'"
            )
            raise OffsetResetError(message, topic=partition.topic, partition=partition.partition, offset=next_offset)
        if next_offset < first and not is_another:
            logger.error(
                "%s: %d offsets from %d on were deleted by the broker before they were read; going on at %d",
                partition,
                first - next_offset,
                next_offset,
                first,
            )
            return Start(first, lost=first - next_offset, goes_on=True)
        # Of a truncated log, what stands below its end and was incomplete is still to be handled.
        start = first if is_another or self._policy == "earliest" else max(first, min(incomplete_from, end))
        logger.error(
            "%s: the log ends at %d, offset %d was to be read next: %s; starting again at %d",
            partition,
            end,
            next_offset,
            "the topic was deleted and made again" if is_another else "it was truncated",
            start,
        )
        return Start(start, topic_id=found_id)

    async def _start(self, partition: TopicPartition, committed: Committed, topic_id: bytes | None) -> Start:
        if committed.offset is None:
            return await self._start_of_new(partition, topic_id)
        found = await self._read(partition, committed.offset, committed.metadata)
        if found.topic_id is not None and topic_id is not None and found.topic_id != topic_id:
            first, _ = await self._client.offset_range(partition)
            logger.error(
                "%s: the committed offset %d is of a topic that was deleted; this one was made anew, and is read "
                "from offset %d",
                partition,
                committed.offset,
                first,
            )
            return Start(first, topic_id=topic_id)
        return Start(
            committed.offset,
            found.completed,
            topic_id,
            committed=(committed.offset, committed.metadata or ""),
        )

    async def _start_of_new(self, partition: TopicPartition, topic_id: bytes | None) -> Start:
        if self._policy == "none":
            message = (
                f"nothing is committed for {partition}, and auto_offset_reset is 'none'. Set the group's offset, or "
                "choose 'earliest' or 'latest'"
            )
            raise OffsetResetError(message, topic=partition.topic, partition=partition.partition)
        first, end = await self._client.offset_range(partition)
        return Start(end if partition in self._new_at_join else first, topic_id=topic_id)

    async def _read(self, partition: TopicPartition, offset: int, metadata: str | None) -> ReadMap:
        if metadata is None:
            found = ReadMap(warning="commit metadata ignored: it isn't text")
        else:
            found = read_metadata(metadata, offset, zstd=zstd_decompressor())
        if found.completed and found.source != "own":
            _, end = await self._client.offset_range(partition)
            if found.completed[-1][1] > end:
                found = ReadMap(warning=f"commit metadata ({found.source}) ignored: it goes beyond the log's end")
        if found.warning is not None:
            logger.warning(
                "%s at offset %d: %s; what completed above it is handled again",
                partition,
                offset,
                found.warning,
            )
        return found
