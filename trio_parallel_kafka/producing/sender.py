"""Hands records to the client, in order, and learns what becomes of them.

``produce()`` never blocks, so it is called on the Trio thread. What the client refuses because its queue is full waits
in a line; the first in it tries again whenever reports have come, since each takes a record out of the queue.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

import attrs
import trio
from confluent_kafka import KafkaError as ClientError, KafkaException, Message, Producer

from trio_parallel_kafka.config.producer import ProducerConfig, producer_properties
from trio_parallel_kafka.errors import (
    CloseTimeoutError,
    DeliveryError,
    ParallelKafkaError,
    ProducerClosedError,
    RecordTooLargeError,
    SerializationError,
)
from trio_parallel_kafka.failures import as_error, end_error, final_error, leave_block
from trio_parallel_kafka.produced import ProducerRecord, RawRecord, RecordMetadata
from trio_parallel_kafka.producing.arguments import produce_arguments
from trio_parallel_kafka.producing.deliveries import (
    PendingDelivery,
    Refusal,
    Unheard,
    metadata_of,
    result_of,
    settle,
    wait_for_all,
)
from trio_parallel_kafka.producing.encoding import Encoder
from trio_parallel_kafka.producing.report_thread import Report, ReportThread
from trio_parallel_kafka.serialization import Place, place_of

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.producer")


@asynccontextmanager
async def open_sender(config: ProducerConfig) -> AsyncIterator[Sender]:
    """Find the cluster, and send for the length of a block; :func:`.open_producer` says what leaves it."""
    sender = Sender(config)
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.host)
        try:
            await sender.wait_opened()
            yield sender
        except BaseException as error:  # noqa: ASYNC103, BLE001 - raised below, where no nursery wraps it
            raised = error
        finally:
            await sender.close()  # noqa: ASYNC102 - it shields and bounds itself
    leave_block(raised, [problem for problem in sender.problems() if problem is not raised])


@attrs.define
class _Group:
    """Records that fail or succeed together.

    Attributes:
        deliveries: of those that were handed over.
        refusal: what kept the next from being so, and all after it.
    """

    deliveries: list[PendingDelivery] = attrs.field(factory=list)
    refusal: Exception | None = None

    def result(self) -> list[RecordMetadata] | Exception:
        """What became of them, once that is known."""
        metadata: list[RecordMetadata] = []
        errors: list[Exception] = []
        for delivery in self.deliveries:
            try:
                metadata.append(result_of(delivery))
            except DeliveryError as error:
                errors.append(error)
        if self.refusal is not None:
            errors.append(self.refusal)
        if not errors:
            return metadata
        first, *others = errors
        for other in others:
            first.add_note(f"also: {other}")
        return first


class Sender:
    """The Trio side of a producer. See :class:`.Sends` for what the calls mean.

    Attributes:
        crossings: how often reports came over from the thread.
        failure: what ended it before its time.
    """

    def __init__(self, config: ProducerConfig) -> None:
        self.crossings: int = 0
        self.failure: ParallelKafkaError | None = None
        self._config: Final = config
        self._token: Final = trio.lowlevel.current_trio_token()
        self._thread: Final = ReportThread(producer_properties(config), config.connect_timeout, self)
        self._encoder: Final = Encoder(config.serialize_key, config.serialize_value)
        self._may_block: Final = place_of(config.serialize_key, config.serialize_value) is not Place.INLINE
        self._client: Producer | None = None
        self._opened: Final = trio.Event()
        self._ended: Final = trio.Event()
        self._abandon: Final = trio.CancelScope(shield=True)
        self._is_closing = False
        self._has_overrun = False
        self._line: Final = trio.StrictFIFOLock()
        self._progress: Final = trio.lowlevel.ParkingLot()
        self._outstanding: Final[dict[PendingDelivery, str]] = {}  # and its topic
        self._reports: Final[deque[list[Report]]] = deque()
        self._unheard = Unheard()
        self._trouble: str | None = None  # since the last delivery

    # Sending

    async def send(self, record: ProducerRecord) -> RecordMetadata:
        ready = await self._encoded(record)
        async with self._turn():
            delivery = await self._hand_over(ready)
        await wait_for_all([delivery])
        return result_of(delivery)

    async def send_groups(self, groups: Iterable[Sequence[ProducerRecord]]) -> list[list[RecordMetadata] | Exception]:
        encoded = [await self._encoded_group(group) for group in groups]
        async with self._turn():
            handed = [await self._hand_over_group(group) for group in encoded]
        await wait_for_all([delivery for group in handed for delivery in group.deliveries])
        return [group.result() for group in handed]

    def send_nowait(self, record: ProducerRecord) -> PendingDelivery:
        if self._line.locked():
            raise trio.WouldBlock
        if self._may_block:
            message = (
                "send_nowait() can't wait for serialisers that may block: use send(), or declare those that never "
                "block, by Inline(...)"
            )
            raise SerializationError(message, topic=record.topic)
        delivery = self._produce(self._encoder.encode_here(record))
        if delivery is None:
            raise trio.WouldBlock
        return delivery

    async def flush(self) -> None:
        self._usable_client()
        self._thread.flushing += 1
        try:
            await wait_for_all(tuple(self._outstanding), to_hear=False)
        finally:
            self._thread.flushing -= 1
        unheard, self._unheard = self._unheard, Unheard()
        error = unheard.as_error()
        if error is not None:
            raise error

    async def _encoded(self, record: ProducerRecord) -> ProducerRecord:
        return record if isinstance(record, RawRecord) else await self._encoder(record)

    async def _encoded_group(self, records: Sequence[ProducerRecord]) -> Sequence[ProducerRecord] | Exception:
        try:
            return [await self._encoded(record) for record in records]
        except SerializationError as error:
            return error

    async def _hand_over_group(self, records: Sequence[ProducerRecord] | Exception) -> _Group:
        if isinstance(records, Exception):
            return _Group(refusal=records)
        group = _Group()
        try:
            for record in records:
                group.deliveries.append(await self._hand_over(record))
        except Exception as error:  # noqa: BLE001 - told once it is known what became of those before it
            group.refusal = error
        return group

    async def _hand_over(self, record: ProducerRecord) -> PendingDelivery:
        while (delivery := self._produce(record)) is None:
            await self._progress.park()
        return delivery

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """First come, first served; the one whose turn it is may wait for room."""
        if self._line.locked():
            await self._line.acquire()
        else:
            self._line.acquire_nowait()
        try:
            yield
        finally:
            self._line.release()

    def _produce(self, record: ProducerRecord) -> PendingDelivery | None:
        """Hand a record to the client, unless its queue is full."""
        delivery = PendingDelivery()
        try:
            self._usable_client().produce(
                **produce_arguments(record), on_delivery=functools.partial(self._thread.report, delivery)
            )
        except BufferError as error:
            if self._outstanding:
                return None
            message = "the record is larger than queue.buffering.max.kbytes, all that the client may hold"
            raise RecordTooLargeError(message, topic=record.topic, partition=record.partition) from error
        except KafkaException as error:
            raise Refusal(error.args[0], record.topic, record.partition).as_error() from error
        self._outstanding[delivery] = record.topic
        return delivery

    def _usable_client(self) -> Producer:
        if self.failure is not None:
            message = f"the producer has ended: {self.failure}"
            raise DeliveryError(message) from self.failure
        if self._client is None or self._is_closing:
            message = "the producer's block has ended; open another one with open_producer()"
            raise ProducerClosedError(message)
        return self._client

    # Life

    async def host(self) -> None:
        """Host the thread until it ends, or is abandoned."""
        try:
            with self._abandon:
                await trio.to_thread.run_sync(self._thread.run, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
        except Exception as error:  # noqa: BLE001 - raised by whoever opens, or at the end of the block
            self._fail(error)
        finally:
            self._end()

    async def wait_opened(self) -> None:
        """Wait until the cluster is found; raise why it isn't."""
        await self._opened.wait()
        if self.failure is not None:
            raise self.failure

    async def wait_ended(self) -> None:
        """Wait until the client is closed: within the block, that something ended it before its time."""
        await self._ended.wait()

    async def close(self) -> None:
        """Have everything delivered, then close the client; each shielded, and bounded by ``close_timeout``."""
        self._is_closing = True
        self._thread.flushing += 1
        try:
            with trio.move_on_after(self._config.close_timeout, shield=True):
                while self._outstanding:
                    await self._progress.park()
            self._let_go()
            with trio.move_on_after(self._config.close_timeout, shield=True):
                await self._ended.wait()
        finally:  # also when a second Ctrl-C strikes
            self._let_go()
            self._has_overrun = not self._ended.is_set()
            self._abandon.cancel()

    def problems(self) -> list[ParallelKafkaError]:
        """What went wrong and has to be told at the end, the weightiest first."""
        overrun = None
        if self._has_overrun:
            overrun = CloseTimeoutError(
                f"the Kafka client didn't close within {self._config.close_timeout} s (close_timeout); is the broker "
                "down? One daemon thread is left to it"
            )
        return [each for each in (self.failure, self._unheard.as_error(), overrun) if each is not None]

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = _end_error(error)
            if self._opened.is_set():
                logger.error("the producer ended: %s", self.failure)
        self._opened.set()
        self._let_go()

    def _let_go(self) -> None:
        """Stop using the client, so that the thread may close it."""
        self._client = None
        self._thread.stop()
        self._progress.unpark_all()

    def _end(self) -> None:
        self._take_reports()
        for delivery, topic in self._outstanding.items():
            lost = ClientError(ClientError._DESTROY, "the client has ended without a word about it")  # noqa: SLF001
            settle(delivery, Refusal(lost, topic), self._unheard_now)
        self._outstanding.clear()
        self._opened.set()
        self._ended.set()
        self._progress.unpark_all()

    # Called from the thread

    def opened(self, client: Producer) -> None:
        """The cluster is found."""

        def note() -> None:
            if not self._is_closing and self.failure is None:
                self._client = client
            self._opened.set()

        self._call_soon(note)

    def reported(self, reports: list[Report]) -> None:
        """This became of some records."""
        self._reports.append(reports)
        self._call_soon(self._take_reports, idempotent=True)

    def troubled(self, error: ClientError) -> None:
        """The client reports what may pass."""

        def note() -> None:
            self._trouble = error.str()

        self._call_soon(note)

    def failed(self, error: BaseException) -> None:
        """The client can't go on."""
        self._call_soon(functools.partial(self._fail, error))

    def _call_soon(self, function: Callable[[], None], *, idempotent: bool = False) -> None:
        try:
            self._token.run_sync_soon(function, idempotent=idempotent)
        except trio.RunFinishedError:
            logger.debug("the Trio run is over")

    def _take_reports(self) -> None:
        self.crossings += 1
        while self._reports:
            for delivery, error, message in self._reports.popleft():
                if self._outstanding.pop(delivery, None) is not None:  # else it was given up, and the client overran
                    settle(delivery, self._outcome(error, message), self._unheard_now)
        self._progress.unpark_all()

    def _unheard_now(self) -> Unheard:
        return self._unheard

    def _outcome(self, error: ClientError | None, message: Message) -> RecordMetadata | Refusal:
        if error is None:
            self._trouble = None
            return metadata_of(message)
        background = None
        if self.failure is not None:
            background = str(self.failure)
        elif error.code() == ClientError._MSG_TIMED_OUT and self._trouble is not None:  # noqa: SLF001
            background = f"the client reported: {self._trouble}"
        return Refusal(error, cast("str", message.topic()), message.partition(), background)


def _end_error(error: BaseException) -> ParallelKafkaError:
    if isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__  # what the client raised while it called back
    if isinstance(error, KafkaException):
        reported: ClientError = error.args[0]
        return final_error(reported) or as_error(reported, "the client can't go on")
    return end_error(error)
