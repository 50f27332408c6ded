"""What the fuzzers know, without a fuzzer: the inputs made by hand, and those that they found."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fuzz.target import Target
from fuzz.targets import CORPUS, TARGETS, kept_inputs


@contextmanager
def explained(target: Target, origin: object) -> Iterator[None]:
    """Say of what the block raises with which input it did."""
    try:
        yield
    except Exception as error:
        error.add_note(f"the input: {target.name}, {origin}")
        raise


def check_all(target: Target, inputs: Iterable[tuple[object, bytes]], folder: Path) -> None:
    """Hold each input against the target's promises, the bound on its memory included."""
    for origin, data in inputs:
        with explained(target, origin), at_most(target.max_memory):
            target.check(data, folder)


@contextmanager
def at_most(memory: int | None) -> Iterator[None]:
    """Fail if the block asks for more bytes at a time; ``None``: any number of them."""
    if memory is None:
        yield
        return
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak < memory
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_made_by_hand(name: str, tmp_path: Path) -> None:
    """No input made by hand breaks a promise of its target, or takes more memory than it may."""
    check_all(TARGETS[name], enumerate(TARGETS[name].seeds()), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_a_fuzzer_found(name: str, tmp_path: Path) -> None:
    """No input that a fuzzer found breaks a promise of its target, or takes more memory than it may."""
    inputs = [(path.name, path.read_bytes()) for path in kept_inputs(TARGETS[name])]
    assert inputs
    check_all(TARGETS[name], inputs, tmp_path)


def test_corpus_is_small() -> None:
    """The corpus has a folder for each target, and stays small enough for a repository."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) < 500
    assert sum(path.stat().st_size for path in files) < 300_000
