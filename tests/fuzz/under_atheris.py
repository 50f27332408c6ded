"""Fuzzes one target: ``python tests/fuzz/under_atheris.py <target> <folder> <libFuzzer's arguments>``; see run.py."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path

import atheris

PACKAGE = "trio_parallel_kafka"


def main() -> None:
    """Run until as many inputs were tried as was asked for, or one breaks a promise."""
    _, name, folder, *arguments = sys.argv
    warnings.simplefilter("error")
    # Imported before the rest: what isn't to guide the fuzzer must be there before its importer is.
    import_module("confluent_kafka.serialization")
    with atheris.instrument_imports(include=[PACKAGE, "tomllib", "dotenv"], enable_loader_override=False):
        targets = import_module("fuzz.targets").TARGETS
        import_module("dotenv.parser")
    target = targets[name]
    scratch = Path(folder)
    # libFuzzer starts itself again to merge a corpus; this is how, by a shell's line.
    itself = f"{sys.executable} {__file__} {name} {folder}"
    atheris.Setup([itself, *arguments], lambda data: target.check(data, scratch))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
