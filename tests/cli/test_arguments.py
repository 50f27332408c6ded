"""What the arguments of the command line take, and what they say to the rest."""

from __future__ import annotations

import argparse

import pytest

from trio_parallel_kafka.cli import main
from trio_parallel_kafka.cli.arguments import WorkTime, servers, whole_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", WorkTime(0.003, 0.003)),
        ("1-5", WorkTime(0.001, 0.005)),
        (" 0.5-2. ", WorkTime(0.0005, 0.002)),
        (".5", WorkTime(0.0005, 0.0005)),
        ("60000", WorkTime(60.0, 60.0)),
    ],
)
def test_work_time_is_a_number_or_a_range(text: str, expected: WorkTime) -> None:
    """Milliseconds come as one number or as two with a hyphen, with or without a fraction."""
    assert WorkTime.parse(text) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "0-5", "-1", "5-1", "1-2-3", "1-", "nan", "1e3", "60000.1", "1-70000"])
def test_other_work_times_are_refused(text: str) -> None:
    """Anything else is refused, with what is allowed."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"above 0, 60,000 at most: .* or a range \(1-5\)"):
        WorkTime.parse(text)


def test_work_time_reads_like_it_was_given() -> None:
    """For people it is in milliseconds again."""
    assert (str(WorkTime.parse("0.5-2")), str(WorkTime.parse("3"))) == ("0.5-2 ms", "3 ms")


def test_whole_numbers_have_bounds() -> None:
    """A whole number from 1 to the bound is taken, and nothing else."""
    parse = whole_number(1_000)
    assert (parse("1"), parse("1_000")) == (1, 1_000)
    for text in ("0", "1001", "-3", "1.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"from 1 to 1,000, not '{text}'"):
            parse(text)


def test_servers_are_not_empty() -> None:
    """Addresses are passed on as they are; an empty one is refused."""
    assert servers("one:9092, two") == "one:9092, two"
    for text in ("", "one:9092,", " ,"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be host:port"):
            servers(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "required: COMMAND"),
        ("dance", "invalid choice: 'dance'"),
        ("demo --records 0", "argument --records: must be a whole number from 1 to 1,000,000, not '0'"),
        ("demo --keys 1.5", "argument --keys: must be a whole number"),
        ("demo --partitions 1001", "argument --partitions: must be a whole number from 1 to 1,000"),
        ("demo --concurrency none", "argument --concurrency: must be a whole number from 1 to 10,000"),
        ("demo --work-ms 5-1", "argument --work-ms: must be milliseconds above 0"),
        ("demo --ordering topic", "'key', 'partition', 'unordered'"),
        ("demo --bootstrap-servers ,", "argument --bootstrap-servers: must be host:port"),
        (
            "demo --records 40001 --keys 1",
            "the embedded broker keeps 40,000 orders a partition, and one would get 40,001",
        ),
        ("demo --frobnicate", "unrecognized arguments: --frobnicate"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with status 2 and says on stderr what is allowed; stdout stays empty."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments.split())
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    assert complaint in err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_ends_with_status_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The help goes to stdout and names the command."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert "demo" in capsys.readouterr().out
