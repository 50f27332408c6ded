"""A real Apache Kafka broker in a process of its own, for tests that kill, freeze and restart it.

One node in KRaft mode on loopback. Two ways in: a plaintext listener, and, where SCRAM users are named, a
SASL_PLAINTEXT one. The calls block; an async test wraps them in :func:`trio.to_thread.run_sync`.
"""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self

from broker.kafka_jars import fetch_jars
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0

# Below the range from which systems pick ports for outgoing connections: while the broker is down nobody
# else gets its port by chance, and a client that reconnects can't end up connected to itself.
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS = 5
_LOG_TAIL_LINES = 40

_JAVA_OPTIONS = (
    "-Xmx1g",
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

# The shell becomes the broker only once it is told to, which is after its guard has been started.
_WAIT_THEN_EXEC = 'read -r _ && exec "$@" </dev/null'
# The guard's standard input ends without a line when the test process dies, however it dies. (The kernel's
# parent-death signal won't do: it fires when the *thread* that started the child ends.)
_GUARD = 'read -r _ || { kill -9 "$1"; rm -rf "$2"; }'

_SETTINGS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_PLAINTEXT",
    "auto.create.topics.enable": "false",
    "delete.topic.enable": "true",
    # One node holds the only replica of everything; few internal partitions make the start faster.
    "default.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Groups: rebalance at once, let tests choose short sessions.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "300",
    # A broker that was killed may register again once its old session has timed out.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    # Compaction and retention within a test's time, in little memory.
    "log.initial.task.delay.ms": "500",
    "log.cleaner.backoff.ms": "500",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.retention.check.interval.ms": "1000",
}


class BrokerStartError(RuntimeError):
    """The broker didn't come up; the message ends with the tail of its log."""


class StartKafka(Protocol):
    """What the fixture ``private_kafka`` is: it starts a broker for one test."""

    def __call__(self, **options: Any) -> KafkaServer:
        """Start a broker with the options of :meth:`KafkaServer.start`."""


