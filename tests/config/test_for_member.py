"""The configurations of a fleet's members."""

from __future__ import annotations

import pytest

from trio_parallel_kafka import ConsumerConfig

BASE = ConsumerConfig(bootstrap_servers="localhost", group_id="billing", topics="orders")
WITH_IDENTITIES = ConsumerConfig(
    bootstrap_servers="localhost",
    group_id="billing",
    topics="orders",
    delivery="exactly_once",
    transactional_id="billing",
    kafka={"group.instance.id": "till", "client.id": "shop"},
)


def test_identities_get_the_index() -> None:
    """The transactional id and the static member's name are prefixes; nothing else changes."""
    made = WITH_IDENTITIES.for_member(3)
    assert made.transactional_id == "billing-3"
    assert dict(made.kafka) == {"group.instance.id": "till-3", "client.id": "shop"}
    assert made.group_id == "billing"
    assert WITH_IDENTITIES.for_member(3) == made != WITH_IDENTITIES.for_member(4)


def test_without_identities_there_is_nothing_to_tell_apart() -> None:
    """A configuration without identities is every member's as it is."""
    assert BASE.for_member(3) == BASE


def test_an_index_below_0_is_refused() -> None:
    """It would be a mistake."""
    with pytest.raises(ValueError, match="number from 0 on, is -1"):
        BASE.for_member(-1)
