"""``trio-parallel-kafka demo``, whole, on the embedded broker."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError as ClientError, TopicPartition

from trio_parallel_kafka import ConsumerConfig, Ordering, ParallelKafkaError, Record
from trio_parallel_kafka.cli import consumption, demo, main, production
from trio_parallel_kafka.cli.arguments import WorkTime
from trio_parallel_kafka.cli.display import PlainDisplay
from trio_parallel_kafka.cli.orders import Order, Workload
from trio_parallel_kafka.cli.production import OrderProducer
from trio_parallel_kafka.cli.topics import EMBEDDED_CAPACITY, OrderTopic, open_topic
from trio_parallel_kafka.testing import open_embedded_broker

SMALL = ("demo", "--records", "300", "--keys", "20", "--work-ms", "1-2")
PROGRAM = (sys.executable, "-m", "trio_parallel_kafka")

Capture = pytest.CaptureFixture[str]


def orders_of(records: int, **changes: Any) -> Sequence[Order]:
    """A small workload's orders."""
    size: dict[str, Any] = {"keys": 3, "partitions": 2, "work_time": WorkTime(0.001, 0.002), **changes}
    return Workload.make(records=records, **size).orders


# The workload


def test_workload_is_spread_evenly() -> None:
    """Customers have as many orders each, stay in their partition, and are mixed; the work keeps to its bounds."""
    workload = Workload.make(records=1_000, keys=10, partitions=4, work_time=WorkTime(0.001, 0.005))
    assert [order.number for order in workload.orders] == list(range(1, 1_001))
    partitions_of: dict[str, list[int]] = {}
    for order in workload.orders:
        assert 0.001 <= order.work <= 0.005
        partitions_of.setdefault(order.customer, []).append(order.partition)
    assert [len(partitions) for partitions in partitions_of.values()] == [100] * 10
    assert all(len(set(partitions)) == 1 for partitions in partitions_of.values())
    assert workload.count_by_partition() == {0: 300, 1: 300, 2: 200, 3: 200}
    assert len({order.customer for order in workload.orders[:20]}) > 3
    assert workload.total_work == pytest.approx(3.0, rel=0.1)
    assert str(workload) == "1,000 orders of 10 customers in 4 partitions, 1-5 ms of work each"


def test_workload_is_the_same_each_time() -> None:
    """Runs of one size can be compared: they do the same work."""
    assert orders_of(50) == orders_of(50)


def test_fewer_orders_than_customers() -> None:
    """Only customers who ordered count."""
    workload = Workload.make(records=3, keys=500, partitions=4, work_time=WorkTime(0.001, 0.001))
    assert workload.customers == len({order.customer for order in workload.orders}) == 3


def test_orders_survive_the_broker() -> None:
    """What is read from a record is what was produced."""
    for order in orders_of(20):
        assert Order.from_record(Record("orders", order.partition, 0, key=order.key, value=order.value)) == order


def test_orders_fit_the_embedded_broker() -> None:
    """The capacity given for the embedded broker holds: none of as many of the longest orders is dropped."""
    with open_topic(None, partitions=1) as topic:
        longest = [Order(1_000_000, "customer-1000000", 0, 59.999999)] * EMBEDDED_CAPACITY
        OrderProducer(topic).produce(longest, lambda _count: None)
        low, high = watermarks(topic)
    assert (low, high) == (0, EMBEDDED_CAPACITY)


def watermarks(topic: OrderTopic) -> tuple[int, int]:
    """The first and the next offset of partition 0."""
    consumer = Consumer({"bootstrap.servers": topic.bootstrap_servers, "group.id": "any", "log_level": 0})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic.name, 0), timeout=10)
    finally:
        consumer.close()
    return low, high


# Production


