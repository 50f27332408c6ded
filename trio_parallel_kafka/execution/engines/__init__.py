"""The engines that the package brings, by what the configuration calls them."""

from __future__ import annotations

from trio_parallel_kafka.config import ConsumerConfig, ExecutionMode
from trio_parallel_kafka.execution.engine import ExecutionEngine
from trio_parallel_kafka.execution.engines.asynchronous import AsyncEngine
from trio_parallel_kafka.execution.engines.processes import ProcessEngine
from trio_parallel_kafka.execution.engines.threads import ThreadEngine


def engine_of(config: ConsumerConfig) -> ExecutionEngine:
    """The engine that the configuration names."""
    match config.execution_mode:
        case ExecutionMode.THREAD:
            return ThreadEngine(config.max_concurrency)
        case ExecutionMode.PROCESS:
            return ProcessEngine(
                config.process_workers,
                initializer=config.worker_initializer,
                max_tasks=config.max_tasks_per_worker,
                max_memory=config.max_worker_memory,
                start_method=config.worker_start_method,
            )
        case _:
            return AsyncEngine()
