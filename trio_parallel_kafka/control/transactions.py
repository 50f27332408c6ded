"""Exactly once: what handlers return and the offsets of what they were given, in one transaction.

Theory of operation
-------------------

A record is completed as soon as its outputs are held by the :class:`TransactionOutbox`. Now and then the
:class:`TransactionCommitter` looks, at one moment, at what is to be committed and at what is held of it. With that it
asks the client for the group's metadata, which it gets only if all of it is still owned; from then on the broker
refuses it once the group has moved on. The rest is the producer's: one transaction of the outputs and the offsets. If
it is aborted, the outputs are still held, and the next look finds them again, with what has come since.

Whoever stops waiting for a transaction doesn't stop it: who comes next takes its outcome before anything else is sent.
Where the outcome isn't known even to the client, the offsets that the group has committed tell it, for they are part of
the transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import attrs
import trio
from confluent_kafka import KafkaError as ClientError

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.cluster import current_cluster
from trio_parallel_kafka.control.committer import Committer, level_of
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.control.transaction_outbox import TransactionOutbox
from trio_parallel_kafka.core.assignments import Assignment, Phase, TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.held import Held
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.errors import CommitError, DeliveryError, KafkaError, ParallelKafkaError
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing.transaction_errors import (
    RefusedError,
    delivery_error,
    local_error,
    transactional_error,
)
from trio_parallel_kafka.producing.transaction_thread import COMMITTED, Ending, Outcome, Transaction
from trio_parallel_kafka.producing.transactional import MakesTransactions
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.transactions")

MAP_FULL: Final = "map full"
"""Why a partition is paused of which more is completed than the commit's map can tell."""

FIRST_PAUSE: Final = 0.1
"""Seconds between an aborted transaction and the next, which is made because much is held; it doubles each time."""

LONGEST_PAUSE: Final = 5.0

NAMED: Final = 5
"""How many partitions of a transaction that failed are named in the log."""


@attrs.frozen(eq=False)
class Attempt:
    """A transaction that was asked for: its offsets, what it takes along, and whose that is."""

    entries: Sequence[CommitEntry]
    held: Sequence[Held[ProducerRecord]]
    assignments: Sequence[Assignment[Record]]

    def is_wanted(self) -> bool:
        """Whether all of it is still to be committed; asked from another thread, too."""
        return all(assignment.is_current for assignment in self.assignments)

    def blame(self, refused: RefusedError) -> DeliveryError:
        """The error for an output that no broker will ever take; its record isn't committed."""
        error = delivery_error(refused)
        for held in self.held:
            if any(output is refused.record for output in held.outputs):
                error.add_note(
                    f"it results from the record {held.assignment.partition}@{held.offset}, which isn't committed"
                )
        return error