def test_production_reports_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a bounded number is on its way; how many are acknowledged is told again and again."""
    monkeypatch.setattr(production, "MAX_UNDELIVERED", 10)
    counts: list[int] = []
    with open_topic(None, partitions=2) as topic:
        OrderProducer(topic).produce(orders_of(35), counts.append)
    assert counts == sorted(counts)
    assert len(counts) >= 4
    assert counts[-1] == 35


def test_order_that_is_not_taken_is_an_error(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that refuses an order ends the demonstration with one line."""
    with open_embedded_broker({"orders": 2}) as broker:
        broker.fail_next("Produce", *[ClientError.TOPIC_AUTHORIZATION_FAILED] * 10)
        topic = OrderTopic("orders", broker.bootstrap_servers, "a broker that refuses")
        with pytest.raises(ParallelKafkaError, match=r"couldn't produce to orders on a broker that refuses: .*auth"):
            OrderProducer(topic).produce(orders_of(5), lambda _count: None)


# Runs


@pytest.mark.parametrize("ordering", list(Ordering))
def test_small_run_passes(capsys: Capture, ordering: Ordering) -> None:
    """With each ordering every order is handled once, in the order promised; status 0."""
    status = main([*SMALL, "--ordering", ordering, "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    (line,) = out.splitlines()
    summary = json.loads(line)
    assert (
        summary.items()
        >= {
            "records": 300,
            "keys": 20,
            "partitions": 4,
            "ordering": ordering,
            "concurrency": 256,
            "missing": 0,
            "duplicates": 0,
            "passed": True,
        }.items()
    )
    if ordering is Ordering.PARTITION:
        assert summary["partition_order_violations"] == 0
        assert summary["peak_in_flight"] <= 4
    elif ordering is Ordering.KEY:
        assert summary["key_order_violations"] == 0
        assert 1 < summary["peak_in_flight"] <= 20
    assert 0.3 <= summary["one_at_a_time_seconds"] <= 0.6
    assert "300 orders of 20 customers in 4 partitions, 1-2 ms of work each" in err


def test_piped_run_prints_lines_and_a_table(capsys: Capture) -> None:
    """Without --json everything is on stdout, free of control sequences, and stderr is empty."""
    assert main([*SMALL, "--concurrency", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "on the embedded broker, up to 3 at once, one at a time for each customer\n" in out
    assert "produced 300\n" in out
    assert "handled 300 of 300\n" in out
    assert re.search(r"in flight at peak +3 +3 at most", out)
    assert out.endswith("Passed: none missing, none twice, each key in order.\n")


def test_broken_order_fails(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that doesn't keep the order of keys is found out: status 1."""
    ordered = OrderTopic.consumer_config

    def unordered(topic: OrderTopic, *, ordering: Ordering, max_concurrency: int) -> ConsumerConfig:
        assert ordering is Ordering.KEY
        return ordered(topic, ordering=Ordering.UNORDERED, max_concurrency=max_concurrency)

    monkeypatch.setattr(OrderTopic, "consumer_config", unordered)
    assert main(list(SMALL)) == 1
    assert re.search(r"FAILED: key order violations: \d+\n$", capsys.readouterr().out)


def test_missing_order_fails(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that never comes is waited for within a bound, and then missed: status 1."""
    monkeypatch.setattr(consumption, "PATIENCE", 1.0)
    produce = OrderProducer.produce
    monkeypatch.setattr(OrderProducer, "produce", lambda self, orders, report: produce(self, orders[:-1], report))
    assert main([*SMALL, "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["missing"], summary["duplicates"], summary["passed"]) == (1, 0, False)


def test_duplicate_order_fails(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that comes twice is noticed: status 1."""
    produce = OrderProducer.produce
    monkeypatch.setattr(
        OrderProducer, "produce", lambda self, orders, report: produce(self, [orders[0], *orders], report)
    )
    assert main([*SMALL, "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["missing"], summary["duplicates"], summary["passed"]) == (0, 1, False)


def test_run_in_which_nothing_happens() -> None:
    """Before the first order has started no time has passed."""
    workload = Workload.make(records=1, keys=1, partitions=1, work_time=WorkTime(0.001, 0.001))
    assert consumption.OrderConsumption(workload, Ordering.KEY, lambda _progress: None).seconds == 0.0


# Errors and interruptions


def test_unreachable_cluster_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong address ends with status 1 and one line that names it; no traceback."""
    monkeypatch.setattr("trio_parallel_kafka.cli.topics.CONNECT_TIMEOUT", 0.3)
    assert main(["demo", "--bootstrap-servers", "127.0.0.1:1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"trio-parallel-kafka: error: no answer from 127\.0\.0\.1:1 within 0\.3 s: .*\n", err)


def test_grouped_errors_are_a_line_each(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that leave a nursery together are told one by one."""

    def fail(*_: object) -> int:
        errors = [ParallelKafkaError("one"), ExceptionGroup("", [ParallelKafkaError("two")])]
        raise ExceptionGroup("both", errors)

    monkeypatch.setattr(demo, "_run", fail)
    assert main(list(SMALL)) == 1
    assert capsys.readouterr().err == "trio-parallel-kafka: error: one\ntrio-parallel-kafka: error: two\n"


def test_mistakes_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no trouble with Kafka leaves as it is, with its traceback."""
    monkeypatch.setattr(demo, "_run", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(list(SMALL))


def test_ctrl_c_leaves_nothing_behind(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle ends with status 130 and one line; no thread is left."""
    threads = busy_threads()
    handled = PlainDisplay.handled

    def interrupted(display: PlainDisplay, progress: Any) -> None:
        handled(display, progress)
        if progress.in_flight:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(PlainDisplay, "handled", interrupted)
    assert main(["demo", "--work-ms", "20000", "--records", "100"]) == 130
    assert capsys.readouterr().err == "trio-parallel-kafka: interrupted\n"
    assert busy_threads() == threads


def busy_threads() -> list[str]:
    """The names of all threads but those that Trio keeps for the next use."""
    return [thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread ")]


def test_ctrl_c_while_producing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a consumer Ctrl-C ends it the same way."""
    monkeypatch.setattr(PlainDisplay, "produced", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(list(SMALL)) == 130
    assert capsys.readouterr().err == "trio-parallel-kafka: interrupted\n"


# The process


def test_as_a_process() -> None:
    """``python -m trio_parallel_kafka demo`` prints its summary as the last line, and nothing else on stdout."""
    finished = subprocess.run(
        [*PROGRAM, "demo", "--records", "500", "--json"], capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    summary = json.loads(line)
    assert (summary["records"], summary["missing"], summary["key_order_violations"]) == (500, 0, 0)
    assert finished.stderr.splitlines()[-1] == "handled 500 of 500"
    assert "rdkafka" not in finished.stderr


def test_process_interrupted() -> None:
    """SIGINT ends the process with status 130 and one last line; the client has nothing to say about it."""
    with subprocess.Popen(
        [*PROGRAM, "demo", "--work-ms", "500", "--json"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("handled"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert [line for line in rest if not line.startswith("handled")] == ["trio-parallel-kafka: interrupted"]


def test_process_whose_reader_has_gone() -> None:
    """``... | head -n 1``: no complaint, and a status of its own."""
    with subprocess.Popen(
        [*PROGRAM, "demo", "--records", "500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (141, "")


def test_import_needs_no_rich() -> None:
    """Without rich the package and its command line can be imported, and people are told what to install."""
    script = (
        "import sys; sys.modules['rich'] = None; import trio_parallel_kafka; "
        "from trio_parallel_kafka.cli import main; sys.exit(main(['demo', '--records', '50']))"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    expected = (
        "trio-parallel-kafka: error: this needs rich, which is not installed: pip install 'trio-parallel-kafka[cli]'\n"
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (1, "", expected)


# The version


@pytest.mark.parametrize("is_installed", [True, False])
def test_version(capsys: Capture, monkeypatch: pytest.MonkeyPatch, *, is_installed: bool) -> None:
    """--version names the installed version, or says that there is none."""

    def version(name: str) -> str:
        assert name == "trio-parallel-kafka"
        if not is_installed:
            raise metadata.PackageNotFoundError
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    expected = "1.2.3" if is_installed else "(a checkout that isn't installed)"
    assert capsys.readouterr().out == f"trio-parallel-kafka {expected}\n"
