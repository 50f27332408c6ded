"""Makes transactions, one after another: what the one thread does that owns the transactional client.

Rules
-----

- A transaction is made in one go: begin, hand over all records, offsets, wait for acknowledgements, commit. Each
  blocking call is made in slices of :data:`SLICE` seconds, so that the end needs no longer; only the offsets take up to
  ``socket.timeout.ms`` where the broker is frozen, and about :data:`IDLE` where it has been restarted.
- Once ``commit_transaction`` was called, nothing else may be called until it says how it went. So acknowledgements are
  waited for before.
- What a broker may have taken for a commit is never aborted: the question is asked again until there is an answer.
  Where the client can't answer any more, because the broker gave the transaction up meanwhile and shut the client out,
  the committed offsets tell: see :attr:`Ending.UNKNOWN`.
- A client that is beyond repair is replaced, and the replacement ends what the last one left open. Only one that was
  shut out by another with the same ``transactional.id`` isn't. The client reports both alike: what differs is whether
  the transaction was open for so long that the broker had to give it up.
"""

from __future__ import annotations

import enum
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
from confluent_kafka import (
    KafkaError as ClientError,
    KafkaException,
    Message,
    Producer,
    TopicPartition as ClientPartition,
)

from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import BrokerUnreachableError, ConfigError, ProducerFencedError
from trio_parallel_kafka.failures import as_error
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.arguments import produce_arguments
from trio_parallel_kafka.producing.bounded_call import OverrunError, call_bounded
from trio_parallel_kafka.producing.transaction_errors import (
    BROKEN,
    FOR_GOOD,
    PURGED,
    SHUT_OUT,
    RefusedError,
    local_error,
    passing,
    transactional_error,
)
from trio_parallel_kafka.repeats import QuietLogger

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.transactions")

TRANSACTION_TIMEOUT: Final = 30.0
"""Seconds after which the broker gives up a transaction whose member is gone. Until then readers of the outputs wait,
and so does the next owner of the partitions, which waits for the session timeout (45 s by default) anyway."""

SLICE: Final = 0.2
"""Seconds that a call may block before it is made again."""

PAUSE: Final = 0.02
"""Seconds between two calls, for those that fail without having waited."""

LAST_TRY: Final = 1.0
"""Seconds that a transaction gets to end once the thread is to stop."""

IDLE: Final = 10.0
"""Seconds without traffic after which the client closes a connection.

Once the broker that was the group's coordinator has been restarted, ``send_offsets_to_transaction`` waits, whatever
timeout it is given, for the connection that the client has dropped with it, and looks for the coordinator again only
when another connection comes or goes (confluentinc/librdkafka issues 5456 and 5511). Idle ones do."""

OVERDUE: Final = 15.0
"""Seconds after which the client is left to a call that doesn't return, and replaced by another."""

NO_END: Final = 60.0
"""Seconds after which a client is replaced that doesn't get on with committing or aborting, broker or no broker: it has
been seen to go on so for minutes after its broker was back."""

SLOW: Final = 10.0
"""Seconds after which, and at intervals of which, a transaction under way is logged."""


