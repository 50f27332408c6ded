"""What is compiled of the installed package. Run by the nox session ``compiled``, and nowhere else."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import tomllib
import weakref
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import files, metadata
from pathlib import Path
from typing import Final

import pytest

import trio_parallel_kafka as package
from trio_parallel_kafka import Record
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.core.tracker import OffsetTracker
from trio_parallel_kafka.execution.visits import RecordVisits

PROJECT: Final = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
WANTED: Final = sorted(
    path.removesuffix(".py").strip("/").replace("/", ".")
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]
)


def is_extension(path: str | None) -> bool:
    """Whether a file is machine code."""
    return path is not None and path.endswith(tuple(EXTENSION_SUFFIXES))


def test_what_is_tested_is_what_is_installed() -> None:
    """The package comes from the wheel, and no sources are beside these tests."""
    assert "site-packages" in package.__file__
    assert not Path(__file__).parents[2].joinpath(package.__name__).exists()


@pytest.mark.parametrize("name", WANTED)
def test_the_module_that_is_imported_is_compiled(name: str) -> None:
    """Python runs the machine code, not the source that lies beside it."""
    assert is_extension(importlib.import_module(name).__file__)


def test_nothing_else_is_compiled() -> None:
    """The wheel has as many extension modules as are listed, with the code that they share; all have their sources."""
    held = [str(each) for each in files("trio-parallel-kafka") or () if is_extension(str(each))]
    mine = [path for path in held if path.startswith(package.__name__)]
    assert sorted(path.partition(".")[0].replace("/", ".") for path in mine) == WANTED
    assert [path.partition(".")[0][-7:] for path in held if path not in mine] == ["__mypyc"]
    for path in mine:
        assert Path(package.__file__).parents[1].joinpath(path.partition(".")[0] + ".py").is_file()


@pytest.mark.parametrize("method", [LaneScheduler.offer_all, OffsetTracker.seen_all, RecordVisits.take])
def test_a_method_is_no_bytecode(method: object) -> None:
    """There is no code object for the interpreter to run."""
    assert not hasattr(method, "__code__")


def test_what_the_garbage_collector_looks_at() -> None:
    """Not at records, of which thousands wait; but at what deserialisers made of one, which may refer to it."""
    assert not gc.is_tracked(Record("orders", 0, 1))
    value: set[object] = set()
    value.add(Record("orders", 0, 1).decoded("k", value))
    gone = weakref.ref(value)
    del value
    gc.collect()
    assert gone() is None


def test_nothing_more_is_needed() -> None:
    """It requires what the pure wheel does: the compiler's own packages needn't be there when it runs."""
    required = [
        each for each in metadata("trio-parallel-kafka").get_all("Requires-Dist") or () if "extra ==" not in each
    ]
    assert sorted(required) == sorted(PROJECT["project"]["dependencies"])
    assert [name for name in ("mypy", "mypyc", "mypy_extensions") if importlib.util.find_spec(name)] == []
