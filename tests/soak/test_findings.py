"""What a soak says in the end: the early part decides nothing, a leak shows in the table, the picture, the status."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import trio
from soak.findings import Findings
from soak.ledger import Faults
from soak.plot import plot
from soak.samples import QUANTITIES, Sample
from soak.trends import Verdict

MIB = 1024 * 1024


def soaked(leak: float = 0.0, *, warming: float = 0.0, seconds: float = 1000.0, **fields: Any) -> Findings:
    """A soak of one member that took ``warming`` MiB in its first tenth, and ``leak`` MiB an hour after that."""
    samples = []
    for at in range(5, int(seconds), 5):
        mebibytes = 50 + warming * min(at / seconds * 10, 1) + leak * at / 3600
        samples.append(Sample(500.0 + at, {"memory": mebibytes * MIB, "files": 20.0}, completed=at))
    late = Sample(500.0 + seconds + 5, {"memory": 9e9, "files": 0.0})
    fields = {"missing": 0, "uncommitted": 0, "faults": Faults(), **fields}
    series = {"a": [*samples, late], "visitor": samples[:3]}
    return Findings(500.0, 500.0 + seconds, 100.0, 50.0, 1_000, **fields, series=series)


def verdicts(findings: Findings) -> dict[tuple[str, str], Verdict]:
    """By who and what."""
    return {(each.name, each.quantity): each.verdict for each in findings}


def test_what_warms_up() -> None:
    """Memory that is taken at the beginning is no growth, nor is what comes after the load has ended."""
    findings = soaked(warming=100.0)
    assert verdicts(findings) == {("a", "memory"): Verdict.FLAT, ("a", "files"): Verdict.FLAT}
    assert findings.is_sound
    memory = next(iter(findings))
    assert memory.highest == pytest.approx(150.0)
    assert "1,000 records: 0 missing, 0 out of order" in findings.table()


def test_a_leak() -> None:
    """It is named with its slope, and makes the soak unsound."""
    findings = soaked(leak=30.0)
    assert verdicts(findings)["a", "memory"] is Verdict.GROWS
    assert not findings.is_sound
    line = next(line for line in findings.table().splitlines() if "memory" in line)
    assert line.split()[0] == "a"
    assert "+30.00 \u00b1 0.00" in line
    assert line.endswith("GROWS")
    assert soaked(leak=9.0).is_sound


def test_a_short_run_says_less() -> None:
    """In a minute more has to be lost than memory goes up and down by."""
    assert soaked(leak=30.0, seconds=60.0).is_sound
    assert not soaked(leak=300.0, seconds=60.0).is_sound


@pytest.mark.parametrize(
    "fault", [{"missing": 1}, {"uncommitted": 1}, {"faults": Faults(out_of_order=1)}, {"faults": Faults(overlaps=1)}]
)
def test_a_broken_promise(fault: dict[str, Any]) -> None:
    """A record that is missing, out of order or not alone, or an end that isn't committed, makes it unsound."""
    assert not soaked(**fault).is_sound
    assert soaked(faults=Faults(replays=5)).is_sound


def test_for_programs() -> None:
    """All of it is JSON: figures, verdicts and samples."""
    told = json.loads(json.dumps(soaked(leak=30.0).as_mapping()))
    assert (told["produced"], told["faults"]["overlaps"]) == (1_000, 0)
    assert told["findings"][0]["verdict"] == "GROWS"
    assert told["findings"][0]["trend"]["slope"] == pytest.approx(30.0)
    assert Sample.from_json(json.dumps(told["series"]["visitor"][0])) == soaked(leak=30.0).series["visitor"][0]


async def test_a_sample_of_this_process() -> None:
    """It counts what is there, and comes through a line of JSON as it was."""
    sample = Sample.take(None, Faults(replays=1))
    assert sample.values["memory"] > 10 * MIB
    assert sample.values["threads"] >= 1
    before = sample.values
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(trio.sleep_forever)
        with open("/dev/null", "rb"):  # noqa: ASYNC230, PTH123 - one more file
            during = Sample.take(None, Faults()).values
        nursery.cancel_scope.cancel()
    assert during["tasks"] == before["tasks"] + 3
    assert during["files"] == before["files"] + 1
    assert Sample.from_json(sample.to_json()) == sample


def test_the_picture() -> None:
    """There is a panel for each quantity and a line in it for each process, within the panel."""
    root = ET.fromstring(plot(soaked(leak=30.0)))
    name = "{http://www.w3.org/2000/svg}"
    lines = [each.get("points", "").split() for each in root.iter(f"{name}polyline")]
    assert len(lines) == len(QUANTITIES) * 2
    assert (len(lines[0]), len(lines[1]), len(lines[4])) == (199, 3, 0)
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights, reverse=True)
    assert 40 <= heights[-1] < heights[0] <= 160
    assert {"memory (MiB)", "tasks"} <= {each.text for each in root.iter(f"{name}text")}
