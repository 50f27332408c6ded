"""The contract: what consumers and producers may expect of any broker.

It is kept by the simulated broker, by the embedded one as far as that goes, and by Kafka itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from contract.committing import COMMITTING
from contract.jobs import WORKING
from contract.reading import READING
from contract.rebalancing import REBALANCING as REBALANCING, WAITING
from contract.sending import SENDING
from contract.stage import Clause
from contract.transacting import TRANSACTING

CLAUSES: Final[Sequence[Clause]] = (*READING, *WAITING, *COMMITTING, *SENDING, *TRANSACTING, *WORKING)
