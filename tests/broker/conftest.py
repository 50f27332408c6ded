"""Brokers for the tests beside this file: the cluster that the user named, or ones started here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from broker.cluster import Cluster
from broker.kafka_jars import INSTALL_HINT, BrokerChoice, choose_broker, startable
from broker.kafka_server import KafkaServer, StartKafka


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that tests share: nobody may stop it, and names come from ``kafka.unique(...)``."""
    if _choose(private=False) == "cluster":
        cluster = Cluster(os.environ["TPK_BOOTSTRAP_SERVERS"])
        yield cluster
        cluster.clean_up()
    else:
        with KafkaServer.start(tmp_path_factory.mktemp("kafka") / "shared") as server:
            yield Cluster(server.bootstrap_servers)


@pytest.fixture(scope="session")
def can_start_kafka() -> None:
    """Brokers can be started here; without that the test is skipped, or fails in CI."""
    _choose(private=True)


@pytest.fixture
def private_kafka(can_start_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartKafka]:
    """A factory of brokers of the test's own, to stop, kill, freeze or set up differently."""
    with ExitStack() as servers:

        def start(**options: Any) -> KafkaServer:
            directory = tmp_path_factory.mktemp("kafka") / "private"
            return servers.enter_context(KafkaServer.start(directory, **options))

        yield start


@pytest.fixture(scope="session")
def secured_kafka(can_start_kafka: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A shared broker that knows the user ``alice`` and allows her nothing but what a test's ACLs do."""
    directory = tmp_path_factory.mktemp("kafka") / "secured"
    with KafkaServer.start(directory, scram_users={"alice": "alice-secret"}, authorizer=True) as server:
        yield server


def _choose(*, private: bool) -> BrokerChoice:
    choice = choose_broker(
        bootstrap_servers=os.environ.get("TPK_BOOTSTRAP_SERVERS"),
        startable=startable(),
        ci=bool(os.environ.get("CI")),
        private=private,
    )
    other_way = ": this test needs a broker of its own" if private else " or set TPK_BOOTSTRAP_SERVERS"
    hint = f"{INSTALL_HINT}{other_way}"
    if choice == "skip":
        pytest.skip(hint)
    if choice == "fail":
        pytest.fail(hint)
    return choice
