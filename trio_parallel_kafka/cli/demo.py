"""``trio-parallel-kafka demo``: see it work, verified."""

from __future__ import annotations

import argparse
import functools
import sys
from typing import Any, Final

import trio

from trio_parallel_kafka.cli.arguments import WorkTime, servers, whole_number
from trio_parallel_kafka.cli.consumption import OrderConsumption
from trio_parallel_kafka.cli.display import open_display
from trio_parallel_kafka.cli.orders import Workload
from trio_parallel_kafka.cli.production import OrderProducer
from trio_parallel_kafka.cli.summary import Summary
from trio_parallel_kafka.cli.topics import EMBEDDED_CAPACITY, open_topic
from trio_parallel_kafka.config import Ordering

DESCRIPTION: Final = """\
Produce orders of many customers to a few partitions, handle them in parallel with a
little asynchronous work each, then verify from what the handlers saw that none is
missing, none came twice and every customer's orders came in their order, never two at
once.

It needs no Kafka: a broker embedded in this process plays the cluster. With
--bootstrap-servers it runs on a real one, in a topic and a group of its own with a
unique name, which it deletes at the end, also after Ctrl-C.
"""

EPILOG: Final = """\
examples:
  trio-parallel-kafka demo
  trio-parallel-kafka demo --records 100000 --keys 5000 --concurrency 1000
  trio-parallel-kafka demo --bootstrap-servers localhost:9092 --partitions 12
  trio-parallel-kafka demo --ordering partition --records 2000
  trio-parallel-kafka demo --json 2>progress.log | tail -n 1 | jq .speed_up

The summary names the throughput beside that of a consumer that takes one record at a
time, at best: the sum of all work. Times count from the first start of a handler to the
last end.

exit status: 0 all checks passed, 1 one failed or Kafka did, 2 the arguments are wrong,
130 interrupted.
"""

_KEPT_IN_ORDER: Final = {
    Ordering.KEY: "one at a time for each customer",
    Ordering.PARTITION: "one at a time in each partition",
    Ordering.UNORDERED: "in no order",
}


def add_parser(commands: Any) -> None:
    """Add this command's parser to those of :func:`trio_parallel_kafka.cli.main`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="see it work on an embedded broker or a real cluster, verified",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--bootstrap-servers",
        type=servers,
        metavar="HOST:PORT",
        help="a real cluster instead of the embedded broker; several with commas between them",
    )
    add("--records", type=whole_number(1_000_000), default=20_000, metavar="N", help="orders (default: 20,000)")
    add("--keys", type=whole_number(1_000_000), default=500, metavar="N", help="customers (default: 500)")
    add("--partitions", type=whole_number(1_000), default=4, metavar="N", help="of the topic (default: 4)")
    add(
        "--work-ms",
        type=WorkTime.parse,
        default="1-5",
        metavar="MS",
        help="asynchronous work on an order, in milliseconds: a number or a range (default: 1-5)",
    )
    add(
        "--concurrency",
        type=whole_number(10_000),
        default=256,
        metavar="N",
        help="handlers that may run at once (default: 256)",
    )
    add(
        "--ordering",
        choices=[str(ordering) for ordering in Ordering],
        default=str(Ordering.KEY),
        help="what is handled one after another: the orders of a key, of a partition, or none (default: key)",
    )
    add(
        "--json",
        action="store_true",
        help="the summary as one JSON object on the last line of stdout; progress goes to stderr",
    )
    parser.set_defaults(run=functools.partial(_checked_run, parser))


def _checked_run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Refuse what the embedded broker couldn't hold; it would drop records."""
    workload = Workload.make(
        records=options.records, keys=options.keys, partitions=options.partitions, work_time=options.work_ms
    )
    most = max(workload.count_by_partition().values())
    if options.bootstrap_servers is None and most > EMBEDDED_CAPACITY:
        parser.error(
            f"the embedded broker keeps {EMBEDDED_CAPACITY:,} orders a partition, and one would get {most:,}: "
            "give fewer --records, more --partitions and --keys, or a real cluster (--bootstrap-servers)"
        )
    return _run(workload, options)


def _run(workload: Workload, options: argparse.Namespace) -> int:
    ordering, concurrency = Ordering(options.ordering), options.concurrency
    with (
        open_display(workload, as_json=options.json) as display,
        open_topic(options.bootstrap_servers, partitions=options.partitions) as topic,
    ):
        display.say(str(workload))
        display.say(f"on {topic.place}, up to {concurrency:,} at once, {_KEPT_IN_ORDER[ordering]}")
        OrderProducer(topic).produce(workload.orders, display.produced)
        consumption = OrderConsumption(workload, ordering, display.handled)
        config = topic.consumer_config(ordering=ordering, max_concurrency=concurrency)
        # Ctrl-C then strikes at one defined place, instead of in whatever runs at the moment.
        trio.run(consumption.run, config, restrict_keyboard_interrupt_to_checkpoints=True)
    summary = Summary.of(
        workload, consumption.verifier, ordering=ordering, concurrency=concurrency, seconds=consumption.seconds
    )
    if options.json:
        print(summary.as_json())
    else:
        from trio_parallel_kafka.cli.drawing import draw_summary  # noqa: PLC0415 - it needs the extra

        draw_summary(summary, sys.stdout)
    return 0 if summary.has_passed else 1
