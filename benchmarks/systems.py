"""How each system is started, or why it can't run here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks import scenarios as sc
from benchmarks.peers import java


class UnavailableError(RuntimeError):
    """A system can't run on this machine; the message says why."""


_MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        sc.OWN: "benchmarks.own.consumer",
        sc.MEMBERS: "benchmarks.own.members",
        sc.IDLE: "benchmarks.own.idle",
        sc.CLIENT: "benchmarks.own.client",
        sc.BARE: "benchmarks.own.bare",
        sc.BY_HAND: "benchmarks.peers.trio_by_hand",
        sc.AIOKAFKA: "benchmarks.peers.aiokafka_by_hand",
        sc.PYRALLEL: "benchmarks.peers.pyrallel",
    }
)

_COMPILED_MODULE: Final = "trio_parallel_kafka.core.lanes"

_OF_COMPILED: Final[Mapping[str, str]] = MappingProxyType(
    {sc.COMPILED: sc.OWN, sc.COMPILED_MEMBERS: sc.MEMBERS},
)

_NEEDED: Final[Mapping[str, str]] = MappingProxyType({sc.AIOKAFKA: "aiokafka"})


def command_of(system: str, pythons: Mapping[str, Path | None]) -> list[str]:
    """The command line of a system, to which the job is to be added.

    Args:
        system: its name.
        pythons: interpreters that have what this one hasn't, by the systems that need it.

    Raises:
        UnavailableError: it can't run here.
    """
    if system == sc.JAVA:
        try:
            return java.command_line()
        except java.UnavailableError as error:
            raise UnavailableError(str(error)) from error
    if system in _OF_COMPILED:
        return as_installed(_with_compiled(pythons.get(sc.COMPILED)), _MODULES[_OF_COMPILED[system]])
    module = _MODULES[system]
    if system == sc.PYRALLEL:
        return [_with_pyrallel(pythons.get(system)), "-m", module]
    needed = _NEEDED.get(system)
    if needed and importlib.util.find_spec(needed) is None:
        raise UnavailableError(f"{needed} isn't installed")
    return [sys.executable, "-m", module]


def as_installed(python: str, module: str) -> list[str]:
    """The command line of a module that uses the package which an interpreter has.

    The package is imported before the working directory is in the path, which has its sources, too.
    """
    program = (
        "import runpy, sys, trio_parallel_kafka; sys.path.insert(0, ''); "
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    return [python, "-P", "-c", program]


def _with_pyrallel(python: Path | None) -> str:
    probe = "import attrs, cattrs, pyrallel_consumer"
    return _that_has("Pyrallel", python, probe, needs="Python 3.12 or later")


def _with_compiled(python: Path | None) -> str:
    probe = f"import {_COMPILED_MODULE} as module; assert not module.__file__.endswith('.py')"
    return _that_has("the compiled wheel", python, probe, needs="a C compiler")


def _that_has(what: str, python: Path | None, probe: str, *, needs: str) -> str:
    if python is None:
        raise UnavailableError(f"no interpreter was given that has {what}, which needs {needs}")
    tried = subprocess.run([python, "-P", "-c", probe], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise UnavailableError(f"{python} doesn't have {what}: {tried.stderr.strip().splitlines()[-1]}")
    return str(python)
