"""``trio-parallel-kafka run``, whole: one member in this process, and fleets in processes, on the embedded broker."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing
from cli.fleet_kit import HANDLER, PATIENCE, Program, environment, full_pipe, is_alive, on, running
from confluent_kafka import Producer

from trio_parallel_kafka import ConfigError, ConsumerConfig
from trio_parallel_kafka.cli import main
from trio_parallel_kafka.cli.fleet.member import Member
from trio_parallel_kafka.cli.fleet.showing import Showing
from trio_parallel_kafka.cli.fleet.source import ConfigSource, make_current_directory_importable
from trio_parallel_kafka.cli.fleet.statistics import FleetStatistics
from trio_parallel_kafka.cli.fleet.supervisor import Supervisor
from trio_parallel_kafka.testing import EmbeddedBroker, open_embedded_broker

Capture = pytest.CaptureFixture[str]

NOWHERE = environment("127.0.0.1:1", PARALLEL_CONSUMER_CONNECT_TIMEOUT="0.2")


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """An embedded broker with the topic ``orders``, of four partitions."""
    with open_embedded_broker({"orders": 4}) as broker:
        yield broker


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one, and that can be imported from until the test ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    return tmp_path


@pytest.fixture
def configured(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is configured for that broker."""
    configure(monkeypatch, on(broker))


def send(broker: EmbeddedBroker, count: int) -> None:
    """Produce numbered records, in turn to all partitions."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 1, "log_level": 0})
    for number in range(count):
        producer.produce("orders", key=b"k%d" % number, value=b"%d" % number, partition=number % 4)
    assert producer.flush(PATIENCE) == 0


def configure(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set the environment of this process."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def module(folder: Path, text: str) -> str:
    """Make a module that nobody has imported yet, and return its name."""
    name = f"{folder.name}_handlers".replace("-", "_")
    (folder / f"{name}.py").write_text(text)
    return name


# One member, in this process

COUNTING = """
import os, signal, threading
seen = []

async def handle(record):
    seen.append((threading.current_thread() is threading.main_thread(), os.getpid()))
    if len(seen) == 20:
        os.kill(os.getpid(), signal.SIGTERM)
"""


def test_one_member_runs_in_this_process(
    broker: EmbeddedBroker, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """It handles what there is, drains on a signal with status 0, and leaves signals as they were."""
    send(broker, 20)
    configure(monkeypatch, on(broker))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    name = module(here, COUNTING)
    assert main(["run", f"{name}:handle", "--json", "--statistics", "0", "--status-file", "status.json"]) == 0
    assert sys.modules[name].seen == [(True, os.getpid())] * 20
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    fleet = FleetStatistics.from_json(line)
    assert (fleet.state, fleet.totals.completed) == ("stopped", 20)
    assert FleetStatistics.from_json((here / "status.json").read_text()).totals == fleet.totals
    assert "draining: what runs may finish within 30 s (shutdown_timeout); a second signal kills" in err


def test_the_identity_of_one_member(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identities are prefixes for one member, too; its index is that of the first."""
    made: list[ConsumerConfig] = []

    async def run(member: Member) -> None:
        made.append(member.config)
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep(0.1)

    monkeypatch.setattr(Member, "run", run)
    configure(monkeypatch, {**NOWHERE, "PARALLEL_CONSUMER_KAFKA_GROUP_INSTANCE_ID": "till"})
    assert main(["run", f"{module(here, COUNTING)}:handle", "--first-member", "7"]) == 0
    assert [config.kafka["group.instance.id"] for config in made] == ["till-7"]


async def test_a_drain_before_the_cluster_is_found(
    broker: EmbeddedBroker, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to drain, so it ends at once."""
    broker.down()
    monkeypatch.syspath_prepend(here)
    config = ConsumerConfig.from_env(on(broker, PARALLEL_CONSUMER_CONNECT_TIMEOUT="3600"))
    member = Member(config, f"{module(here, COUNTING)}:handle")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.run)
            await trio.testing.wait_all_tasks_blocked()
            assert member.report().statistics is None
            member.drain()


async def test_a_member_that_has_begun(broker: EmbeddedBroker, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once it has partitions."""
    monkeypatch.syspath_prepend(here)
    member = Member(ConsumerConfig.from_env(on(broker)), f"{module(here, COUNTING)}:handle")
    assert not member.report().has_begun
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.run)
            while not member.report().has_begun:
                await trio.sleep(0.01)
            statistics = member.report().statistics
            member.drain()
    assert statistics is not None
    assert statistics.partitions


