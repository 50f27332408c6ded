"""A consumer never reads its own dead letters, as far as its configuration tells."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trio_parallel_kafka.config import ConsumerConfig, DeadLetterConfig
from trio_parallel_kafka.config.subscription import compiled, reader_of
from trio_parallel_kafka.errors import ConfigError
from trio_parallel_kafka.record import Record

WHOLE_NAMES = {"group.protocol": "consumer"}


def config(*topics: str, **fields: Any) -> ConsumerConfig:
    """Make one that reads these topics."""
    return ConsumerConfig(bootstrap_servers="localhost", group_id="billing", topics=topics, **fields)


def problems(*topics: str, **fields: Any) -> tuple[str, ...]:
    """Make one that is refused, and say why it is."""
    with pytest.raises(ConfigError) as caught:
        config(*topics, **fields)
    return caught.value.problems


def letters(topic: str) -> dict[str, Any]:
    """Fields that send dead letters to one topic."""
    return {"dead_letter": DeadLetterConfig(topic=topic)}


@pytest.mark.parametrize(
    ("topics", "topic", "reader"),
    [
        (["orders", "letters"], "letters", "letters"),
        (["^orders"], "orders-letters", "^orders"),
        (["a", "^orders|letters$"], "all-letters", "^orders|letters$"),
        (["^orders-.*$"], "orders-letters", "^orders-.*$"),
        (["^letters[[:digit:]]+$"], "letters1", "^letters[[:digit:]]+$"),
    ],
)
def test_a_topic_of_dead_letters_that_is_read_is_refused(topics: list[str], topic: str, reader: str) -> None:
    """A name in the subscription, or a pattern that matches its beginning, takes in the dead letters."""
    assert problems(*topics, **letters(topic)) == (
        (
            f"dead_letter.topic: must not be read by the consumer itself, is {topic!r}, which {reader!r} in topics "
            "takes in: dead letters would come back for ever; give another topic, or topics that leave it out"
        ),
    )


@pytest.mark.parametrize(
    ("topics", "topic"),
    [
        (["orders"], "letters"),
        (["orders"], "orders.dlt"),
        (["^orders"], "letters-of-orders"),
        (["^orders$"], "orders-letters"),
        (["^orders-.*$"], "letters"),
        (["^letters[[:digit:]]+$"], "letters"),
    ],
)
def test_a_topic_of_dead_letters_that_is_not_read_is_taken(topics: list[str], topic: str) -> None:
    """Any other topic will do."""
    assert config(*topics, **letters(topic)).dead_letter == DeadLetterConfig(topic=topic)


def test_the_brokers_match_whole_names() -> None:
    """Under the protocol of KIP-848 a pattern doesn't take in names that only begin so."""
    assert config("^orders", kafka=WHOLE_NAMES, **letters("orders-letters")).topics == ("^orders",)
    assert problems("^orders.+", kafka=WHOLE_NAMES, **letters("orders-letters"))


@pytest.mark.parametrize("fields", [{"on_failure": "dead_letter"}, {"dead_letter": DeadLetterConfig()}])
@pytest.mark.parametrize(
    ("topics", "reader", "letters_of"),
    [
        (["orders", "orders.dlt"], "orders.dlt", "orders"),
        (["orders", "^.+[.]dlt$"], "^.+[.]dlt$", "orders"),
        (["^orders(.dlt)?$", "orders"], "^orders(.dlt)?$", "orders"),
    ],
)
def test_default_dead_letters_of_a_topic_are_not_read(
    fields: dict[str, Any], topics: list[str], reader: str, letters_of: str
) -> None:
    """Neither a name nor a pattern may take in ``<topic>.dlt`` of a topic that is named."""
    assert problems(*topics, **fields) == (
        (
            f"topics: has {reader!r}, which takes in '{letters_of}.dlt', where dead letters of {letters_of!r} go: dead "
            "letters would come back for ever; leave it out, or give dead_letter.topic"
        ),
    )


@pytest.mark.parametrize(
    ("pattern", "kafka"),
    [
        ("^orders", {}),
        ("^orders-[a-z]+", {}),
        ("^orders.*$", {}),
        ("^(orders|audit-.+)$", {}),
        (r"^orders\\.*$", {}),
        ("^orders.*", WHOLE_NAMES),
    ],
)
def test_a_pattern_that_takes_in_longer_names_is_refused(pattern: str, kafka: dict[str, Any]) -> None:
    """With each topic, such a pattern takes in the default topic of its dead letters, too."""
    assert problems(pattern, on_failure="dead_letter", kafka=kafka) == (
        (
            f"topics: has the pattern {pattern!r}, which takes in <topic>.dlt with each topic that it takes in: dead "
            "letters would come back for ever; write one like '^orders-[^.]+$', or give dead_letter.topic"
        ),
    )


@pytest.mark.parametrize(
    ("pattern", "kafka"),
    [
        ("^orders$", {}),
        (r"^orders\.[a-z]+$", {}),
        (r"^orders\.*$", {}),
        ("^orders-[^.]+$", {}),
        ("^orders", WHOLE_NAMES),
        (r"^orders\.[a-z]+", WHOLE_NAMES),
    ],
)
def test_a_pattern_with_an_end_is_taken(pattern: str, kafka: dict[str, Any]) -> None:
    """A pattern that ends as proposed leaves dead letters out."""
    assert config("refunds", pattern, on_failure="dead_letter", kafka=kafka).topics == ("refunds", pattern)


def topic_of(record: Record) -> str:
    """Choose a topic."""
    return "letters"


@pytest.mark.parametrize("fields", [{}, {"on_failure": "skip"}, {"dead_letter": DeadLetterConfig(topic=topic_of)}])
def test_without_known_dead_letters_anything_can_be_read(fields: dict[str, Any]) -> None:
    """Who writes no dead letters may read any, and what a function says isn't known yet."""
    assert config("orders", "orders.dlt", "^orders", **fields).topics == ("orders", "orders.dlt", "^orders")


def test_dead_letters_are_not_looked_for_in_topics_that_are_wrong() -> None:
    """What isn't a subscription has one fault, not two."""
    (problem,) = problems("^(", on_failure="dead_letter")
    assert "isn't a regular expression" in problem


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("alnum", "aFZ5"),
        ("alpha", "aFZ"),
        ("blank", ""),
        ("cntrl", ""),
        ("digit", "5"),
        ("graph", "aFZ5._-"),
        ("lower", "a"),
        ("print", "aFZ5._-"),
        ("punct", "._-"),
        ("space", ""),
        ("upper", "FZ"),
        ("xdigit", "aF5"),
    ],
)
def test_classes_of_characters_are_those_of_posix(name: str, taken: str) -> None:
    """Classes in brackets mean what the client and the brokers take them for."""
    subscription = [f"^[[:{name}:]]$"]
    matching = (each for each in "aFZ5._-" if reader_of(each, subscription, whole_names=False))
    assert "".join(matching) == taken


def test_a_wrong_pattern_is_still_wrong() -> None:
    """Spelling out classes doesn't mend an expression."""
    with pytest.raises(re.error):
        compiled("^[[:digit:]")
