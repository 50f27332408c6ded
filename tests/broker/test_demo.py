"""The demonstration on a real broker: it works there, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from broker.cluster import Cluster
from confluent_kafka.admin import AdminClient

from trio_parallel_kafka.cli import main

PREFIX = "trio-parallel-kafka-demo-"
PATIENCE = 60.0


def left_behind(kafka: Cluster) -> set[str]:
    """The names of the topics and groups of demonstrations that are there now."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    groups = admin.list_consumer_groups(request_timeout=PATIENCE).result().valid
    names = {*admin.list_topics(timeout=PATIENCE).topics, *(group.group_id for group in groups)}
    return {name for name in names if name.startswith(PREFIX)}


def await_nothing_left(kafka: Cluster, before: set[str]) -> None:
    """Wait until what came on top of ``before`` is gone: brokers learn of a deletion one after another."""
    deadline = time.monotonic() + PATIENCE
    while left := left_behind(kafka) - before:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def test_demo_passes_and_deletes_its_topic_and_group(kafka: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is handled once, in order; then topic and group are gone."""
    before = left_behind(kafka)
    status = main(["demo", "--bootstrap-servers", kafka.bootstrap_servers, "--records", "2000", "--json"])
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    print(summary)
    assert (status, summary["passed"], summary["missing"]) == (0, True, 0)
    assert f"on {kafka.bootstrap_servers}" in err
    await_nothing_left(kafka, before)


def test_ctrl_c_deletes_topic_and_group(kafka: Cluster) -> None:
    """Interrupted in the middle, the demonstration takes its topic and its group along."""
    before = left_behind(kafka)
    demo = [sys.executable, "-m", "trio_parallel_kafka", "demo", "--bootstrap-servers", kafka.bootstrap_servers]
    with subprocess.Popen(
        [*demo, "--work-ms", "1000", "--json"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("handled"):
                assert left_behind(kafka) - before
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "trio-parallel-kafka: interrupted"
    assert "warning" not in rest
    await_nothing_left(kafka, before)
