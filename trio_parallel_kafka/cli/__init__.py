"""The command line ``trio-parallel-kafka``, on top of the public interface."""

from __future__ import annotations

from trio_parallel_kafka.cli.command_line import main as main
