"""A consumer group at the simulated broker: who is in it, who owns what, and what it has committed.

All three ways to rebalance are one here, with two switches. *Eager* members give up everything before anything is
assigned; *cooperative* ones (KIP-429) only what moves, and it is assigned once all have let go; those of the *consumer*
protocol (KIP-848) the same, but a partition moves as soon as its own owner has let go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import attrs
import trio
from confluent_kafka import KafkaError as ClientError

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.simulation.network import Network

Results = dict[TopicPartition, ClientError | None]
M = TypeVar("M")

MAX_METADATA: Final = 4095
"""A broker's default (``offset.metadata.max.bytes``), less one."""


RETRY_BACKOFF: Final = 0.1
"""Seconds until members that weren't let in ask again."""


@attrs.frozen
class MemberSettings:
    """What a member tells the group of itself.

    Attributes:
        member_id: its name: the ``client.id`` if that is configured.
        topics: what it subscribes to; ``^`` begins a pattern.
        is_incremental: it lets go only what moves.
        uses_consumer_protocol: it is of KIP-848.
        session_timeout: seconds without a sign of life after which it is taken for dead.
        max_poll_interval: seconds that it may take to let go.
    """

    member_id: str
    topics: Sequence[str]
    is_incremental: bool
    uses_consumer_protocol: bool
    session_timeout: float
    max_poll_interval: float


class GroupMember(Protocol):
    """The member's side."""

    @property
    def settings(self) -> MemberSettings:
        """What it tells of itself."""

    def call_back(
        self,
        *,
        revoke: Sequence[TopicPartition] = (),
        assign: Sequence[TopicPartition] = (),
        generation: int | None = None,
    ) -> trio.Event:
        """Be told what is taken and given; the event is set once that has been answered."""

    def expelled(self) -> None:
        """Be told that it is a member no longer; it joins again."""


@attrs.frozen
class GroupMetadata:
    """Who commits: compared with what the group knows of the member."""

    member: GroupMember
    generation: int


@attrs.define(eq=False)
class Membership:
    """What the broker knows of a member.

    Attributes:
        member: its other side.
        owned: what it may commit.
        generation: of its last assignment.
        is_leaving: it gets nothing any more.
        letting_go: it was asked to.
    """

    member: GroupMember
    owned: dict[TopicPartition, None] = attrs.field(factory=dict)
    generation: int = 0
    is_leaving: bool = False
    letting_go: trio.CancelScope | None = None


