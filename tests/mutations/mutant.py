"""What a mutant is."""

from __future__ import annotations

import attrs


@attrs.frozen
class Mutant:
    """One change.

    Attributes:
        name: what is broken, in words.
        promise: which promise it breaks.
        path: the file, in the package.
        old: the text that is replaced; it is there once.
        new: what it is replaced by.
    """

    name: str
    promise: str
    path: str
    old: str
    new: str