def test_a_handler_that_fails(
    broker: EmbeddedBroker, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Its error leaves with its traceback; the status file tells of it."""
    send(broker, 1)
    configure(monkeypatch, on(broker))
    name = module(here, "async def handle(record):\n    raise LookupError('no such customer')\n")
    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="no such customer"), flatten_subgroups=True):
        main(["run", f"{name}:handle", "--status-file", "status.json"])
    fleet = FleetStatistics.from_json((here / "status.json").read_text())
    assert (fleet.state, fleet.last_error) == ("stopped", "LookupError: no such customer")
    assert "last error: LookupError: no such customer" in capfd.readouterr().err


def test_no_cluster(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """A cluster that isn't there is status 1 and one line."""
    configure(monkeypatch, NOWHERE)
    assert main(["run", f"{module(here, COUNTING)}:handle"]) == 1
    assert "error: no answer from 127.0.0.1:1 within 0.2 s" in capfd.readouterr().err


# What is wrong from the start


@pytest.mark.parametrize("members", ["1", "2"])
def test_a_wrong_configuration(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture, members: str) -> None:
    """It is said once, with status 2, before anything is started."""
    configure(monkeypatch, {**NOWHERE, "PARALLEL_CONSUMER_MAX_CONCURRENCY": "none"})
    assert main(["run", f"{module(here, COUNTING)}:handle", "--members", members]) == 2
    err = capfd.readouterr().err
    assert err.startswith("trio-parallel-kafka: error: invalid configuration:\n- max_concurrency:")
    assert err.count("max_concurrency") == err.count("invalid") == 1


@pytest.mark.parametrize(
    ("name", "text_and_reason"),
    [
        ("no_such_module_anywhere:handle", ("", "No module named 'no_such_module_anywhere'")),
        ("{}:missing", ("", "has no attribute 'missing'")),
        ("{}:handle", ("import no_such_module_either\n", "No module named 'no_such_module_either'")),
        ("{}:handle", ("def (:\n", "SyntaxError")),
    ],
)
def test_a_handler_that_is_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture, name: str, text_and_reason: tuple[str, str]
) -> None:
    """It is named with the reason, before a cluster is even looked for; status 2."""
    configure(monkeypatch, NOWHERE)
    text, reason = text_and_reason
    assert main(["run", name.format(module(here, text))]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("trio-parallel-kafka: error: can't import the handler")
    assert reason in line


def test_a_handler_that_is_not_there_in_processes(
    configured: None, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Only worker processes notice; the status is 2 all the same."""
    configure(monkeypatch, {"PARALLEL_CONSUMER_EXECUTION_MODE": "process", "PYTHONPATH": str(here)})
    assert main(["run", f"{module(here, COUNTING)}:missing"]) == 2
    assert "has no attribute 'missing'" in capfd.readouterr().err


def test_a_status_file_in_no_folder(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """It is refused at the start."""
    configure(monkeypatch, NOWHERE)
    assert main(["run", f"{module(here, COUNTING)}:handle", "--status-file", "nowhere/status.json"]) == 2
    assert "- --status-file: can't be written: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: MODULE:FUNCTION"),
        (["billing"], "must be a module and a function in it, as in billing.orders:handle, not 'billing'"),
        (["billing:"], "must be a module and a function in it"),
        (["billing:handle now"], "must be a module and a function in it"),
        (["a:b", "--members", "0"], "must be a whole number from 1 to 1,000, not '0'"),
        (["a:b", "--first-member", "-1"], "must be a whole number from 0 to 1,000,000, not '-1'"),
        (["a:b", "--statistics", "soon"], "must be seconds from 0 to 86,400, not 'soon'"),
        (["a:b", "--statistics", "nan"], "must be seconds from 0 to 86,400, not 'nan'"),
        (["a:b", "--table", "t"], "--table names a table in a file: give --config, too"),
        (["a:b", "--config", "c", "--env-file", "e"], "leave out --config or --env-file"),
    ],
)
def test_wrong_arguments(arguments: list[str], complaint: str, capfd: Capture) -> None:
    """They are refused with what is allowed."""
    with pytest.raises(SystemExit) as exit_:
        main(["run", *arguments])
    assert exit_.value.code == 2
    assert complaint in capfd.readouterr().err


@pytest.mark.parametrize("command", ["run", "health"])
def test_help(command: str, capfd: Capture) -> None:
    """It tells what the command is for, shows examples, and keeps to the width of a terminal."""
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    out = capfd.readouterr().out
    assert f"examples:\n  trio-parallel-kafka {command} " in out
    assert "exit status: 0" in out
    assert "--link" not in out
    assert max(map(len, out.splitlines())) <= 90


# Where things come from


def test_configuration_from_a_file_or_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's table, a .env file, or the environment; the same arguments lead a member there."""
    Path("c.toml").write_text(
        '[one]\nbootstrap_servers = "a"\ngroup_id = "g"\ntopics = ["t"]\n'
        '[two]\nbootstrap_servers = "b"\ngroup_id = "g"\ntopics = ["t"]\n'
    )
    source = ConfigSource(file="c.toml", table="two")
    assert source.load().bootstrap_servers == "b"
    assert source.arguments() == ["--config=c.toml", "--table=two"]
    Path("e.env").write_text("KAFKA_CONSUMER_GROUP=from-file\nKAFKA_TOPICS=t\n")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "c")
    source = ConfigSource(env_file="e.env")
    assert (source.load().bootstrap_servers, source.load().group_id) == ("c", "from-file")
    assert source.arguments() == ["--env-file=e.env"]
    assert ConfigSource().arguments() == []
    with pytest.raises(ConfigError):
        ConfigSource().load()


@pytest.mark.parametrize("is_there", [False, True])
def test_the_current_directory_can_be_imported_from(here: Path, *, is_there: bool) -> None:
    """It comes first in the path, once."""
    if is_there:
        sys.path.append(str(here))
    make_current_directory_importable()
    make_current_directory_importable()
    assert sys.path.count(str(here)) == 1
    assert is_there or sys.path[0] == str(here)


# A fleet, in processes


def test_a_fleet(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Two processes handle everything between them; prints are untouched; a signal drains with status 0."""
    send(broker, 40)
    with running(
        tmp_path, ["billing:handle", "--members=2", "--statistics=0.2", "--first-member=3"], on(broker)
    ) as run:
        run.wait_for(lambda: len(run.handled()) == 40)
        run.wait_for(lambda: (status := run.status()) and status.totals.completed == 40)
        status = run.status()
        assert status is not None
        assert [member.index for member in status.members] == [3, 4]
        members = run.members()
        run.process.send_signal(signal.SIGTERM)
        code, out, err = run.ended()
    assert (code, err.count("Traceback")) == (0, 0)
    assert sorted(number for _, number in run.handled()) == list(range(40))
    assert {process for process, _ in run.handled()} <= set(members)
    assert sorted(out.splitlines()) == sorted(f"printed {number}" for number in range(40))
    assert "of 2 members running, " in err
    assert not any(map(is_alive, members))


QUIET = """
import os

async def handle(record):
    with open("handled", "a") as file:
        file.write(f"{os.getpid()} {record.value.decode()}\\n")
"""


def has_completed(run: Program, count: int) -> bool:
    """Whether its status says that so many records are completed."""
    status = run.status()
    return status is not None and status.totals.completed == count


def test_output_that_is_not_read(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A reader that has stopped holds nothing up: not the work, nor the status file, nor a drain, which is clean."""
    send(broker, 20)
    with ExitStack() as stack:
        _, full = stack.enter_context(full_pipe())
        runs = []
        for members in ("1", "2"):  # at once, since both mostly wait
            folder, variables = tmp_path / members, on(broker, KAFKA_CONSUMER_GROUP=f"billing-{members}")
            folder.mkdir()
            arguments = ["billing:handle", f"--members={members}", "--json", "--statistics=0.01"]
            runs.append(stack.enter_context(running(folder, arguments, variables, QUIET, output=full)))
        for run in runs:
            run.wait_for(functools.partial(has_completed, run, 20))
            run.process.send_signal(signal.SIGTERM)
        for run in runs:
            code, _, _ = run.ended()
            status = run.status()
            assert code == 0
            assert status is not None
            assert (status.state, status.totals.completed) == ("stopped", 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills_a_process_whose_loop_is_blocked(
    broker: EmbeddedBroker, tmp_path: Path, number: int
) -> None:
    """The first one can't be obeyed there; the second needs no loop."""
    send(broker, 1)
    with running(tmp_path, ["billing:block"], on(broker)) as run:
        run.wait_for(run.handled)
        run.process.send_signal(number)
        run.wait_for(lambda: not catches(run.process.pid, number))
        run.process.send_signal(number)
        code, _, _ = run.ended()
    assert code == -number


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("members", ["1", "2"])
def test_a_second_signal_kills(broker: EmbeddedBroker, tmp_path: Path, members: str) -> None:
    """A handler that hangs is given up at the second signal, in this process as in others."""
    send(broker, 1)
    with running(tmp_path, ["billing:hang", f"--members={members}"], on(broker)) as run:
        run.wait_for(run.handled)
        alive = run.members()
        run.process.send_signal(signal.SIGTERM)
        run.wait_for(lambda: (status := run.status()) and status.state == "draining")
        run.process.send_signal(signal.SIGTERM)
        code, _, _ = run.ended()
    assert code == (-signal.SIGTERM if members == "1" else 128 + signal.SIGTERM)
    assert not any(map(is_alive, alive))


def test_a_fleet_whose_handler_fails(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """The member's traceback is on stderr, and it is started again; in the end it has failed."""
    send(broker, 1)
    with running(tmp_path, ["billing:fail", "--members=2"], on(broker)) as run:
        run.wait_for(lambda: (status := run.status()) and status.last_error)
        run.process.send_signal(signal.SIGTERM)
        code, _, err = run.ended()
    assert code == 1
    assert "RuntimeError: no such customer" in err.partition("ended with status 1 (RuntimeError: no such customer)")[0]


def test_a_fleet_without_a_handler(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """It is said once why, and the status is 2."""
    with running(tmp_path, ["billing:missing", "--members=2"], on(broker)) as run:
        code, _, err = run.ended()
    assert code == 2
    assert err.count("all are drained: InvalidHandlerError: can't import the handler 'billing:missing'") == 1
    assert "Traceback" not in err


def test_a_fleet_without_a_cluster(tmp_path: Path) -> None:
    """Members that find no cluster are to be started again, and say so in one line; no tracebacks."""
    with running(tmp_path, ["billing:handle", "--members=2"], NOWHERE) as run:
        run.wait_for(lambda: (status := run.status()) and any(each.failures_in_a_row for each in status.members))
        run.process.send_signal(signal.SIGTERM)
        code, _, err = run.ended()
    assert code in {0, 1}  # whether one was being started just then
    assert "ended with status 1 (BrokerUnreachableError: no answer from 127.0.0.1:1 within 0.2 s" in err
    assert "; it is started again in " in err
    assert "Traceback" not in err


CLINGING = """
import sys
from trio_parallel_kafka.cli import main
from trio_parallel_kafka.cli.fleet import linked
linked._MARGIN = 0.2
sys.exit(main(["run", sys.argv[1], "--first-member=0", sys.argv[2]]))
"""


@pytest.mark.parametrize("handler", ["cling", "block"])
async def test_a_drain_that_hangs(
    broker: EmbeddedBroker, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture, handler: str
) -> None:
    """A handler that ignores its cancellation, or blocks the loop, can't keep a member for ever: it is shown, ended."""
    send(broker, 1)
    variables = {"PARALLEL_CONSUMER_SHUTDOWN_TIMEOUT": "0.1", "PARALLEL_CONSUMER_CLOSE_TIMEOUT": "0.1"}
    (here / "billing.py").write_text(HANDLER)
    configure(monkeypatch, on(broker, **variables, PYTHONPATH=os.pathsep.join([str(here), *sys.path])))
    status: list[int] = []
    notes = here / "handled"

    async def run() -> None:
        supervisor = Supervisor([0], lambda _index: [sys.executable, "-c", CLINGING, f"billing:{handler}"])
        status.append(await supervisor.run(Showing(interval=0, as_json=False, status_file=None)))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            while not notes.exists():
                await trio.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)
    assert status == [1]
    err = capfd.readouterr().err
    assert "Timeout (0:00:00.7" in err
    assert "member 0 ended with status 1 while it drained" in err
