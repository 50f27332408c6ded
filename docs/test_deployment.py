"""What the deployment guide shows can be used as it stands: units, manifests, command lines, and its arithmetic."""

from __future__ import annotations

import configparser
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from trio_parallel_kafka import ConsumerConfig
from trio_parallel_kafka.cli import command_line
from trio_parallel_kafka.cli.fleet.keeper import RestartPolicy
from trio_parallel_kafka.cli.fleet.linked import longest_drain
from trio_parallel_kafka.cli.fleet.vitals import LOOPING_FROM

PAGE = Path(__file__).with_name("deployment.rst").read_text(encoding="utf-8")
DEFAULTS = ConsumerConfig(bootstrap_servers="localhost", group_id="billing", topics="orders")
PROGRAM = "trio-parallel-kafka"
MARGIN = 10


def blocks(language: str) -> list[str]:
    """The code blocks of the page in a language."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", PAGE, re.MULTILINE)
    assert found, language
    return [textwrap.dedent(block) for block in found]


def manifests() -> dict[str, Any]:
    """The Kubernetes objects of the page, by kind."""
    return {(read := yaml.safe_load(block))["kind"]: read for block in blocks("yaml")}


def unit() -> configparser.ConfigParser:
    """The systemd unit."""
    (text,) = blocks("ini")
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(text)
    return parser


def container(kind: str) -> dict[str, Any]:
    """The one container of a workload."""
    (found,) = manifests()[kind]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def command_lines() -> Iterator[list[str]]:
    """Every command line that the page shows."""
    for block in blocks("shell"):
        yield from (shlex.split(line) for line in block.splitlines() if line)
    yield shlex.split(unit()["Service"]["ExecStart"])
    for kind in ("Deployment", "StatefulSet"):
        yield container(kind)["command"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield container("Deployment")[probe]["exec"]["command"]


def parsed(line: list[str]) -> Any:
    """What the program makes of a command line."""
    program, *arguments = line
    assert Path(program).name == PROGRAM
    return command_line._parser().parse_args([word.replace("$(POD_INDEX)", "2") for word in arguments])


def longest_stop(*, sends: bool) -> float:
    """Seconds that a drain takes at worst."""
    return DEFAULTS.shutdown_timeout + (4 if sends else 2) * DEFAULTS.close_timeout


def test_command_lines_are_understood() -> None:
    """The real parser takes each of them."""
    lines = list(command_lines())
    assert len(lines) >= 8
    for line in lines:
        assert parsed(line).run


def test_a_command_line_that_is_wrong_would_be_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser that they are given to refuses others."""
    with pytest.raises(SystemExit):
        parsed([PROGRAM, "run", "billing:handle", "--member", "many"])
    assert "usage" in capsys.readouterr().err


def test_the_unit() -> None:
    """It has the usual sections, signals the supervisor alone, and doesn't restart what can't work."""
    assert unit().sections() == ["Unit", "Service", "Install"]
    service = unit()["Service"]
    assert (service["KillMode"], service["RestartPreventExitStatus"]) == ("mixed", "2")
    folder = Path(parsed(shlex.split(service["ExecStart"])).status_file).parent
    assert folder == Path("/run") / service["RuntimeDirectory"]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_workloads_hang_together(kind: str) -> None:
    """Labels match, and what is mounted is there."""
    spec = manifests()[kind]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    mounts = {mount["name"] for each in pod["containers"] for mount in each.get("volumeMounts", [])}
    assert mounts == {volume["name"] for volume in pod.get("volumes", [])}


def test_probes_read_what_is_written() -> None:
    """The status file of the probes is that of the command, in a folder that is mounted; they may take their time."""
    shown = container("Deployment")
    written = parsed(shown["command"]).status_file
    assert str(Path(written).parent) in {mount["mountPath"] for mount in shown["volumeMounts"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = parsed(shown[probe]["exec"]["command"])
        assert str(asked.path) == written
        assert asked.ready == (probe == "readinessProbe")
        assert shown[probe]["timeoutSeconds"] >= 5


def test_grace_periods_hold_with_the_defaults() -> None:
    """What stops the program waits as long as a drain takes at worst, and as the page says."""
    assert int(unit()["Service"]["TimeoutStopSec"]) == longest_stop(sends=False) + MARGIN
    grace = {kind: manifests()[kind]["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet")}
    assert grace["Deployment"]["terminationGracePeriodSeconds"] == longest_stop(sends=False) + MARGIN
    assert grace["StatefulSet"]["terminationGracePeriodSeconds"] == longest_stop(sends=True) + MARGIN
    assert longest_drain(DEFAULTS) >= longest_stop(sends=True)
    for factor, sends in ((2, False), (4, True)):
        total = f"{longest_stop(sends=sends) + MARGIN:.0f}"
        shutdown, close = f"{DEFAULTS.shutdown_timeout:.0f}", f"{DEFAULTS.close_timeout:.0f}"
        assert f"= {shutdown} + {factor} x {close} + {MARGIN} = {total} " in PAGE


def test_identities_of_the_stateful_set() -> None:
    """Its variables make a configuration, and the pods' indices different identities."""
    shown = container("StatefulSet")
    variables = {each["name"]: each["value"] for each in shown["env"] if "value" in each}
    base = {"KAFKA_BOOTSTRAP_SERVERS": "localhost", "KAFKA_CONSUMER_GROUP": "billing", "KAFKA_TOPICS": "orders"}
    config = ConsumerConfig.from_env(base | variables)
    assert config.for_member(parsed(shown["command"]).first_member).transactional_id == "billing-2"


def test_scaling_agrees_with_the_consumer() -> None:
    """KEDA scales the Deployment, looks at a new group as the consumer does, and its settings are texts."""
    spec = manifests()["ScaledObject"]["spec"]
    assert spec["scaleTargetRef"]["name"] == manifests()["Deployment"]["metadata"]["name"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["offsetResetPolicy"] == DEFAULTS.auto_offset_reset
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert "allowIdleConsumers" not in trigger["metadata"]


def test_what_the_page_says_of_drains_that_hang() -> None:
    """They end after as long as they do."""
    assert longest_drain(DEFAULTS) == longest_stop(sends=True) + MARGIN
    assert "``shutdown_timeout + 4 x close_timeout + 10`` seconds" in PAGE


def test_what_the_page_says_of_restarts() -> None:
    """A second, half a minute, a minute, three failures in a row: as they are."""
    assert (attrs.astuple(RestartPolicy()), LOOPING_FROM) == ((1.0, 30.0, 60.0), 3)
    for words in ("a second at first", "up to half a minute", "run for a minute", "failed three times in a row"):
        assert words in PAGE