class Ending(enum.Enum):
    """How a transaction ended."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    """It may have been either; it has ended, so the committed offsets tell."""


@attrs.frozen
class Outcome:
    """What became of a transaction.

    Attributes:
        ending: how it ended.
        error: why it wasn't committed, or why that isn't known.
    """

    ending: Ending
    error: ClientError | None = None


COMMITTED: Final = Outcome(Ending.COMMITTED)


@attrs.frozen(eq=False)
class Transaction:
    """What is to be seen as a whole, or not at all.

    Attributes:
        records: raw ones, in the order in which they are to be written.
        offsets: of which inputs these are the outputs; one at least.
        group_metadata: for the broker to see that these inputs are the member's.
        is_wanted: whether it still makes sense; asked from the thread. If not, and it isn't being committed yet, it is
            aborted.
    """

    records: Sequence[ProducerRecord]
    offsets: Sequence[CommitEntry]
    group_metadata: object
    is_wanted: Callable[[], bool]


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """The thread is to stop."""


class TransactionThread:
    """Owns a transactional ``confluent_kafka.Producer``. All methods but :meth:`stop` belong to one thread, and block.

    Args:
        properties: librdkafka's, without callbacks and what is said of transactions.
        transactional_id: the identity, which nobody else uses at the same time.
        connect_timeout: seconds that opening may take.
        transaction_timeout: see :data:`TRANSACTION_TIMEOUT`.
    """

    def __init__(
        self,
        properties: Mapping[str, Any],
        *,
        transactional_id: str,
        connect_timeout: float,
        transaction_timeout: float = TRANSACTION_TIMEOUT,
    ) -> None:
        self._transactional_id: Final = transactional_id
        self._connect_timeout: Final = connect_timeout
        self._transaction_timeout: Final = transaction_timeout
        self._properties: Final = _properties(properties, transactional_id, transaction_timeout)
        self._client: Producer | None = None
        self._stopping: Final = threading.Event()
        self._stopped_at = 0.0
        self._trouble: ClientError | None = None
        self._undelivered: list[tuple[ProducerRecord, ClientError]] = []
        self._began = self._logged = 0.0

    def stop(self) -> None:
        """Have what is going on end within about :data:`LAST_TRY` seconds. From any thread."""
        self._stopped_at = time.monotonic()
        self._stopping.set()

    def open(self) -> None:
        """Take over the identity, and end what its last holder left open.

        Raises:
            AuthenticationError, AuthorizationError, BrokerUnreachableError, ConfigError, KafkaError: what's wrong.
        """
        self._open(time.monotonic() + self._connect_timeout)

    def transact(self, transaction: Transaction) -> Outcome:
        """Make a transaction, however long it takes.

        Raises:
            RefusedError: a record will never be taken; nothing was written.
            ProducerFencedError: somebody else uses the identity.
            KafkaError: the brokers don't let it make transactions any more.
        """
        self._began = self._logged = time.monotonic()
        try:
            return self._transact(transaction)
        except Stopped:
            return Outcome(Ending.UNKNOWN, local_error("the consumer ended"))

    def serve_callbacks(self) -> None:
        """Have the client say what it has to, between transactions."""
        if self._client is not None:
            with suppress(KafkaException):  # a fatal error, which the next transaction meets as well
                self._client.poll(0)

    def close(self) -> None:
        """Let the client go. What is still open, the broker gives up in time, or when the identity is used again."""
        self._let_go()

    # One transaction

    def _transact(self, transaction: Transaction) -> Outcome:
        try:
            self._fill(transaction)
        except RefusedError:
            self._undo(local_error("a record was refused"))
            raise
        except OverrunError:
            logger.warning("the transactional client is replaced: it didn't return from a call for %.0f s", OVERDUE)
            self._reopen()  # which aborts what the other one had begun
            return Outcome(Ending.ABORTED, local_error("the client didn't return from a call"))
        except KafkaException as error:
            return self._undo(error.args[0])
        try:
            self._repeat(self._usable.commit_transaction)
        except KafkaException as error:
            cause: ClientError = error.args[0]
            if cause.txn_requires_abort():
                return self._undo(cause, otherwise=Ending.UNKNOWN)
            self._replace(cause)
            return Outcome(Ending.UNKNOWN, cause)
        return COMMITTED

    def _fill(self, transaction: Transaction) -> None:
        """All but the commit."""
        self._undelivered.clear()
        offsets = [ClientPartition(*each.partition, each.offset, each.metadata) for each in transaction.offsets]
        self._reopen()
        self._began = time.monotonic()
        self._usable.begin_transaction()
        for record in transaction.records:
            self._produce(record, transaction)
        send = functools.partial(self._usable.send_offsets_to_transaction, offsets, transaction.group_metadata)
        while not self._succeeds(lambda timeout: self._outlast(functools.partial(send, timeout))):
            self._usable.poll(0)
            self._check(transaction)
        while self._usable.flush(SLICE):
            self._check(transaction)
        self._check(transaction)

    def _produce(self, record: ProducerRecord, transaction: Transaction) -> None:
        report = functools.partial(self._on_delivery, record)
        while True:
            try:
                self._usable.produce(**produce_arguments(record), on_delivery=report)
            except BufferError:
                self._usable.poll(SLICE)
                self._check(transaction)
            except KafkaException as error:
                if error.args[0].code() in BROKEN:
                    raise
                raise RefusedError(record, error) from error
            except Exception as error:
                raise RefusedError(record, error) from error
            else:
                return

    def _check(self, transaction: Transaction) -> None:
        """Whether to go on, with what has come of it so far."""
        for record, error in self._undelivered:
            if error.code() in FOR_GOOD:
                raise RefusedError(record, KafkaException(error))
        if self._undelivered:
            raise KafkaException(self._undelivered[0][1])
        if not transaction.is_wanted():
            raise KafkaException(local_error("its partitions have been lost"))
        if self._stopping.is_set():
            raise KafkaException(local_error("the consumer ended"))
        self._note_slow("waiting for acknowledgements")

    def _outlast(self, call: Callable[[], object]) -> None:
        """Make a call that has been seen not to return; then the client is left to it."""
        try:
            call_bounded(call, OVERDUE, self._look_at_overdue)
        except (OverrunError, Stopped):
            self._client = None
            raise

    def _look_at_overdue(self) -> None:
        self._raise_if_over()
        self._note_slow("the client doesn't return from a call")

    def _raise_if_over(self) -> None:
        """Once the consumer has ended, go on for no longer than the last try may take."""
        if self._stopping.is_set() and time.monotonic() > self._stopped_at + LAST_TRY:
            raise Stopped

    def _undo(self, cause: ClientError, otherwise: Ending = Ending.ABORTED) -> Outcome:
        """Abort, so that nothing of it is seen; ``otherwise`` is how it ended if another client has to see to it."""
        try:
            if not cause.fatal():
                self._repeat(self._usable.abort_transaction)
                return Outcome(Ending.ABORTED, passing(cause))
        except KafkaException as error:
            cause = error.args[0]
        self._replace(cause)
        return Outcome(otherwise, passing(cause))

    def _repeat(self, call: Callable[[float], object]) -> None:
        """Make a call until it succeeds, fails for another reason than time, or has taken too much of that."""
        began = time.monotonic()
        while not self._succeeds(call):
            self._raise_if_over()
            if time.monotonic() - began >= NO_END:
                raise KafkaException(local_error(f"the client didn't get on with it for {NO_END:.0f} s"))

    def _succeeds(self, call: Callable[[float], object]) -> bool:
        """Make a call; ``False``: it is to be made again, for it needs more time."""
        try:
            call(SLICE)
        except KafkaException as error:
            cause: ClientError = error.args[0]
            if cause.fatal() or cause.txn_requires_abort() or not cause.retriable():
                raise
            self._note_slow(cause.str())
            self._stopping.wait(PAUSE)
            return False
        return True

    def _note_slow(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._logged > SLOW:
            self._logged = now
            trouble = "" if self._trouble is None else f"; the client reported: {self._trouble.str()}"
            logger.warning("a transaction has been under way for %.0f s: %s%s", now - self._began, reason, trouble)

    # The client's life

    @property
    def _usable(self) -> Producer:
        assert self._client is not None  # noqa: S101 - there is one in every transaction
        return self._client

    def _reopen(self) -> None:
        """Have a client; one that was replaced can wait for the broker as long as it takes."""
        if self._client is None:
            self._open(None)

    def _replace(self, cause: ClientError) -> None:
        """The client can't be used any more. Have another end what this one left open.

        Raises:
            ProducerFencedError: it isn't ours to end.
            KafkaError: another wouldn't get on better.
        """
        was_given_up = time.monotonic() - self._began >= self._transaction_timeout
        if cause.code() in SHUT_OUT and not was_given_up:
            message = (
                f"another producer with the transactional_id {self._transactional_id!r} has taken over; each member "
                "needs one of its own"
            )
            raise as_error(cause, message, kind=ProducerFencedError)
        logger.warning("the transactional client is replaced: %s", cause.str())
        self._let_go()
        self._reopen()

    def _let_go(self) -> None:
        """Destroy the client, which takes milliseconds. Its own ``close()`` would wait for a broker that is down."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(KafkaException):  # as it does if there was a fatal error
                client.purge()
                client.poll(0)

    def _open(self, deadline: float | None) -> None:
        self._client = self._create()
        try:
            self._init_transactions(deadline)
        except BaseException:
            self._let_go()
            raise

    def _init_transactions(self, deadline: float | None) -> None:
        self._trouble = None
        while True:
            try:
                self._usable.init_transactions(SLICE)
            except KafkaException as error:
                self.serve_callbacks()  # error_cb alone tells of wrong credentials
                self._judge_opening(error.args[0], deadline)
            else:
                return
            if self._stopping.wait(PAUSE):
                raise Stopped

    def _create(self) -> Producer:
        callbacks = {"error_cb": self._on_error, "logger": QuietLogger(self._properties.get("logger", logger))}
        try:
            return Producer({**self._properties, **callbacks})
        except KafkaException as error:
            raise ConfigError([f"kafka: librdkafka refuses the properties: {error.args[0].str()}"]) from error

    def _judge_opening(self, error: ClientError, deadline: float | None) -> None:
        """Raise what trying again doesn't mend."""
        is_first = deadline is not None
        for each in (error, self._trouble):
            final = None if each is None else transactional_error(each, is_running=not is_first)
            if final is not None:
                raise final
        if error.fatal() or not error.retriable():
            raise as_error(error, "transactions can't be made")
        if deadline is None:
            self._note_slow(error.str())
        elif time.monotonic() >= deadline:
            reported = error if self._trouble is None else self._trouble
            message = (
                f"no answer about transactions from {self._properties['bootstrap.servers']} within "
                f"{self._connect_timeout} s (connect_timeout)"
            )
            raise as_error(reported, message, kind=BrokerUnreachableError)

    # Callbacks

    def _on_error(self, error: ClientError) -> None:
        if error.code() != ClientError._ALL_BROKERS_DOWN:  # noqa: SLF001 - it doesn't say why
            self._trouble = error

    def _on_delivery(self, record: ProducerRecord, error: ClientError | None, _message: Message) -> None:
        if error is not None and error.code() not in PURGED:
            self._undelivered.append((record, error))


def _properties(given: Mapping[str, Any], transactional_id: str, transaction_timeout: float) -> dict[str, Any]:
    milliseconds = round(transaction_timeout * 1000)
    idle = round(IDLE * 1000)
    return {
        **given,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": milliseconds,
        "message.timeout.ms": min(milliseconds, int(given.get("message.timeout.ms", milliseconds))),
        # 0, which would be never, won't do.
        "connections.max.idle.ms": min(idle, int(given.get("connections.max.idle.ms", 0)) or idle),
        "delivery.report.only.error": True,  # who gets through has nothing to say
    }
