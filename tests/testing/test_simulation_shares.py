"""How a simulated group shares partitions out: each to one who wants it, evenly, and with few moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, strategies as st

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.simulation.group import share_out

Shares = Mapping[str, Sequence[TopicPartition]]

TOPICS = {"orders": 7, "refunds": 3, "payments": 1}


def partitions(*topics: str) -> list[TopicPartition]:
    """Those of the topics."""
    return [TopicPartition(topic, number) for topic in topics for number in range(TOPICS[topic])]


@st.composite
def groups(draw: Any, *, is_alike: bool) -> tuple[Shares, Shares]:
    """What each member wants, and what it owns of that; nothing has two owners."""
    members = [f"m{number}" for number in range(draw(st.integers(1, 5)))]
    subscriptions = st.lists(st.sampled_from(sorted(TOPICS)), min_size=1, unique=True)
    common = draw(subscriptions)
    wanted = {member: partitions(*(common if is_alike else draw(subscriptions))) for member in members}
    owned: dict[str, list[TopicPartition]] = {member: [] for member in members}
    for partition in partitions(*TOPICS):
        owner = draw(st.sampled_from([None, *members]))
        if owner is not None and partition in wanted[owner]:
            owned[owner].append(partition)
    return wanted, owned


@given(groups(is_alike=False))
def test_each_has_one_owner(group: tuple[Shares, Shares]) -> None:
    """All that somebody wants is given, to one who wants it; nobody could give another one who has two fewer."""
    wanted, owned = group
    shares = share_out(wanted, owned)
    given_out = sorted(partition for share in shares.values() for partition in share)
    assert given_out == sorted({partition for subscribed in wanted.values() for partition in subscribed})
    for member, share in shares.items():
        assert set(share) <= set(wanted[member])
        fewer = [each for each in shares if len(shares[each]) + 2 <= len(share)]
        assert not any(partition in wanted[each] for each in fewer for partition in share)


@given(groups(is_alike=True))
def test_as_little_moves_as_may_be(group: tuple[Shares, Shares]) -> None:
    """Where all want the same, shares differ by one at most, and each keeps all that its share has room for."""
    wanted, owned = group
    shares = share_out(wanted, owned)
    sizes = sorted((len(share) for share in shares.values()), reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    had = sorted((len(each) for each in owned.values()), reverse=True)
    kept = sum(len(set(shares[member]) & set(owned[member])) for member in shares)
    assert kept == sum(min(pair) for pair in zip(had, sizes, strict=True))
    again = share_out(wanted, shares)
    assert {member: set(share) for member, share in again.items()} == {each: set(shares[each]) for each in shares}


def test_who_has_most_may_have_nothing_to_give() -> None:
    """Then it is for others to give."""
    wanted = {"a": partitions("orders"), "b": partitions("refunds"), "c": partitions("refunds")}
    shares = share_out(wanted, {"a": partitions("orders"), "b": partitions("refunds"), "c": []})
    assert [len(share) for share in shares.values()] == [7, 2, 1]


def test_a_chain_of_moves() -> None:
    """Where the one who has most can't give to the one who has least, those between pass on."""
    wanted = {"a": partitions("orders"), "b": partitions("orders", "refunds"), "c": partitions("refunds")}
    shares = share_out(wanted, {"a": [], "b": partitions("orders", "refunds"), "c": []})
    assert sorted(map(len, shares.values())) == [3, 3, 4]
