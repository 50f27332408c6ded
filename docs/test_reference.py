"""Holds the reference against the package."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import trio_parallel_kafka
from trio_parallel_kafka import testing

REFERENCE = Path(__file__).with_name("reference.rst").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", [trio_parallel_kafka, testing])
def test_the_reference_names_what_is_public(package: ModuleType) -> None:
    """Every name that a package exports is in the reference, and nothing else is."""
    _, _, part = REFERENCE.partition(f".. currentmodule:: {package.__name__}\n")
    documented = re.findall(r"^\.\. auto\w+:: (\w+)(?:\(\))?$", part.partition(".. currentmodule::")[0], re.MULTILINE)
    exported = [
        name for name, value in vars(package).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    assert sorted(documented) == sorted(exported)
