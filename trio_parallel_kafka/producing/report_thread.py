"""The one thread that asks the client what became of the records.

Rules
-----

- Each report costs a turn at the GIL, and each crossing to the Trio side a wake-up: so the thread collects what one
  ``poll()`` reports, and where the loop hasn't taken the last lot yet, it adds to that.
- A record leaves the client's queue only after its report's callback has returned. So a lot crosses when ``poll()`` is
  through: whoever waits for room would find none before.
- The client is closed only once the Trio side has let go of it: it may not be used while, or after, it is closed.
- A fatal error is raised by ``poll()``, in the midst of reports; those that got lost so are settled on the Trio side.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from confluent_kafka import KafkaError as ClientError, KafkaException, Message, Producer

from trio_parallel_kafka.errors import BrokerUnreachableError, ConfigError
from trio_parallel_kafka.failures import final_error
from trio_parallel_kafka.producing.deliveries import PendingDelivery
from trio_parallel_kafka.repeats import QuietLogger

logger: logging.Logger = logging.getLogger("trio_parallel_kafka.producer")

POLL_TIMEOUT: Final = 0.05
"""Seconds that a poll may wait: there is no way to wake it, so the end of the block waits as long."""

LAST_REPORTS: Final = 1.0
"""Seconds for the reports of what a closing client gives up: the client makes them beside, within milliseconds."""

CONNECT_SLICE: Final = 0.1
"""Seconds between two looks at what the client reports while the cluster is sought."""

Report = tuple[PendingDelivery, ClientError | None, Message]


class Listener(Protocol):
    """The Trio side; called from the thread."""

    def opened(self, client: Producer) -> None:
        """The cluster is found: records can be sent."""

    def reported(self, reports: list[Report]) -> None:
        """This became of some records."""

    def troubled(self, error: ClientError) -> None:
        """The client reports what may pass."""

    def failed(self, error: BaseException) -> None:
        """The client can't go on; :meth:`ReportThread.stop` is due."""


class ReportThread:
    """Makes a ``confluent_kafka.Producer``, polls it for reports, and closes it.

    Args:
        properties: librdkafka's, without callbacks.
        connect_timeout: seconds within which the cluster has to be found.
        listener: who is told.
    """

    def __init__(self, properties: Mapping[str, Any], connect_timeout: float, listener: Listener) -> None:
        self._properties: Final = properties
        self._connect_timeout: Final = connect_timeout
        self._listener: Final = listener
        self._reports: list[Report] = []
        self._trouble: ClientError | None = None
        self._is_stopping = False
        self.flushing: int = 0
        """How many wait for all that was sent: then nothing lingers in the hope of more. Set by the Trio side."""

    def stop(self) -> None:
        """End soon; the client isn't used any more. From any thread."""
        self._is_stopping = True

    def report(self, delivery: PendingDelivery, error: ClientError | None, message: Message) -> None:
        """Called back by ``poll()`` for each record."""
        self._reports.append((delivery, error, message))

    def run(self) -> None:
        """The thread's life, until :meth:`stop`."""
        client = self._open()
        try:
            self._guarded(lambda: self._connect(client))
            while not self._is_stopping:
                serve = client.flush if self.flushing else client.poll
                self._guarded(functools.partial(serve, POLL_TIMEOUT))
                self._hand_over()
        finally:
            self._close(client)

    def _open(self) -> Producer:
        callbacks = {"error_cb": self._on_error, "logger": QuietLogger(self._properties.get("logger", logger))}
        try:
            return Producer({**self._properties, **callbacks})
        except KafkaException as error:
            raise ConfigError([f"kafka: librdkafka refuses the properties: {error.args[0].str()}"]) from error

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:  # noqa: ASYNC103, BLE001 - carried to the Trio side, which says when to stop
            self._listener.failed(error)

    def _connect(self, client: Producer) -> None:
        deadline = time.monotonic() + self._connect_timeout
        while not self._is_stopping:
            try:
                client.cluster_id(timeout=CONNECT_SLICE)
            except KafkaException as error:
                self._look_for_trouble(client)
                if time.monotonic() >= deadline:
                    raise self._unreachable() from error
            else:
                self._listener.opened(client)
                return

    def _look_for_trouble(self, client: Producer) -> None:
        """Have the client report what it does so on the side, wrong credentials for one."""
        client.poll(0)
        if self._trouble is not None:
            error = final_error(self._trouble, is_running=False)
            if error is not None:
                raise error

    def _unreachable(self) -> BrokerUnreachableError:
        reported = "nothing is reported" if self._trouble is None else self._trouble.str()
        return BrokerUnreachableError(
            f"no answer from {self._properties['bootstrap.servers']} within {self._connect_timeout} s "
            f"(connect_timeout): {reported}"
        )

    def _on_error(self, error: ClientError) -> None:
        if error.code() != ClientError._ALL_BROKERS_DOWN:  # noqa: SLF001 - it doesn't say why
            self._trouble = error
            self._listener.troubled(error)

    def _hand_over(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._listener.reported(reports)

    def _close(self, client: Producer) -> None:
        """Have the client give up what it still holds, and close it."""
        try:
            client.purge()
            deadline = time.monotonic() + LAST_REPORTS
            while len(client) and time.monotonic() < deadline:
                client.poll(POLL_TIMEOUT)
        finally:
            self._hand_over()
            client.close()