class TransactionCommitter(Committer):
    """Commits in transactions, with what the outbox holds.

    Args:
        config: the consumer's.
        client: gives the group's metadata.
        member: says what differs.
        totals: counted here.
        on_fatal: told once, when no transaction can be made any more.

    Attributes:
        outbox: holds what is to be sent.
        failure: what was told to ``on_fatal``.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        client: Client,
        member: Member[Record],
        totals: ControlTotals,
        on_fatal: Callable[[KafkaError], None],
    ) -> None:
        super().__init__(client, member, totals)
        self.outbox: Final = TransactionOutbox(config)
        self.failure: KafkaError | None = None
        self._producer: Final[MakesTransactions] = current_cluster.get().transactional_producer(config)
        self._revoke_timeout: Final = config.close_timeout
        self._on_fatal: Final = on_fatal
        self._attempt: Attempt | None = None
        self._is_in_doubt = False

    async def open(self) -> None:
        """Take over the identity, within ``connect_timeout``; :meth:`run` has to be running, or about to.

        Raises:
            AuthenticationError, AuthorizationError, BrokerUnreachableError, ConfigError, KafkaError: what's wrong.
        """
        await self._producer.open()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Host the producer, and make a transaction whenever much is held, until cancelled. Never raises."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._producer.host)
            try:
                await self._commit_when_due()
            finally:
                await self._producer.close()  # noqa: ASYNC102 - it shields and bounds itself

    async def commit_changes(self) -> None:
        """Make a transaction of what changed, if anything. What fails is made up for by the next."""
        await self._commit()

    async def commit_revoked(self, assignments: Collection[Assignment[Record]]) -> None:
        """End what is under way, and make the last transaction for partitions that are about to be let go.

        It is bounded by ``close_timeout``; a transaction that isn't being committed by then is aborted, for its
        partitions are gone.
        """
        with trio.move_on_after(self._revoke_timeout) as bound:
            async with self._sending:
                if self.failure is None:
                    await super().commit_revoked(assignments)
        if bound.cancelled_caught:
            logger.warning(
                "the last transaction of revoked partitions took too long: what it would have said is replayed"
            )
        if self._attempt is not None:
            self.outbox.hurry()  # it is concluded there

    # One transaction

    async def _commit(self) -> bool:
        """Make a transaction of what changed, or take the outcome of the last; say whether all went well."""
        async with self._sending:
            if self.failure is not None:
                return True
            entries = self._member.pending_commits()
            self._mind_the_map(self.outbox.look_beyond(entries))
            return not ((entries or self._attempt) and await self._send(entries))

    async def _send(self, entries: Sequence[CommitEntry]) -> dict[TopicPartition, ClientError]:
        if self.failure is not None:
            message = f"no transaction can be made any more, what it would have said will be replayed: {self.failure}"
            raise CommitError(message) from self.failure
        if self._attempt is not None:  # somebody didn't wait for its end
            return await self._conclude(self._attempt)
        attempt = self._look(entries)
        metadata = await self._client.group_metadata(entries)
        if metadata is None:
            moved_on = ClientError(ClientError.REBALANCE_IN_PROGRESS, "the group is about to take what is committed")
            return self._noted(entries, moved_on)
        self._attempt = attempt
        records = [output for held in attempt.held for output in held.outputs]
        return await self._conclude(attempt, Transaction(records, entries, metadata, attempt.is_wanted))

    def _look(self, entries: Sequence[CommitEntry]) -> Attempt:
        """What goes with these commits, as of now."""
        found = (self._member.assignments.get(entry.partition) for entry in entries)
        return Attempt(entries, self.outbox.fitting(entries), [each for each in found if each is not None])

    async def _conclude(
        self, attempt: Attempt, transaction: Transaction | None = None
    ) -> dict[TopicPartition, ClientError]:
        """Have a transaction made, or learn how the last one ended; say what wasn't committed."""
        try:
            outcome = await self._outcome(attempt, transaction)
            final = transactional_error(outcome.error) if outcome.error is not None else None
            if final is not None:
                raise final
        except RefusedError as refused:
            error = attempt.blame(refused)
            self._fail(error)
            raise error from refused.reason
        except KafkaError as error:
            self._fail(error)
            raise
        if outcome.ending is not Ending.UNKNOWN:
            self._attempt = None
        if outcome.ending is Ending.COMMITTED:
            self.outbox.release(attempt.held)
        return self._noted(attempt.entries, outcome.error)

    def _noted(self, entries: Sequence[CommitEntry], error: ClientError | None) -> dict[TopicPartition, ClientError]:
        """Note that all of it is committed, or none of it because of an error."""
        if error is not None:
            where = ", ".join(f"{entry.partition} at offset {entry.offset}" for entry in entries[:NAMED])
            more = f" and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
            logger.log(level_of(error), "the transaction of %s%s failed: %s", where, more, error)
        return self._note(entries, {entry.partition: error for entry in entries})

    async def _outcome(self, attempt: Attempt, transaction: Transaction | None) -> Outcome:
        if not self._is_in_doubt:
            outcome = await (self._producer.settle() if transaction is None else self._producer.transact(transaction))
            if outcome.ending is not Ending.UNKNOWN:
                return outcome
            self._is_in_doubt = True
            logger.warning(
                "whether a transaction was committed isn't known, the group's offsets tell: %s", outcome.error
            )
        outcome = await self._asked_of_the_group(attempt)
        self._is_in_doubt = outcome.ending is Ending.UNKNOWN
        return outcome

    async def _asked_of_the_group(self, attempt: Attempt) -> Outcome:
        """Tell by one of the offsets: all were committed, or none."""
        still_owned = [
            entry for entry, owner in zip(attempt.entries, attempt.assignments, strict=True) if owner.is_current
        ]
        if not still_owned:
            return Outcome(Ending.ABORTED, local_error("its partitions were let go, so it doesn't matter"))
        entry = still_owned[0]
        answer = (await self._client.committed([entry.partition]))[entry.partition]
        if answer.error is not None:
            return Outcome(Ending.UNKNOWN, answer.error)
        if (answer.offset, answer.metadata) == (entry.offset, entry.metadata):
            return COMMITTED
        return Outcome(Ending.ABORTED, local_error("the broker gave it up"))

    def _mind_the_map(self, beyond: Collection[Assignment[Record]]) -> None:
        """Read on only where the map tells of all that is completed: what it doesn't tell of is held, and piles up."""
        for assignment in self._member.assignments:
            if assignment.phase is not Phase.ACTIVE:
                continue
            if assignment in beyond and assignment.pause_reason is None:
                assignment.pause_reason = MAP_FULL
                self._client.pause([assignment.partition])
            elif assignment not in beyond and assignment.pause_reason == MAP_FULL:
                assignment.pause_reason = None
                if not self._member.pause_if_full(assignment):
                    self._client.resume({assignment.partition: assignment.tracker.next_offset})

    async def _commit_when_due(self) -> None:
        pause = FIRST_PAUSE
        while self.failure is None:
            await self.outbox.wait_until_due()
            try:
                went_well = await self._commit()
            except ParallelKafkaError as error:
                logger.warning("%s", error)
                went_well = False
            if went_well:
                pause = FIRST_PAUSE
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        await trio.sleep_forever()

    def _fail(self, error: KafkaError) -> None:
        self.failure = error
        self._on_fatal(error)
