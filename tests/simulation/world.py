"""Runs one schedule: members come and go, things go wrong, then there is peace and everything has to be done."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import trio
from confluent_kafka import KafkaError as ClientError
from simulation.looks import SHUTDOWN_TIMEOUT, STUBBORN, Looks
from simulation.schedule import LIVELY, PASSING, Attempt, Life, NewRecord, Schedule, Trouble

from trio_parallel_kafka import (
    BreakerPolicy,
    ConsumerConfig,
    DeadLetter,
    HandlerTimeoutError,
    ParallelConsumer,
    ParallelKafkaError,
    ProducerRecord,
    Record,
    Retry,
    RetryPolicy,
    Skip,
    parallel_consumer,
)
from trio_parallel_kafka.core.batching import BatchScope
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.simulation import SimulatedBroker, SimulatedProcess, open_simulated_broker
from trio_parallel_kafka.testing.simulation.transactions import Silence

GROUP: Final = "billing"
TOPIC: Final = "orders"
RESULTS: Final = "results"
GRAVEYARD: Final = "orders.dlt"

SESSION_TIMEOUT: Final = 1.0
"""Seconds."""

QUIET: Final = 2.5
"""Seconds without a handler after which nothing more is to be expected of members that have peace."""

ROUNDS: Final = 8
"""How often members that have peace may need to be followed by another, because a handler's failure ended them."""

RESTART: Final = 0.2
"""Seconds until a member that ended by itself is there again."""

PATIENCE: Final = 120.0
"""Seconds after which a run hangs."""

COMMITS_FAIL: Final = {
    "commit fails",
    "commit fails for good",
    "broker is down",
    "slow network",
    "slow acknowledgements",
    "transaction fails",
    "transaction is silent",
    "produce fails",
}
"""Troubles for which the last commit of a partition may be missing when it is let go."""

FOR_GOOD: Final = (
    ClientError.UNKNOWN_MEMBER_ID,
    ClientError.ILLEGAL_GENERATION,
    ClientError.GROUP_AUTHORIZATION_FAILED,
    ClientError.TOPIC_AUTHORIZATION_FAILED,
    ClientError.OFFSET_METADATA_TOO_LARGE,
    ClientError.FENCED_INSTANCE_ID,
)

DONE: Final = Attempt("return", 0.0)


class HandlerFault(Exception):  # noqa: N818 - what a handler raises
    pass


