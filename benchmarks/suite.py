"""Goes through all rounds of all scenarios."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Final

from broker.cluster import Cluster

from benchmarks.answering import answering_server
from benchmarks.job import Job, Outcome
from benchmarks.results import Measured, Results, problem_of, rate
from benchmarks.rounds import Forecast, Step, steps
from benchmarks.running import RunError, run_system
from benchmarks.scenarios import Run, Scenario
from benchmarks.systems import UnavailableError, command_of
from benchmarks.topics import Topics

LIMIT: Final = 10
"""Times the guess that a run may take."""

LEAST_LIMIT: Final = 90.0


class Suite:
    """One go through it.

    Args:
        kafka: where.
        scenarios: what is measured.
        pythons: interpreters that have what this one hasn't, by the systems that need it.
        results: what is measured goes there, at once.
    """

    def __init__(
        self, kafka: Cluster, scenarios: Sequence[Scenario], pythons: Mapping[str, Path | None], results: Results
    ) -> None:
        self._kafka: Final = kafka
        self._topics: Final = Topics(kafka)
        self._steps: Final = steps(scenarios)
        self._pythons: Final = pythons
        self._results: Final = results
        self._forecast: Final = Forecast()
        self._commands: Final[dict[str, list[str] | UnavailableError]] = {}

    def run(self) -> None:
        """Measure it all; progress goes to standard error."""
        with ExitStack() as server:
            ask = ""
            for number, step in enumerate(self._steps):
                if number and step.scenario != self._steps[number - 1].scenario:
                    self._topics.delete_all()
                if step.run.asks and not ask:
                    ask = server.enter_context(answering_server())
                self._announce(number, step)
                began = time.monotonic()
                measured = self._measure(step, ask)
                self._forecast.note(step, time.monotonic() - began)
                if step.round:
                    self._results.measured.append(measured)
                print(_told(measured), file=sys.stderr, flush=True)

    def _announce(self, number: int, step: Step) -> None:
        left = self._forecast.seconds(self._steps[number:]) / 60
        stage = f"round {step.round} of {step.scenario.rounds}" if step.round else "rehearsal"
        place = f"{step.scenario.name}, {stage}"
        counted = f"[{number + 1}/{len(self._steps)}, {left:.1f} min left]"
        print(f"{counted} {place}: {step.run.name}", end=" … ", file=sys.stderr, flush=True)

    def _measure(self, step: Step, ask: str) -> Measured:
        outcome, problem = None, ""
        try:
            outcome = self._outcome(step.run, ask)
        except (UnavailableError, RunError) as error:
            problem = str(error)
        else:
            problem = problem_of(step.run, outcome)
        return Measured(
            scenario=step.scenario.name, run=step.run.name, round=step.round, outcome=outcome, problem=problem
        )

    def _outcome(self, run: Run, ask: str) -> Outcome:
        command = self._command(run.system)
        topic = self._topics.filled(run.load) if run.load.count else self._topics.empty(run.load)
        job = Job(
            bootstrap_servers=self._kafka.bootstrap_servers,
            topic=topic,
            group_id=f"{topic}-{uuid.uuid4().hex[:12]}",
            count=run.load.count,
            keys=run.load.keys,
            partitions=run.load.partitions,
            ordering=run.ordering,
            concurrency=run.concurrency,
            delay=run.delay,
            ask=ask if run.asks else "",
            seconds=run.seconds,
            warm_up=run.warm_up,
            options=run.options,
        )
        producing: AbstractContextManager[None] = nullcontext()
        if run.rate:
            producing = self._topics.producing(topic, run.load, run.rate)
        with producing:
            return run_system(command, job, max(LEAST_LIMIT, run.guess * LIMIT))

    def _command(self, system: str) -> list[str]:
        if system not in self._commands:
            try:
                self._commands[system] = command_of(system, self._pythons)
            except UnavailableError as error:
                self._commands[system] = error
        found = self._commands[system]
        if isinstance(found, UnavailableError):
            raise found
        return found


def _told(measured: Measured) -> str:
    if measured.problem:
        return f"doesn't count: {measured.problem}"
    outcome = measured.outcome
    assert outcome is not None
    if outcome.latencies_ms is not None:
        return f"p50 {outcome.latencies_ms.p50:.2f}, p99 {outcome.latencies_ms.p99:.2f} ms"
    return f"{rate(outcome):,.0f} records/s"
