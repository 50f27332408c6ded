"""All that is fuzzed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fuzz import configurations, dead_letters, stored_maps, written_maps
from fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (stored_maps.TARGET, written_maps.TARGET, dead_letters.TARGET, *configurations.TARGETS)
}

CORPUS: Final = Path(__file__).parent / "corpus"
"""A folder for each target, with inputs that a fuzzer found: each runs code as no other does, or broke it."""


def kept_inputs(target: Target) -> list[Path]:
    """The inputs of a target in the corpus."""
    return sorted((CORPUS / target.name).glob("*"))
