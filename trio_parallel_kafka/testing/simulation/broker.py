"""A Kafka cluster in the test's own memory and in virtual time."""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import Final, TypeVar, cast

import trio
from confluent_kafka import KafkaError as ClientError

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.config.producer import ProducerConfig
from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.cluster import Cluster, current_cluster
from trio_parallel_kafka.control.dead_letters import ORIGINAL_OFFSET
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.errors import ParallelKafkaError
from trio_parallel_kafka.failures import is_only, leave_block
from trio_parallel_kafka.produced import ProducerRecord, RecordMetadata
from trio_parallel_kafka.producing.encoding import Encoder
from trio_parallel_kafka.producing.port import Sends
from trio_parallel_kafka.record import Record, wrap
from trio_parallel_kafka.serialization import never_in_threads
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.simulation.client import SimulatedClient, open_simulated_client
from trio_parallel_kafka.testing.simulation.group import Group, GroupMember
from trio_parallel_kafka.testing.simulation.log import Log
from trio_parallel_kafka.testing.simulation.network import APIS, Network, checked
from trio_parallel_kafka.testing.simulation.process import Killable, current_process
from trio_parallel_kafka.testing.simulation.sender import SimulatedSender
from trio_parallel_kafka.testing.simulation.transactions import Coordinator, SimulatedTransactions

MAX_MESSAGE_BYTES: Final = 1_048_588
"""What a broker takes by default (``message.max.bytes``)."""

CONSUMER_SESSION_TIMEOUT: Final = 45.0
"""Seconds; what a broker has by default (``group.consumer.session.timeout.ms``)."""

C = TypeVar("C", bound=Killable)
StartSoon = Callable[..., None]