class World:
    """One run.

    Attributes:
        history: what happened.
        problems: what went wrong that no guarantee covers, in words.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule: Final = schedule
        self.history: Final = History(sees_dead_letters=True)
        self.problems: Final[list[str]] = []
        self.broker: SimulatedBroker
        self.kills_at: Final[dict[int, list[int]]] = defaultdict(list)
        self._chance: Final = Random(schedule.seed)
        self._plans: Final[dict[tuple[int, int], NewRecord]] = {}
        self._attempts: Final[Counter[tuple[int, int]]] = Counter()
        self._consumers: Final[dict[str, ParallelConsumer]] = {}
        self._processes: Final[dict[int, SimulatedProcess]] = {}
        self._scopes: Final[dict[int, trio.CancelScope]] = {}
        self.looks: Final = Looks(schedule, self._consumers, self.problems, GROUP)
        self._leaving: Final[set[int]] = set()
        self._is_over = False

    async def run(self) -> None:
        """Run it; what went wrong is in :attr:`problems`."""
        schedule = self.schedule
        topics = {TOPIC: schedule.partitions, RESULTS: 2, GRAVEYARD: 1}
        with trio.move_on_after(PATIENCE) as bound:
            async with open_simulated_broker(topics, history=self.history) as self.broker:
                self.broker.consumer_session_timeout = SESSION_TIMEOUT
                self.looks.broker = self.broker
                self._set_latency(schedule.latency)
                async with trio.open_nursery() as nursery:
                    self._begin(nursery)
                    await trio.sleep(LIVELY)
                    await self._have_peace(nursery)
                    nursery.cancel_scope.cancel()
        if bound.cancelled_caught:
            self.problems.append("the run hangs")

    def _begin(self, nursery: trio.Nursery) -> None:
        for each in sorted(self.schedule.records, key=lambda record: record.at):
            nursery.start_soon(self._produce, each)
        for index, life in enumerate(self.schedule.members):
            nursery.start_soon(self._live, index, life)
            if life.at_step is not None:
                self.kills_at[life.at_step].append(index)
            elif life.leaves is not None:
                nursery.start_soon(self._leave, index, life)
        for trouble in self.schedule.troubles:
            nursery.start_soon(self._trouble, trouble)

    async def _produce(self, plan: NewRecord) -> None:
        await trio.sleep(plan.at)
        key = None if plan.key is None else f"k{plan.key}"
        self._add(plan.partition, key, plan)

    def _add(self, partition: int, key: str | None, plan: NewRecord) -> None:
        written = self.broker.produce(TOPIC, b"", key=key, partition=partition)
        self._plans[written.partition, written.offset] = plan

    # Members

    def config(self, name: str) -> ConsumerConfig:
        """What a member is configured with."""
        schedule = self.schedule
        kafka: dict[str, str | int] = {
            "client.id": name,
            "session.timeout.ms": int(1000 * SESSION_TIMEOUT),
            "heartbeat.interval.ms": 300,
        }
        if schedule.protocol == "consumer":
            kafka = {"client.id": name, "group.protocol": "consumer"}
        else:
            kafka["partition.assignment.strategy"] = schedule.protocol
        fields: dict[str, Any] = {
            "ordering": schedule.ordering,
            "max_concurrency": schedule.max_concurrency,
            "max_buffered_records": schedule.max_buffered_records,
            "commit_interval": schedule.commit_interval,
            "revoke_grace": schedule.revoke_grace,
            "handler_timeout": schedule.handler_timeout,
            "on_failure": schedule.on_failure,
        }
        if schedule.max_attempts is not None:
            backoff = {"initial_backoff": 0.05, "max_backoff": 0.5, "jitter": 0.0}
            fields["retry"] = RetryPolicy(max_attempts=schedule.max_attempts, **backoff)
        if schedule.exactly_once:
            fields |= {"delivery": "exactly_once", "transactional_id": f"billing-{name}"}
        if schedule.has_breaker:
            fields["breaker"] = BreakerPolicy(failure_rate=0.5, min_attempts=4, window=1.0, probe_interval=0.5)
        return ConsumerConfig(
            bootstrap_servers="simulated:9092",
            group_id=GROUP,
            topics=[TOPIC],
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            close_timeout=1.0,
            connect_timeout=2.0,
            kafka=kafka,
            **fields,
        )

    async def _live(self, index: int, life: Life) -> None:
        await trio.sleep(life.joins)
        config = self.config(f"m{index}")
        while not self._is_over and index not in self._leaving:
            process = self._processes[index] = SimulatedProcess()
            with trio.CancelScope() as self._scopes[index]:
                await process.run(self._consume, f"m{index}", config)
            if process.is_dead or self._scopes[index].cancel_called:
                return
            await trio.sleep(RESTART)

    async def _leave(self, index: int, life: Life) -> None:
        assert life.leaves is not None
        await trio.sleep(life.leaves)
        self._leaving.add(index)
        if index not in self._processes:
            return
        if life.how == "kill":
            self.kill(index)
        elif life.how == "cancel":
            self.looks.cut_short.add(f"m{index}")
            self._scopes[index].cancel()
        elif (consumer := self._consumers.get(f"m{index}")) is not None:
            self._stop(f"m{index}", consumer)

    def _stop(self, name: str, consumer: ParallelConsumer) -> None:
        self.looks.stopped_at.setdefault(name, trio.current_time())
        consumer.stop()

    def kill(self, index: int) -> None:
        """Kill a member, if it is there."""
        self._leaving.add(index)
        if index in self._processes:
            self.looks.cut_short.add(f"m{index}")
            self._processes[index].kill()

    async def _consume(self, name: str, config: ConsumerConfig) -> None:
        self.looks.life_begins(name)
        try:
            async with parallel_consumer(config) as consumer:
                self._consumers[name] = consumer
                if self.schedule.batch_scope is None:
                    handle: Any = functools.partial(self._handle_one, name)
                    await consumer.run(self.history.watch(handle, name, config=config))
                else:
                    handle = functools.partial(self._handle_batch, name)
                    watched = self.history.watch(handle, name, config=config)
                    await consumer.run_batches(watched, max_size=5, scope=BatchScope(self.schedule.batch_scope))
            if not self._is_over and int(name[1:]) not in self._leaving:
                self.problems.append(f"{name} ended, and doesn't say why")
        except Exception as error:  # noqa: BLE001 - looked at
            self._note_end(error)
        finally:
            self._consumers.pop(name, None)

    def _note_end(self, error: Exception) -> None:
        unexpected = [each for each in _leaves(error) if not isinstance(each, HandlerFault | ParallelKafkaError)]
        decided = (HandlerTimeoutError, Retry, DeadLetter)
        self.problems.extend(f"a member ended with {each!r}" for each in unexpected if not isinstance(each, decided))

    # Handlers

    async def _handle_one(self, name: str, record: Record) -> object:
        with self.looks.handling(name, (record,)):
            return await self._handle(record)

    async def _handle_batch(self, name: str, records: Sequence[Record]) -> Sequence[object]:
        outcomes: list[object] = []
        with self.looks.handling(name, records):
            for record in records:
                try:
                    outcomes.append(await self._handle(record))
                except Exception as error:  # noqa: BLE001 - the outcome of this one
                    outcomes.append(error)
                    self.looks.may_end(name)
        places = {(record.partition, record.offset) for record in records}
        if places & self.looks.swallowed:  # the call as a whole returned though it was cancelled
            self.looks.swallowed.update(places)
        return outcomes

    async def _handle(self, record: Record) -> list[ProducerRecord] | None:
        place = record.partition, record.offset
        number, plan = self._attempts[place], self._plans[place]
        self._attempts[place] += 1
        attempt = plan.attempts[number] if number < len(plan.attempts) else DONE
        if attempt.seconds:
            await trio.sleep(attempt.seconds)
        await self._behave(attempt.behaviour, place)
        values = outputs_of(self.schedule, *place)
        return [ProducerRecord(RESULTS, value, key=record.key) for value in values] or None

    async def _behave(self, behaviour: str, place: tuple[int, int]) -> None:
        match behaviour:
            case "raise":
                raise HandlerFault
            case "hang":
                await trio.sleep(1.0)
            case "stubborn" | "swallow":
                try:
                    await trio.sleep(0.5)
                except trio.Cancelled:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(STUBBORN)
                    if behaviour == "stubborn":
                        raise
                    self.looks.swallowed.add(place)
            case "retry":
                raise Retry(after=0.1)
            case "skip":
                raise Skip
            case "dead letter":
                raise DeadLetter("for the test")

    # What goes wrong

    async def _trouble(self, trouble: Trouble) -> None:
        await trio.sleep(trouble.at)
        await _CAUSES[trouble.kind](self, trouble.number, trouble.seconds)

    def _set_latency(self, longest: float) -> None:
        """Let half of the requests, and of the answers, take their time."""

        def latency(_api: str) -> float:
            return max(0.0, self._chance.randint(-3, 3) / 3 * longest)

        self.broker.network.latency = latency

    async def fail_commits(self, number: int, _seconds: float) -> None:
        self.broker.fail_next("OffsetCommit", *[PASSING[number % len(PASSING)]] * (1 + number))

    async def refuse_commit(self, number: int, _seconds: float) -> None:
        self.broker.fail_next("OffsetCommit", FOR_GOOD[number])

    async def fail_offset_fetch(self, number: int, _seconds: float) -> None:
        self.broker.fail_next("OffsetFetch", *[PASSING[number % len(PASSING)]] * (1 + number))

    async def fail_list_offsets(self, number: int, _seconds: float) -> None:
        self.broker.fail_next("ListOffsets", *[PASSING[number % len(PASSING)]] * (1 + number))

    async def fail_produce(self, number: int, _seconds: float) -> None:
        self.broker.fail_next("Produce", *[ClientError._MSG_TIMED_OUT] * (1 + number))

    async def fail_transactions(self, number: int, _seconds: float) -> None:
        self.broker.transactions.script += [ClientError(PASSING[number % len(PASSING)])] * (1 + number)

    async def silence_transaction(self, number: int, _seconds: float) -> None:
        self.broker.transactions.script.append(Silence(is_committed=number % 2 == 0))

    async def take_broker_down(self, _number: int, seconds: float) -> None:
        self.broker.down()
        await trio.sleep(seconds)
        self.broker.up()

    async def expel(self, number: int, _seconds: float) -> None:
        if members := self.broker.members(GROUP):
            self.broker.expel(members[number % len(members)])

    async def slow_network(self, _number: int, seconds: float) -> None:
        self._set_latency(seconds / 4)
        await trio.sleep(seconds)
        self._set_latency(self.schedule.latency)

    async def slow_acknowledgements(self, _number: int, seconds: float) -> None:
        for delay in (seconds, 0.0):
            self.broker.delay(delay, "OffsetCommit", "Produce", "EndTxn")
            await trio.sleep(seconds)

    async def pause(self, number: int, _seconds: float) -> None:
        for name, consumer in self._consumers.items():
            consumer.pause(None if number == 0 else [(TOPIC, number)])
            self.looks.paused(name, number or None)

    async def resume(self, number: int, _seconds: float) -> None:
        for name, consumer in self._consumers.items():
            consumer.resume(None if number == 0 else [(TOPIC, number)])
            self.looks.resumed(name, number or None)

    async def send_error(self, number: int, _seconds: float) -> None:
        for client in self.broker.members(GROUP):
            client.send_error(PASSING[number % len(PASSING)])

    async def rebalance(self, _number: int, _seconds: float) -> None:
        self.broker.group(GROUP).rebalance()

    async def add_partition(self, _number: int, _seconds: float) -> None:
        count = self.broker.partition_counts[TOPIC]
        self.broker.create_topic(TOPIC, count + 1)
        self._add(count, "k0", NewRecord(0.0, count, 0))

    # Peace

    async def _have_peace(self, nursery: trio.Nursery) -> None:
        await trio.sleep_until(self.schedule.calm_at)
        broker = self.broker
        broker.up()
        broker.network.errors.clear()
        broker.network.delays.clear()
        broker.transactions.script.clear()
        self._set_latency(self.schedule.latency)
        for name, consumer in self._consumers.items():
            consumer.resume()
            self.looks.resumed(name, None)
        newest = len(self.schedule.members)
        for number in range(ROUNDS):
            nursery.start_soon(self._live, newest + number, Life(0.0))
            await self._wait_until_quiet()
            if self.schedule.commit_interval > LIVELY:
                await self._stop_all()
                self._is_over = False
            if self._is_through():
                break
        else:
            self.problems.append(f"not all is done, or committed: {self._where()}")
        await self._stop_all()
        if not self._is_through():
            self.problems.append(f"the commits of the end are missing: {self._where()}")

    async def _wait_until_quiet(self) -> None:
        began = trio.current_time()
        while not self._is_through() and (
            max(began, self.looks.last_begun_at) + QUIET > trio.current_time() or self.looks.is_anything_running
        ):
            await trio.sleep(0.2)
            self.looks.look()

    async def _stop_all(self) -> None:
        self._is_over = True
        while self._consumers:
            for name, consumer in self._consumers.items():
                self._stop(name, consumer)
            await trio.sleep(0.1)

    def _is_through(self) -> bool:
        committed = self.broker.group(GROUP).offsets
        return all(
            committed.get(partition, (0, None))[0] == log.end
            for partition, log in self.broker.logs.items()
            if partition.topic == TOPIC
        )

    def _where(self) -> str:
        committed = self.broker.group(GROUP).offsets
        behind = [
            f"{partition} at {committed.get(partition, ('nothing', None))[0]} of {log.end}"
            for partition, log in self.broker.logs.items()
            if partition.topic == TOPIC and committed.get(partition, (0, None))[0] != log.end
        ]
        said = [f"{name}: {consumer.statistics()}" for name, consumer in self._consumers.items()]
        return "; ".join([*behind, *said])


_CAUSES: Final = {
    "commit fails": World.fail_commits,
    "commit fails for good": World.refuse_commit,
    "fetching offsets fails": World.fail_offset_fetch,
    "listing offsets fails": World.fail_list_offsets,
    "produce fails": World.fail_produce,
    "transaction fails": World.fail_transactions,
    "transaction is silent": World.silence_transaction,
    "broker is down": World.take_broker_down,
    "member is expelled": World.expel,
    "slow network": World.slow_network,
    "slow acknowledgements": World.slow_acknowledgements,
    "pause": World.pause,
    "resume": World.resume,
    "error among records": World.send_error,
    "rebalance": World.rebalance,
    "partitions are added": World.add_partition,
}


def outputs_of(schedule: Schedule, partition: int, offset: int) -> list[bytes]:
    """What is to be sent of a record."""
    return [b"%d@%d#%d" % (partition, offset, number) for number in range(schedule.outputs)]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]
