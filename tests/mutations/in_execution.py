"""Ways to break the execution plane."""

from __future__ import annotations

from typing import Final

from mutations.mutant import Mutant

IN_EXECUTION: Final = (
    Mutant(
        "a lane whose visit is over isn't put back",
        "P5",
        "execution/visits.py",
        "                    scheduler.put_back(lane)\n                    break",
        "                    break",
    ),
    Mutant(
        "handlers are cancelled in words only",
        "P3",
        "execution/workers.py",
        "                worker.scope.cancel()\n",
        "",
    ),
    Mutant(
        "a failure is taken for success",
        "P1",
        "execution/visits.py",
        "                        error = raised\n",
        "                        error = None\n",
    ),
    Mutant(
        "a retry is forgotten, and its record taken for done",
        "P1",
        "execution/visits.py",
        "                self._scheduler.park(lane, trio.current_time() + delay)\n                return False",
        "                return True",
    ),
    Mutant(
        "all records of a batch are done when one is",
        "P1",
        "execution/batches.py",
        "            if error is None:\n                self._complete(lane, record)",
        "            if error is None or not isinstance(error, Outcome):\n                self._complete(lane, record)",
    ),
    Mutant(
        "the record of a batch that is to be tried again is dropped",
        "P5",
        "execution/batches.py",
        "                left.records.append(again)\n",
        "",
    ),
    Mutant(
        "attempts aren't counted",
        "P7",
        "execution/visits.py",
        "lane.head = next_attempt(record)",
        "lane.head = record",
    ),
    Mutant(
        "handler_timeout is ignored",
        "P5",
        "execution/deadline.py",
        "                worker.scope.deadline = now\n",
        "",
    ),
    Mutant(
        "handler_timeout is ignored for batches",
        "P5",
        "execution/deadline.py",
        "    if timeout is None:\n",
        "    if timeout is None or timeout > 0:\n",
    ),
    Mutant(
        "what returns after its time was up counts",
        "P7",
        "execution/visits.py",
        "                            if now >= worker.due:\n                                limit.fail()\n",
        "",
    ),
    Mutant(
        "a batch that returns after its time was up counts",
        "P7",
        "execution/deadline.py",
        "            if not scope.cancel_called:\n                return result",
        "            return result",
    ),
    Mutant(
        "the time of the first record in a row is that of all",
        "P7",
        "execution/visits.py",
        "                            worker.due = now + limit.timeout\n",
        "",
    ),
    Mutant(
        "a late handler is begun again as if nothing were",
        "P7",
        "execution/workers.py",
        "                    worker.error = worker.error or worker.late\n",
        "                    pass\n",
    ),
    Mutant(
        "a late handler's failure is dealt with in the scope that was cancelled for it",
        "P5",
        "execution/visits.py",
        "                    if worker.late is not None:\n",
        "                    if False:\n",
    ),
    Mutant(
        "what handlers return isn't sent",
        "P1",
        "execution/settling.py",
        "            await self._outbox.send(assignment, record, outputs)\n",
        "",
    ),
    Mutant(
        "there is one worker too many",
        "P6",
        "execution/workers.py",
        "            elif len(self._workers) < self._max_concurrency:",
        "            elif len(self._workers) <= self._max_concurrency:",
    ),
    Mutant(
        "a worker is lost after its handler was cancelled",
        "P5",
        "execution/workers.py",
        "                worker.doomed, worker.late, worker.due = frozenset(), None, math.inf\n"
        "        finally:\n            self._workers.discard(worker)",
        "                if worker.doomed:\n                    break\n        finally:",
    ),
)
