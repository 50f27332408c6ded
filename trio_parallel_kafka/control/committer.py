"""Sends commits, and learns what became of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import trio
from confluent_kafka import KafkaError as ClientError, KafkaException

from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.totals import ControlTotals
from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.errors import CommitError
from trio_parallel_kafka.failures import final_error
from trio_parallel_kafka.record import Record

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.commits")

RETRY_AFTER: Final = 0.2
"""Seconds between two tries of the last commit."""

RETRY_SOON: Final = 0.05
"""The same, where a rebalance came between: the next one may be near."""

REVOKE_TRIES: Final = 5
"""How often the last commit of what is being let go is tried: the whole group waits for it."""

OWNERSHIP_IS_GONE: Final = frozenset(
    {
        ClientError.UNKNOWN_MEMBER_ID,
        ClientError.FENCED_INSTANCE_ID,
        ClientError._STATE,  # noqa: SLF001 - this package's own fence
    }
)

GROUP_HAS_MOVED_ON: Final = frozenset(
    {ClientError.ILLEGAL_GENERATION, ClientError.STALE_MEMBER_EPOCH, ClientError.REBALANCE_IN_PROGRESS}
)
"""The commit was overtaken by a rebalance that this member takes part in: what it still owns then goes through with
the next try. (A cooperative member owns partitions while it joins again, and the broker answers the join first.)"""


class Committer:
    """Brings the broker up to date with the core.

    Args:
        client: sends.
        member: says what differs.
        totals: counted here.
    """

    def __init__(self, client: Client, member: Member[Record], totals: ControlTotals) -> None:
        self._client: Final = client
        self._member: Final = member
        self._totals: Final = totals
        self._sending: Final = trio.Lock()
        self._is_over = False
        self._taken: Final[dict[TopicPartition, CommitEntry]] = {}
        self.has_committed_all: bool = False
        """Whether the broker has acknowledged the last commit of everything that was owned then."""

    async def open(self) -> None:  # noqa: ASYNC910 - others have something to wait for here
        """Get ready to commit, before the group is joined."""

    async def commit_changes(self) -> None:
        """Commit what changed, if anything. What fails is made up for by the next."""
        async with self._sending:
            entries = self._member.pending_commits()
            if entries:
                await self._send(entries)

    async def commit_revoked(self, assignments: Collection[Assignment[Record]]) -> None:
        """The last commit for partitions that are about to be let go.

        Not behind :attr:`_sending`: the client answers no outstanding commit until they are let go. Nothing is tried
        again after :meth:`commit_all`: here a commit holds the client up, and can't be given up.
        """
        if self._is_over:
            return
        for _ in range(REVOKE_TRIES):
            entries = self._member.pending_commits(assignments)
            if not entries:
                return
            errors = await self._send(entries)
            if any(error.code() in OWNERSHIP_IS_GONE for error in errors.values()):
                return
            if errors:
                await trio.sleep(_pause_after(errors.values()))

    async def commit_all(self) -> None:
        """Commit until the broker has everything; the caller bounds it.

        Raises:
            CommitError: what is owned by somebody else, or was lost meanwhile, can't be committed.
        """
        owed = {entry.partition: entry for entry in self._member.pending_commits()}
        refused: dict[TopicPartition, ClientError] = {}
        try:
            async with self._sending:
                while entries := self._member.pending_commits():
                    owed.update((entry.partition, entry) for entry in entries)
                    errors = await self._send(entries)
                    refused.update(errors)
                    if errors and all(_is_for_good(error) for error in errors.values()):
                        break
                    if errors:
                        await trio.sleep(_pause_after(errors.values()))
            for entry in owed.values():
                if not self._has_taken(entry):
                    raise _commit_error(entry, refused.get(entry.partition))
            self.has_committed_all = True
        finally:
            self._is_over = True

    def _has_taken(self, entry: CommitEntry) -> bool:
        """Whether the broker has acknowledged this or something later; also of an assignment that has ended."""
        taken = self._taken.get(entry.partition)
        if taken is None or taken == entry:
            return taken is not None
        return (taken.assignment_epoch, taken.offset) > (entry.assignment_epoch, entry.offset)

    async def _send(self, entries: Sequence[CommitEntry]) -> dict[TopicPartition, ClientError]:
        """Commit; say what was refused."""
        errors = self._note(entries, await self._client.commit(entries))
        for entry in entries:
            error = errors.get(entry.partition)
            if error is not None:
                message = "the commit of %s at offset %d failed: %s"
                logger.log(level_of(error), message, entry.partition, entry.offset, error)
        return errors

    def _note(
        self, entries: Sequence[CommitEntry], results: Mapping[TopicPartition, ClientError | None]
    ) -> dict[TopicPartition, ClientError]:
        """Note what became of a commit; return what was refused."""
        errors = {}
        taken = []
        for entry in entries:
            error = results.get(entry.partition)
            if error is None:
                taken.append(entry)
                self._taken[entry.partition] = entry
            else:
                errors[entry.partition] = error
        if any(error.code() == ClientError.OFFSET_METADATA_TOO_LARGE for error in errors.values()):
            self._member.ledger.metadata_refused()  # once, however many partitions tell
        self._member.acknowledge(taken)
        self._totals.commits += len(taken)
        self._totals.failed_commits += len(errors)
        return errors


def _commit_error(entry: CommitEntry, refusal: ClientError | None) -> CommitError:
    reason = f"{entry.partition} was lost" if refusal is None else refusal.str()
    message = f"the last commit was refused, its records will be replayed: {reason}"
    topic, number = entry.partition
    error = CommitError(message, topic=topic, partition=number, offset=entry.offset)
    error.__cause__ = None if refusal is None else KafkaException(refusal)
    return error


def level_of(error: ClientError) -> int:
    """How loudly to say that a commit failed."""
    return logging.INFO if error.code() in GROUP_HAS_MOVED_ON else logging.WARNING


def _is_for_good(error: ClientError) -> bool:
    return error.code() in OWNERSHIP_IS_GONE or final_error(error) is not None


def _pause_after(errors: Collection[ClientError]) -> float:
    return RETRY_SOON if all(error.code() in GROUP_HAS_MOVED_ON for error in errors) else RETRY_AFTER