class KafkaServer:
    """One broker, made by :meth:`start`. Its ports and its data stay the same over every restart."""

    def __init__(
        self,
        directory: Path,
        *,
        properties: Mapping[str, str],
        java_options: Sequence[str],
        scram_users: Mapping[str, str],
    ) -> None:
        self.directory = directory
        self.log_path = directory / "server.log"
        self.start_seconds = 0.0
        self._properties_path = directory / "server.properties"
        self._properties = properties
        self._java_options = java_options
        self._scram_users = scram_users
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @classmethod
    @contextmanager
    def start(
        cls,
        directory: Path,
        *,
        properties: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
        scram_users: Mapping[str, str] | None = None,
        authorizer: bool = False,
        super_users: Sequence[str] = (),
    ) -> Iterator[Self]:
        """Run a broker for the length of a ``with`` block; neither process nor ``directory`` outlives it.

        Args:
            directory: where data and log go; must not exist yet.
            properties: broker settings, over the ones chosen for tests.
            java_options: for the JVM, after the ones chosen for tests.
            scram_users: passwords by user name, for SCRAM-SHA-256. Given any, :attr:`bootstrap_servers` is
                a listener that demands a login.
            authorizer: refuse what no ACL allows. The plaintext listener stays all-powerful.
            super_users: names of users whom no ACL restrains.

        Raises:
            BrokerStartError: if the broker dies or doesn't answer in time.
        """
        security = _authorizer_settings(super_users) if authorizer else {}
        server = cls(
            directory,
            properties={**security, **(properties or {})},
            java_options=java_options,
            scram_users=scram_users or {},
        )
        directory.mkdir(parents=True)
        with ExitStack() as cleanup:
            cleanup.callback(shutil.rmtree, directory)
            cleanup.callback(server.kill)
            server._start_first_time()
            yield server

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect: the secured listener if the broker has users, else the plaintext one."""
        return f"127.0.0.1:{self._ports[-1] if self._scram_users else self._ports[0]}"

    @property
    def admin_bootstrap_servers(self) -> str:
        """The plaintext listener, where nobody has to log in and everything is allowed."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        return self._running().pid

    def login(self, user: str, password: str | None = None) -> dict[str, str]:
        """Return the client properties that log ``user`` in, with its true password unless one is given."""
        return {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": user,
            "sasl.password": self._scram_users[user] if password is None else password,
        }

    def stop(self) -> None:
        """Shut the broker down in good order; kill it if that takes longer than :data:`STOP_TIMEOUT`."""
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
            self.kill()

    def kill(self) -> None:
        """End the broker at once, as a crash would (``SIGKILL``). Does nothing if it isn't running."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None
            self._frozen = False
        if self._guard is not None:
            self._guard.communicate(b"\n")
            self._guard = None

    def freeze(self) -> None:
        """Let the broker hold its connections and answer nothing (``SIGSTOP``)."""
        if not self._frozen:
            self._running().send_signal(signal.SIGSTOP)
            os.waitpid(self.pid, os.WUNTRACED)
            self._frozen = True

    def thaw(self) -> None:
        """Let a frozen broker go on (``SIGCONT``)."""
        self._running().send_signal(signal.SIGCONT)
        self._frozen = False

    def restart(self) -> None:
        """Stop the broker in good order and start it again."""
        self.stop()
        self.start_again()

    def start_again(self) -> None:
        """Start the broker after :meth:`stop` or :meth:`kill`, on the same ports, with its data.

        Raises:
            BrokerStartError: as :meth:`start`.
        """
        if self._process is not None:
            raise RuntimeError("the broker is still running")
        began = time.monotonic()
        try:
            self._launch()
            self._wait_ready(began + START_TIMEOUT)
        except BrokerStartError:
            self.kill()
            raise
        self.start_seconds = time.monotonic() - began

    def log_tail(self) -> str:
        """Return the last lines of what the broker has logged."""
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the broker isn't running")
        return self._process

    def _start_first_time(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._ports = _free_ports(3 if self._scram_users else 2)
            self._write_properties()
            if attempt == 1:
                self._format_storage()
            try:
                self.start_again()
            except BrokerStartError as error:
                # Somebody may have taken a port between the look and the start.
                if "BindException" not in str(error) or attempt == _PORT_ATTEMPTS:
                    raise
                self.log_path.unlink()
            else:
                return

    def _write_properties(self) -> None:
        plaintext, controller, *secured = self._ports
        listeners = [f"PLAINTEXT://127.0.0.1:{plaintext}", f"CONTROLLER://127.0.0.1:{controller}"]
        listeners += [f"SECURED://127.0.0.1:{port}" for port in secured]
        settings = {
            **_SETTINGS,
            **(_SCRAM_SETTINGS if secured else {}),
            "log.dirs": str(self.directory / "data"),
            "listeners": ",".join(listeners),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            **self._properties,
        }
        self._properties_path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _format_storage(self) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = ["format", f"--cluster-id={cluster_id}", "-c", str(self._properties_path)]  # an id may begin with "-"
        for user, password in self._scram_users.items():
            command += ["--add-scram", f"SCRAM-SHA-256=[name={user},password={password}]"]
        result = subprocess.run(
            _java("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_TIMEOUT,
            check=False,
        )
        if result.returncode != 0:
            raise BrokerStartError(f"the broker's storage could not be formatted:\n{result.stdout}")

    def _launch(self) -> None:
        broker = _java(*self._java_options, "kafka.Kafka", str(self._properties_path))
        with self.log_path.open("ab") as log:
            self._process = _shell(_WAIT_THEN_EXEC, *broker, output=log.fileno())
        self._guard = _shell(_GUARD, str(self._process.pid), str(self.directory))
        assert self._process.stdin is not None
        with self._process.stdin as gate:
            gate.write(b"\n")

    def _wait_ready(self, deadline: float) -> None:
        assert self._process is not None
        settings: dict[str, Any] = {
            "bootstrap.servers": self.admin_bootstrap_servers,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,
            "error_cb": lambda _error: None,
        }
        admin = AdminClient(settings)
        while time.monotonic() < deadline:
            status = self._process.poll()
            if status is not None:
                raise BrokerStartError(f"the broker ended with status {status} while starting:\n{self.log_tail()}")
            with suppress(KafkaException):
                if admin.list_topics(timeout=0.5).brokers:
                    return
            time.sleep(0.02)
        raise BrokerStartError(f"the broker didn't answer within {START_TIMEOUT:g} s:\n{self.log_tail()}")


_SCRAM_SETTINGS = {
    "sasl.enabled.mechanisms": "SCRAM-SHA-256",
    "listener.name.secured.scram-sha-256.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
}


def _authorizer_settings(super_users: Sequence[str]) -> dict[str, str]:
    # The controller and the plaintext listener know their peers as ANONYMOUS.
    names = ["ANONYMOUS", *super_users]
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": ";".join(f"User:{name}" for name in names),
    }


def _java(*arguments: str) -> list[str]:
    return ["java", *_JAVA_OPTIONS, "-cp", f"{fetch_jars()}/*", *arguments]


def _shell(script: str, *arguments: str, output: int | None = None) -> subprocess.Popen[bytes]:
    # In a session of its own: Ctrl-C at the terminal reaches the tests, which then end the broker.
    return subprocess.Popen(
        ["sh", "-c", script, "sh", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if output is None else output,
        stderr=subprocess.DEVNULL if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def _free_ports(count: int) -> list[int]:
    # The system's randomness: test runs side by side may share a seed.
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))
    ports: list[int] = []
    with ExitStack() as held:
        for port in candidates:
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError(f"no {count} free ports in {_PORTS}")
