"""What goes wrong on the way and at the end: each a clear error, in bounded time, nothing lost, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError as ClientError
from embedded.kit import (
    PATIENCE,
    Handled,
    all_places,
    committed,
    configured,
    handle_all,
    partitions_of,
    running,
    send,
    until,
)

from trio_parallel_kafka import (
    KafkaError,
    Record,
    parallel_consumer,
)
from trio_parallel_kafka.control import kafka_client
from trio_parallel_kafka.control.poll_thread import PollThread
from trio_parallel_kafka.testing import EmbeddedBroker


async def test_the_brokers_come_back(embedded_broker: EmbeddedBroker) -> None:
    """While every broker is down nothing ends; when they are up again it goes on, and nothing is lost."""
    send(embedded_broker, 20)
    handled = Handled()
    async with running(configured(embedded_broker), handled) as pc:
        await handled.wait(20)
        embedded_broker.down()
        await until(lambda: pc.statistics().last_error is not None)
        assert "the client reports" in pc.statistics().last_error
        embedded_broker.up()
        send(embedded_broker, 20, at=20)
        await until(lambda: len(set(handled.places)) == 40)
        await until(lambda: {each.committed for each in partitions_of(pc).values()} == {20})
    assert sorted(set(handled.places)) == all_places(40)
    assert committed(embedded_broker) == [(20, ()), (20, ())]


async def test_a_callback_that_raises(
    nothing_stays: None, embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rebalance callback raises ends the consumer with an error; the client never sees it."""

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(PollThread, "_ask", fail)
    send(embedded_broker, 6)
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc:
            with pytest.raises(KafkaError, match="the Kafka client ended: injected") as caught:
                await pc.run(Handled())
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
    monkeypatch.undo()
    assert sorted((await handle_all(configured(embedded_broker), 6)).places) == all_places(6)