class SimulatedBroker:
    """A cluster of one broker; made by :func:`open_simulated_broker`.

    Topics have to be created. Names of requests, where they are asked for, are Kafka's: those in
    :data:`~trio_parallel_kafka.testing.simulation.network.APIS`.

    Args:
        start_soon: starts the tasks of its groups.
        history: where it is noted what happens.

    Attributes:
        bootstrap_servers: an address for configurations, which have to name one; any other does as well.
        history: the same.
        logs: the partitions, as they are.
        is_open: whether its block hasn't ended.
        max_message_bytes: of a record's key and value together.
        consumer_session_timeout: seconds without a sign of life after which a member of the consumer protocol is taken
            for dead; with the others, that is the member's ``session.timeout.ms``.
    """

    def __init__(self, start_soon: StartSoon, history: History) -> None:
        self.bootstrap_servers: Final = "simulated:9092"
        self.history: Final = history
        self.logs: Final[dict[TopicPartition, Log]] = {}
        self.topic_ids: dict[str, bytes] = {}
        self.network: Final = Network()
        self.transactions: Final = Coordinator(self)
        self.is_open: bool = True
        self.max_message_bytes: int = MAX_MESSAGE_BYTES
        self.consumer_session_timeout: float = CONSUMER_SESSION_TIMEOUT
        self._start_soon: Final = start_soon
        self._groups: Final[dict[str, Group]] = {}
        self._clients: Final[list[SimulatedClient]] = []
        self._ids: Final = itertools.count(1)
        self._keyless: Final = itertools.count()
        self._encoder: Final = Encoder(None, None)
        self._outages = 0

    # Topics

    @property
    def partition_counts(self) -> Mapping[str, int]:
        """The topics, and how many partitions each has."""
        return Counter(partition.topic for partition in self.logs)

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic, or give it more partitions.

        Raises:
            ValueError: it has as many partitions already.
        """
        present = self.partition_counts[name]
        if partitions <= present:
            raise ValueError(f"topic {name!r} is to have {partitions} partitions, and has {present}")
        self.topic_ids.setdefault(name, self._new_id())
        for number in range(present, partitions):
            place = TopicPartition(name, number)
            self.logs[place] = Log(place)
        for group in self._groups.values():
            group.rebalance()

    def recreate_topic(self, name: str) -> None:
        """Delete a topic and make it anew, empty; its consumers aren't told.

        Raises:
            KeyError: there is no such topic.
        """
        partitions = self._partitions(name)
        self.topic_ids[name] = self._new_id()
        for partition in partitions:
            self.logs[partition] = Log(partition)

    def delete_records(self, topic: str, partition: int, *, before: int) -> None:
        """Delete what is below an offset, as retention does; the history has those records as given up.

        Raises:
            KeyError: there is no such partition.
        """
        log = self.logs[TopicPartition(topic, partition)]
        self._cut(log, before, max(before, log.end))

    def truncate(self, topic: str, partition: int, *, end: int) -> None:
        """Lose what is from an offset on, as an unclean election of a leader does; else like :meth:`delete_records`."""
        log = self.logs[TopicPartition(topic, partition)]
        self._cut(log, min(log.first, end), end)

    def _cut(self, log: Log, first: int, end: int) -> None:
        for offset in log.records:
            if not first <= offset < end:
                self.history.given_up(*log.partition, offset)
        log.cut(first, end)
        self._tell()

    def _partitions(self, topic: str) -> list[TopicPartition]:
        found = [each for each in self.logs if each.topic == topic]
        if not found:
            raise KeyError(topic)
        return found

    def _new_id(self) -> bytes:
        return next(self._ids).to_bytes(16, "big")

    # Records

    def produce(
        self,
        topic: str,
        value: str | bytes | None = None,
        *,
        key: str | bytes | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int | None = None,
        timestamp: float | None = None,
    ) -> RecordMetadata:
        """Write a record at once, as another application does.

        Args:
            topic: where to; it has to exist.
            value: bytes, or text that is written as UTF-8, or ``None``: a tombstone.
            key: the same.
            headers: pairs of name and raw bytes or ``None``.
            partition: the partition; ``None``: that of the key, as librdkafka chooses it, or the next in turn.
            timestamp: seconds since 1970; ``None``: the run's time.

        Returns:
            Where it is.

        Raises:
            KeyError: there is no such partition.
        """
        given = ProducerRecord(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        record = self._encoder.encode_here(given)
        written = self._append(record)
        self.history.produced(written.topic, written.partition, written.offset, record.key)
        return written

    def records(self, topic: str, partition: int | None = None) -> list[Record]:
        """What a reader of committed records finds, by partition and offset.

        Raises:
            KeyError: there is no such topic, or no such partition.
        """
        places = self._partitions(topic) if partition is None else [TopicPartition(topic, partition)]
        return [wrap(message, 0, 0.0) for place in places for message in self.logs[place].records.values()]

    def write(self, record: ProducerRecord) -> RecordMetadata:
        """Write a record that a client has sent."""
        written = self._append(record)
        if any(name == ORIGINAL_OFFSET for name, _ in record.headers):
            self.history.dead_letter(record.headers)
        else:
            self.history.output(record.topic, record.key, record.value)
        return written

    def _append(self, record: ProducerRecord) -> RecordMetadata:
        log = self.log_for(record)
        now = trio.current_time() if record.timestamp is None else record.timestamp
        offset = log.append(record.key, record.value, record.headers, now)
        topic, partition = log.partition
        self._tell()
        return RecordMetadata(topic, partition, offset, now)

    def log_for(self, record: ProducerRecord) -> Log:
        """The partition that a record belongs in."""
        count = self.partition_counts[record.topic]
        number = record.partition
        if number is None and count:
            number = (zlib.crc32(record.key) if record.key else next(self._keyless)) % count
        return self.logs[TopicPartition(record.topic, number or 0)]

    def refusal(self, record: ProducerRecord) -> ClientError | None:
        """Why a record is never taken, if it isn't."""
        count = self.partition_counts[record.topic]
        if not count:
            return ClientError(ClientError._UNKNOWN_TOPIC)  # noqa: SLF001 - its name
        if not 0 <= (record.partition or 0) < count:
            return ClientError(ClientError._UNKNOWN_PARTITION)  # noqa: SLF001
        if len(record.key or b"") + len(record.value or b"") > self.max_message_bytes:
            return ClientError(ClientError.MSG_SIZE_TOO_LARGE)
        return None

    # Groups

    def committed(self, group_id: str) -> Mapping[tuple[str, int], tuple[int, str | None]]:
        """What a group has committed: offset and metadata, by topic and partition."""
        return MappingProxyType(self.group(group_id).offsets)  # type: ignore[arg-type]  # a pair is a pair

    def lag(self, group_id: str, topic: str) -> int:
        """How many records of a topic are at or above what a group has committed, or would begin with.

        Raises:
            KeyError: there is no such topic.
        """
        offsets = self.group(group_id).offsets
        return sum(
            offset >= offsets.get(place, (0, None))[0]
            for place in self._partitions(topic)
            for offset in self.logs[place].records
        )

    def commit(self, group_id: str, topic: str, partition: int, offset: int, metadata: str = "") -> None:
        """Set a group's offset, as an operator does.

        Raises:
            KeyError: there is no such partition.
        """
        place = self.logs[TopicPartition(topic, partition)].partition
        self.group(group_id).commit("", [(place, offset, metadata)], None)

    def members(self, group_id: str) -> Sequence[SimulatedClient]:
        """Who is in a group, in the order of joining."""
        return cast("list[SimulatedClient]", list(self.group(group_id).members))

    def expel(self, member: SimulatedClient) -> None:
        """Let a member's session end, as if nothing had been heard of it: its partitions are lost."""
        member.group.expel(member)

    def group(self, group_id: str) -> Group:
        """The group of this name; it begins empty."""
        if group_id not in self._groups:
            self._groups[group_id] = group = Group(self.matching, self.network, self.history)
            self._start_soon(group.coordinate)
        return self._groups[group_id]

    def matching(self, topics: Sequence[str]) -> list[TopicPartition]:
        """The partitions of a subscription."""
        names = {topic for topic in topics if not topic.startswith("^")}
        patterns = [re.compile(topic) for topic in topics if topic.startswith("^")]
        return [each for each in self.logs if each.topic in names or any(one.match(each.topic) for one in patterns)]

    def missing(self, topics: Sequence[str]) -> str | None:
        """The first of these topics that isn't there."""
        return next((each for each in topics if each not in self.partition_counts), None)

    # Faults

    def fail_next(self, api: str, *error_codes: int) -> None:
        """Answer the next requests of a name with errors, one error a request; 0 lets one pass.

        Raises:
            ValueError: there is no such request, or no error is named.
        """
        if not error_codes:
            raise ValueError("name at least one error code")
        self.network.errors[checked(api)] += [ClientError(code) if code else None for code in error_codes]

    def delay(self, seconds: float, *apis: str) -> None:
        """Let requests of these names, or all, take that long from now on."""
        for api in apis or APIS:
            self.network.delays[checked(api)] = seconds

    def down(self) -> None:
        """Answer nothing until :meth:`up`. A member that this lasts too long for loses its partitions."""
        self.network.down()
        self._outages += 1
        for group in self._groups.values():
            for member in group.members:
                self._start_soon(self._end_session, group, member, self._outages)

    def up(self) -> None:
        """Answer again."""
        self.network.up()
        self._tell()

    def requests(self) -> Counter[str]:
        """How many requests came, by their names."""
        return Counter(self.network.requests)

    def clear_requests(self) -> None:
        """Forget them."""
        self.network.requests.clear()

    async def _end_session(self, group: Group, member: GroupMember, outage: int) -> None:
        await trio.sleep(member.settings.session_timeout)
        if self.network.is_down and self._outages == outage:
            group.expel(member)

    # The cluster, as consumers and producers see it

    @asynccontextmanager
    async def open_client(self, config: ConsumerConfig, problems: list[ParallelKafkaError]) -> AsyncIterator[Client]:
        """See :class:`~trio_parallel_kafka.control.cluster.Cluster`."""
        name = str(config.kafka.get("client.id", f"{config.group_id}-{len(self._clients)}" if self._clients else ""))
        client = _adopted(SimulatedClient(self, config, name))
        self._clients.append(client)
        async with open_simulated_client(client, problems):
            yield client

    @asynccontextmanager
    async def open_sender(self, config: ProducerConfig) -> AsyncIterator[Sends]:
        """See :class:`~trio_parallel_kafka.control.cluster.Cluster`."""
        sender = _adopted(SimulatedSender(self, config))
        raised: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.host)
            try:
                yield sender
            except BaseException as error:  # noqa: ASYNC103, BLE001 - raised below, where no nursery wraps it
                raised = error
            finally:
                await sender.close()  # noqa: ASYNC102 - it shields and bounds itself
        problem = sender.problem()
        leave_block(raised, [problem] if problem else [])

    def transactional_producer(self, config: ConsumerConfig) -> SimulatedTransactions:
        """See :class:`~trio_parallel_kafka.control.cluster.Cluster`."""
        return _adopted(SimulatedTransactions(self.transactions, config))

    def fall_silent(self, client: SimulatedClient) -> None:
        """A member is gone without a word: its group learns of it when the session is over."""
        if self.is_open:
            self._start_soon(self._miss, client)

    async def _miss(self, client: SimulatedClient) -> None:
        await trio.sleep(client.settings.session_timeout)
        client.group.leave(client)

    def _tell(self) -> None:
        for client in self._clients:
            client.calls.notify()


