"""Holds the reference against the package."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import trio_parallel_kafka


def test_the_reference_names_what_is_public() -> None:
    """Every name that the package exports is in the reference, and nothing else is."""
    reference = Path(__file__).with_name("reference.rst").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto\w+:: (\w+)", reference, re.MULTILINE)
    exported = [
        name
        for name, value in vars(trio_parallel_kafka).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    assert sorted(documented) == sorted(exported)
