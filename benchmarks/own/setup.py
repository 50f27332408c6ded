"""What the programs of this library have in common."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from confluent_kafka import libversion

from benchmarks.job import Job
from trio_parallel_kafka import ConsumerConfig


def config_of(job: Job) -> ConsumerConfig:
    """The library's defaults, but for what the job asks for; its option ``config`` holds further fields."""
    return ConsumerConfig.from_mapping(
        {
            "bootstrap_servers": job.bootstrap_servers,
            "group_id": job.group_id,
            "topics": [job.topic],
            "ordering": job.ordering,
            "max_concurrency": job.concurrency,
            **job.options.get("config", {}),
        }
    )


def settings_of(job: Job) -> dict[str, str]:
    """What isn't the library's default."""
    chosen: dict[str, Any] = {
        "max_concurrency": job.concurrency,
        "ordering": job.ordering,
        **job.options.get("config", {}),
    }
    return {name: str(value) for name, value in chosen.items()}


def versions() -> dict[str, str]:
    """Of what runs here."""
    return {
        "trio-parallel-kafka": version("trio-parallel-kafka"),
        "trio": version("trio"),
        **client_versions(),
    }


def client_versions() -> dict[str, str]:
    """Of the client and the interpreter."""
    return {
        "confluent-kafka": version("confluent-kafka"),
        "librdkafka": libversion()[0],
        platform.python_implementation(): platform.python_version(),
    }