def _adopted(client: C) -> C:
    process = current_process.get()
    if process is not None:
        process.adopt(client)
    return client


@asynccontextmanager
async def open_simulated_broker(
    topics: Mapping[str, int] = MappingProxyType({}), *, history: History | None = None
) -> AsyncIterator[SimulatedBroker]:
    """Have each consumer and producer that is opened within the block, and by tasks started in it, find this broker.

    Nothing of the application changes, whatever address its configuration names. Everything happens in the run's own
    tasks and in its time: with :class:`trio.testing.MockClock` and ``autojump_threshold=0`` hours take milliseconds.

    Args:
        topics: The topics to make, each with its number of partitions.
        history: Where it is noted what happens; by default one of its own.

    What the body raises leaves as it is.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            broker = SimulatedBroker(nursery.start_soon, history or History(sees_dead_letters=True))
            for name, partitions in topics.items():
                broker.create_topic(name, partitions)
            try:
                with found_by_all(broker):
                    yield broker
            except BaseException as error:
                raised = error
                raise
            finally:
                broker.is_open = False
                nursery.cancel_scope.cancel()
    except BaseException as error:  # noqa: ASYNC103 - raised again below, where no nursery wraps it
        if raised is None or not is_only(error, raised):
            raise
    leave_block(raised, [])


@contextmanager
def found_by_all(cluster: Cluster) -> Iterator[None]:
    """Have consumers and producers find a simulated cluster, and nothing be called in threads, for time is virtual."""
    tokens = current_cluster.set(cluster), never_in_threads.set(True)
    try:
        yield
    finally:
        current_cluster.reset(tokens[0])
        never_in_threads.reset(tokens[1])
