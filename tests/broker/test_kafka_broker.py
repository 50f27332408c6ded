"""The test kit's view of a real cluster."""

from __future__ import annotations

import pytest
from broker.cluster import Cluster

from trio_parallel_kafka import KafkaError
from trio_parallel_kafka.testing import open_kafka_broker


def test_topics_of_a_test(kafka: Cluster) -> None:
    """They are there when they were made, and gone at the end of the block, so that the next test makes them anew."""
    other, name = kafka.unique("other"), kafka.unique("orders")
    kafka.create_topic(other)
    for partitions in (3, 2):
        with open_kafka_broker(kafka.bootstrap_servers) as broker:
            broker.create_topic(name, partitions)
            assert len(kafka.admin.list_topics(timeout=30).topics[name].partitions) == partitions
            with pytest.raises(KafkaError, match="already exists"):
                broker.create_topic(other)
        topics = kafka.admin.list_topics(timeout=30).topics
        assert name not in topics
        assert other in topics


def test_a_topic_that_the_test_deleted(kafka: Cluster) -> None:
    """The end of the block doesn't mind."""
    name = kafka.unique("orders")
    with open_kafka_broker(kafka.bootstrap_servers) as broker:
        broker.create_topic(name)
        kafka.delete_topic(name)
