"""``python -m benchmarks``: this library beside others, measured side by side; see ``benchmarks/README.rst``.

It starts a Kafka, or uses the one that ``TPK_BOOTSTRAP_SERVERS`` names. Ctrl-C ends it at once; what was measured by
then is reported.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bars import Verdict, judge, judge_compiled
from benchmarks.broker import cluster
from benchmarks.plots import draw_all
from benchmarks.report import report
from benchmarks.results import Results
from benchmarks.rounds import Forecast, steps
from benchmarks.scenarios import COMPILED, PYRALLEL, SCENARIOS, Scenario, chosen
from benchmarks.suite import Suite


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="This library beside others, measured side by side")
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, rounds and records: about 5 minutes")
    names = [each.name for each in SCENARIOS]
    parser.add_argument("--only", action="append", default=[], choices=names, help="a scenario; may be repeated")
    parser.add_argument("--rounds", type=int, help="so many of each scenario, in place of its own number")
    parser.add_argument("--output", type=Path, default=Path("build", "benchmarks"), help="a folder for the report")
    parser.add_argument("--python312", type=Path, help="an interpreter that has Pyrallel")
    parser.add_argument("--compiled", type=Path, help="an interpreter that has this library's compiled wheel")
    parser.add_argument("--list", action="store_true", help="name the scenarios, and end")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Measure and report; return the status to end with."""
    options = arguments(argv)
    scenarios = chosen(options.only, quick=options.quick, rounds=options.rounds)
    if options.list:
        for each in scenarios:
            minutes = Forecast().seconds(steps([each])) / 60
            print(f"{each.name:16}{each.rounds} rounds, about {minutes:.0f} min: {each.title}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = Results()
    remarks = ["**Quick: fewer rounds and records than the bars ask for.**"] if options.quick else []
    status = 0
    try:
        with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as kafka:
            pythons = {PYRALLEL: options.python312, COMPILED: options.compiled}
            Suite(kafka, scenarios, pythons, results).run()
    except KeyboardInterrupt:
        remarks.append("**Interrupted: not all was measured.**")
        status = 128 + signal.SIGINT
    finally:
        write_report(options.output, results, scenarios, remarks)
    return status


def write_report(folder: Path, results: Results, scenarios: Sequence[Scenario], remarks: Sequence[str]) -> None:
    """Write the report, the raw results and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    where = {"measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **machine.describe()}
    verdicts = judge(results)
    compiled = judge_compiled(results)
    raw = {
        "machine": where,
        "remarks": list(remarks),
        "bars": list(map(_plain, verdicts)),
        "bars_of_compiled": list(map(_plain, compiled)),
        "measured": [each.as_mapping() for each in results.measured],
    }
    (folder / "results.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
    pictures = draw_all(results, folder)
    text = report(results, scenarios, verdicts, compiled, machine=where, remarks=remarks, plots=pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")
    for each in verdicts:
        if each.figure is not None:
            print(f"{each.word:8} {each.figure:10,.2f} {each.bar.unit:4} {each.bar.title}")
    print(f"the report is in {folder}", flush=True)


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "bar": verdict.bar.number,
        "what": verdict.bar.title,
        "wanted": verdict.bar.wanted,
        "at_least": verdict.bar.at_least,
        "figures": list(verdict.figures),
        "cpu": list(verdict.cpu),
        "verdict": verdict.word,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
