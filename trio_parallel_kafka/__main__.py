"""``python -m trio_parallel_kafka``: the command line, where its script isn't on the path."""

from __future__ import annotations

from trio_parallel_kafka.cli import main

raise SystemExit(main())