async def test_an_acknowledgement_that_raises(
    nothing_stays: None, embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a commit's acknowledgement, and for whoever waits for it."""
    acknowledge = PollThread._on_commit

    def forget_and_acknowledge(thread: PollThread, *answer: Any) -> None:
        thread._awaiting_commit.clear()
        acknowledge(thread, *answer)

    monkeypatch.setattr(PollThread, "_on_commit", forget_and_acknowledge)
    send(embedded_broker, 6)
    handled = Handled()
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc:
            with pytest.raises(KafkaError, match="the Kafka client ended: pop from an empty deque") as caught:
                await pc.run(handled)
            assert isinstance(caught.value.__cause__, IndexError)
            with pytest.raises(KafkaError, match="the Kafka client ended"):
                await pc.wait_assigned()
    for partition, (offset, above) in enumerate(committed(embedded_broker)):
        said = {*range(offset), *(each for start, end in above for each in range(start, end))}
        assert said <= {place[1] for place in handled.places if place[0] == partition}


async def test_a_fatal_error_arrives_once(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """A member that is refused for good ends with an error that names the reason."""
    send(embedded_broker, 6)
    config = configured(embedded_broker, kafka={"group.instance.id": "a"})
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(config) as pc:
            embedded_broker.fail_next("ConsumerGroupHeartbeat", ClientError.UNRELEASED_INSTANCE_ID)
            with pytest.raises(KafkaError, match=r"fatal error: .* still used by another member"):
                await pc.run(Handled())
            with pytest.raises(KafkaError, match="fatal error"):
                await pc.wait_assigned()


async def test_what_the_body_raises(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """An error of the body leaves as it is, after handlers were cancelled and what completed was committed."""
    send(embedded_broker, 6)

    async def hang(record: Record) -> None:
        if record.offset == 2:
            await trio.sleep_forever()

    handled = Handled(hang)
    error = ZeroDivisionError("the body")
    with trio.fail_after(PATIENCE), pytest.RaisesGroup(ZeroDivisionError) as caught:
        async with (
            parallel_consumer(configured(embedded_broker, commit_interval=PATIENCE)) as pc,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pc.run, handled)
            await handled.wait(4)
            raise error
    assert caught.value.exceptions == (error,)
    assert committed(embedded_broker) == [(2, ()), (2, ())]


async def test_what_a_handler_raises(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """A handler's error leaves in a group, with a note of the place; what completed is committed."""
    send(embedded_broker, 6)

    async def fail(record: Record) -> None:
        if (record.partition, record.offset) == (1, 1):
            raise ZeroDivisionError

    handled = Handled(fail)
    with trio.fail_after(PATIENCE):
        async with parallel_consumer(configured(embedded_broker)) as pc:
            with pytest.RaisesGroup(ZeroDivisionError) as caught:
                await pc.run(handled)
    (note,) = caught.value.exceptions[0].__notes__
    assert "topic='orders' partition=1 offset=1 key=b'k3'" in note
    done = {place for place in handled.places if place[0] == 1}
    offset, above = committed(embedded_broker)[1]
    assert offset == 1
    assert done == {(1, 0)} | {(1, number) for start, end in above for number in range(start, end)}


async def test_cancelled_from_outside(nothing_stays: None, embedded_broker: EmbeddedBroker) -> None:
    """A cancellation cancels the handlers at once, commits what completed, and leaves."""
    send(embedded_broker, 6)

    async def hang(record: Record) -> None:
        if record.offset == 2:
            await trio.sleep_forever()

    handled = Handled(hang)
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with (
            parallel_consumer(configured(embedded_broker, commit_interval=PATIENCE)) as pc,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pc.run, handled)
            await handled.wait(4)
            scope.cancel()
    assert scope.cancelled_caught
    assert committed(embedded_broker) == [(2, ()), (2, ())]


LEAVE_WITHOUT_BROKERS = """
import sys
import threading
import traceback
import trio
from embedded.kit import Handled, configured, send
from trio_parallel_kafka import parallel_consumer
from trio_parallel_kafka.testing import open_embedded_broker

def polling_threads():
    stacks = ["".join(traceback.format_stack(frame)) for frame in sys._current_frames().values()]
    return sum("poll_thread.py" in stack for stack in stacks)

async def main():
    with open_embedded_broker({{"orders": 2}}) as broker:
        send(broker, 10)
        config = configured(broker, close_timeout={close_timeout}, revoke_grace=0, commit_interval=60.0)
        handled = Handled()
        try:
            with trio.CancelScope() as scope:
                async with parallel_consumer(config) as pc, trio.open_nursery() as nursery:
                    nursery.start_soon(pc.run, handled)
                    await handled.wait(10)
                    {body}
        except BaseException as error:
            print(repr(error), *getattr(error, "__notes__", ()), sep="\\n")
        print(f"left: {{polling_threads()}} thread, {{pc.statistics().state}}")
        assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())

trio.run(main)
print("ended")
"""

NOT_CLOSED = (
    "while leaving, CloseTimeoutError: the Kafka client didn't close within 0.5 s (close_timeout); is the broker down? "
    "One daemon thread is left to it"
)


def leave_without_brokers(body: str, close_timeout: float = 0.5) -> list[str]:
    """Run a consumer in another process whose brokers go down before it leaves; give what it says.

    In another, because the client that doesn't end would be in the way of other tests.
    """
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", LEAVE_WITHOUT_BROKERS.format(body=body, close_timeout=close_timeout)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests)))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


COMMIT_FAILED = "CommitError(\"the last commit wasn't acknowledged within 0.5 s (close_timeout)"


def test_stopping_without_brokers() -> None:
    """Stopped while the brokers are down, run() tells of the commit, and the block of the client that doesn't end."""
    error, *rest = leave_without_brokers("broker.down(); pc.stop()")
    assert error.startswith(f"ExceptionGroup('Exceptions from Trio nursery', [{COMMIT_FAILED}")
    assert rest == [NOT_CLOSED, "left: 1 thread, closed", "ended"]


def test_an_error_without_brokers() -> None:
    """What the body raises leaves beside the commit's failure, with a note about the client that doesn't end."""
    error, *rest = leave_without_brokers("broker.down(); 1 / 0")
    assert COMMIT_FAILED in error
    assert "ZeroDivisionError('division by zero')" in error
    assert rest == [NOT_CLOSED, "left: 1 thread, closed", "ended"]


def test_a_cancellation_without_brokers() -> None:
    """A cancelled block ends in time, too; what failed takes the place of the cancellation."""
    error, *rest = leave_without_brokers("broker.down(); scope.cancel()")
    assert COMMIT_FAILED in error
    assert "Cancelled" not in error
    assert rest == [NOT_CLOSED, "left: 1 thread, closed", "ended"]


def test_leaving_with_brokers() -> None:
    """With brokers nothing is left, and nothing is told."""
    assert leave_without_brokers("pc.stop()", close_timeout=PATIENCE) == ["left: 0 thread, closed", "ended"]


async def test_an_interrupt_while_the_client_closes(
    embedded_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C, while the client closes, ends the block: the thread is left to the client."""
    clients: list[kafka_client.KafkaClient] = []

    async def interrupted(client: kafka_client.KafkaClient) -> bool:
        clients.append(client)
        raise KeyboardInterrupt

    monkeypatch.setattr(kafka_client.KafkaClient, "close", interrupted)
    threads = threading.active_count()
    with trio.fail_after(PATIENCE), pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with parallel_consumer(configured(embedded_broker)):
            pass
    (client,) = clients
    client._thread.submit(client._thread.stop)
    await until(lambda: threading.active_count() <= threads + 1)  # Trio keeps one that is done