class Group:
    """The coordinator of one group; :meth:`coordinate` has to run.

    Args:
        catalogue: gives the partitions of the topics that are subscribed.
        network: what requests have to pass.
        log: where it is noted what the group does.

    Attributes:
        offsets: what is committed: offset and metadata.
        members: who is in it, in the order of joining.
        generation: of the last assignment.
        max_metadata: characters that go with an offset at most.
    """

    def __init__(
        self, catalogue: Callable[[Sequence[str]], Collection[TopicPartition]], network: Network, log: History
    ) -> None:
        self.offsets: dict[TopicPartition, tuple[int, str | None]] = {}
        self.members: dict[GroupMember, Membership] = {}
        self.generation: int = 1
        self.max_metadata: int = MAX_METADATA
        self._catalogue: Final = catalogue
        self._network: Final = network
        self._log: Final = log
        self._is_due = trio.Event()

    # Members

    def join(self, member: GroupMember) -> None:
        """Take a member in."""
        self.members[member] = Membership(member)
        self.rebalance()

    def begin_leave(self, member: GroupMember) -> None:
        """Assign nothing to this one any more."""
        if member in self.members:
            self.members[member].is_leaving = True

    def leave(self, member: GroupMember) -> Sequence[TopicPartition]:
        """Let a member go; return what it owned."""
        membership = self.members.pop(member, None)
        if membership is None:
            return ()
        if membership.letting_go is not None:
            membership.letting_go.cancel()
        self.rebalance()
        return tuple(membership.owned)

    def expel(self, member: GroupMember) -> None:
        """The session of a member is over, whatever it still does."""
        if member in self.members:
            self._log.lost(member.settings.member_id, self.leave(member))
            member.expelled()

    def rebalance(self) -> None:
        """Have it looked whether everybody has what they should have."""
        self._is_due.set()

    # Commits

    def objection(self, given: object) -> ClientError | None:
        """Why somebody mayn't commit."""
        assert isinstance(given, GroupMetadata)  # noqa: S101 - made by a member's client
        known = self.members.get(given.member)
        if known is None:
            return ClientError(ClientError.UNKNOWN_MEMBER_ID)
        if known.generation != given.generation:
            is_new = known.member.settings.uses_consumer_protocol
            return ClientError(ClientError.STALE_MEMBER_EPOCH if is_new else ClientError.ILLEGAL_GENERATION)
        return None

    def commit(
        self, member_id: str, entries: Iterable[tuple[TopicPartition, int, str | None]], error: ClientError | None
    ) -> Results:
        """A commit arrives that is to have this error; say what becomes of each entry."""
        results: Results = {}
        for partition, offset, metadata in entries:
            is_too_long = len(metadata or "") > self.max_metadata
            results[partition] = error
            if error is None and is_too_long:
                results[partition] = ClientError(ClientError.OFFSET_METADATA_TOO_LARGE)
            elif error is None:
                self.offsets[partition] = offset, metadata
                self._log.committed(member_id, partition, offset, metadata)
        return results

    # Rebalancing

    async def coordinate(self) -> None:
        """Rebalance whenever that is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._is_due.wait()
                self._is_due = trio.Event()
                error = await self._network.request("JoinGroup", math.inf)
                await self._network.answer("JoinGroup")
                if error is not None:
                    await trio.sleep(RETRY_BACKOFF)
                    self.rebalance()
                elif self.members:
                    await self._round(nursery)

    async def _round(self, nursery: trio.Nursery) -> None:
        if any(not each.member.settings.is_incremental for each in self.members.values()):
            await self._let_go(self._asked({each: tuple(each.owned) for each in self.members.values()}))
            self._is_due = trio.Event()  # whoever came or left meanwhile is seen to here
        target = self._target()
        self._give(target)
        moving = self._asked(
            {
                each: [partition for partition in each.owned if partition not in target[each.member]]
                for each in self.members.values()
                if each.letting_go is None
            }
        )
        if any(each.member.settings.uses_consumer_protocol for each in moving):
            for membership, partitions in moving.items():
                nursery.start_soon(self._move, {membership: partitions})
        else:
            await self._move(moving)

    def _target(self) -> dict[GroupMember, list[TopicPartition]]:
        staying = [each for each in self.members.values() if not each.is_leaving]
        shares = share_out(
            {each.member: list(self._catalogue(each.member.settings.topics)) for each in staying},
            {each.member: list(each.owned) for each in staying},
        )
        # Whoever is leaving lets go by itself.
        return {each.member: shares.get(each.member, list(each.owned)) for each in self.members.values()}

    def _give(self, target: Mapping[GroupMember, Sequence[TopicPartition]]) -> None:
        """Assign what nobody has; all who can are told of the new generation."""
        taken = {partition for each in self.members.values() for partition in each.owned}
        self.generation += 1
        for membership in self.members.values():
            if membership.letting_go is not None:
                continue  # it is of the old generation until it has answered
            given = [each for each in target[membership.member] if each not in taken]
            membership.owned.update(dict.fromkeys(given))
            membership.generation = self.generation
            if given:
                self._log.assigned(_id(membership), given)
            membership.member.call_back(assign=given, generation=self.generation)

    def _asked(
        self, moving: Mapping[Membership, Sequence[TopicPartition]]
    ) -> Mapping[Membership, Sequence[TopicPartition]]:
        """Note at once who is to let go what: the next round may begin before the first of these tasks does."""
        for membership, partitions in moving.items():
            if partitions:
                patience = membership.member.settings.max_poll_interval
                membership.letting_go = trio.CancelScope(deadline=trio.current_time() + patience)
        return moving

    async def _move(self, moving: Mapping[Membership, Sequence[TopicPartition]]) -> None:
        if any(moving.values()):
            await self._let_go(moving)
            self.rebalance()

    async def _let_go(self, moving: Mapping[Membership, Sequence[TopicPartition]]) -> None:
        async with trio.open_nursery() as nursery:
            for membership, partitions in moving.items():
                if membership.letting_go is not None:
                    nursery.start_soon(self._let_go_of, membership, membership.letting_go, partitions)

    async def _let_go_of(
        self, membership: Membership, bound: trio.CancelScope, partitions: Sequence[TopicPartition]
    ) -> None:
        member = membership.member
        with bound:
            await member.call_back(revoke=partitions).wait()
        membership.letting_go = None
        if member not in self.members:
            return
        if bound.cancelled_caught:
            self.expel(member)
            return
        for partition in partitions:
            membership.owned.pop(partition, None)
        self._log.revoked(_id(membership), partitions)


def share_out(
    wanted: Mapping[M, Sequence[TopicPartition]], owned: Mapping[M, Collection[TopicPartition]]
) -> dict[M, list[TopicPartition]]:
    """Spread partitions evenly over those who want them; what somebody owns moves only if that makes it more even."""
    shares: dict[M, list[TopicPartition]] = {each: [] for each in wanted}
    free: dict[TopicPartition, None] = {}
    for member, partitions in wanted.items():
        shares[member] = [each for each in partitions if each in owned[member]]
        free.update(dict.fromkeys(partitions))
    for share in shares.values():
        for partition in share:
            free.pop(partition, None)
    for partition in sorted(free):
        takers = [each for each in shares if partition in wanted[each]]
        shares[min(takers, key=lambda each: len(shares[each]))].append(partition)
    while (move := _evening_move(shares, wanted)) is not None:
        partition, giver, taker = move
        shares[giver].remove(partition)
        shares[taker].append(partition)
    return shares


def _evening_move(
    shares: Mapping[M, Sequence[TopicPartition]], wanted: Mapping[M, Sequence[TopicPartition]]
) -> tuple[TopicPartition, M, M] | None:
    for taker in sorted(shares, key=lambda each: len(shares[each])):
        richer = [each for each in shares if len(shares[each]) >= len(shares[taker]) + 2]
        for giver in sorted(richer, key=lambda each: -len(shares[each])):
            for partition in reversed(shares[giver]):
                if partition in wanted[taker]:
                    return partition, giver, taker
    return None


def _id(membership: Membership) -> str:
    return membership.member.settings.member_id
