"""What must hold for the installed wheel on its own, without any extra. Run by the nox session ``wheel``."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import trio_parallel_kafka as package

PUBLIC = (
    "ConsumerConfig",
    "ConsumerStatistics",
    "Ordering",
    "ParallelConsumer",
    "ParallelKafkaError",
    "Record",
    "parallel_consumer",
)


def main() -> None:
    """Check what is installed, and consume with it."""
    assert "site-packages" in package.__file__, f"not the installed package: {package.__file__}"
    assert resources.files(package).joinpath("py.typed").is_file(), "the type marker is missing"
    for name in PUBLIC:
        assert callable(getattr(package, name)), name
    extras = metadata.metadata("trio-parallel-kafka").get_all("Provides-Extra")
    assert extras == ["cli", "dotenv", "process", "schema-registry", "zstd"], extras
    program = Path(sys.executable).with_name("trio-parallel-kafka")
    demo = [str(program), "demo", "--records", "500", "--json"]
    finished = subprocess.run(demo, capture_output=True, text=True, check=False, timeout=60)
    assert finished.returncode == 0, finished.stderr
    sys.stdout.write(f"{metadata.version('trio-parallel-kafka')} works: {finished.stdout.splitlines()[-1]}\n")


main()
