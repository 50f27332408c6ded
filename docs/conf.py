"""Sphinx configuration."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from sphinx.application import Sphinx

project = "trio-parallel-kafka"
author = "The trio-parallel-kafka contributors"
copyright = author
release = version = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",  # after autodoc: it teaches it what is async
]
html_theme = "furo"
html_title = f"{project} {release}"
templates_path: list[str] = []
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
# What other projects document. Their indexes would have to be fetched to tell whether such a name exists,
# and a build that needs the network isn't repeatable. Names of this package are always checked.
_OUTSIDE = (
    "attrs?",
    "cattrs",
    "collections",
    "concurrent",
    "confluent_kafka",
    "contextlib",
    "enum",
    "logging",
    "os",
    "pathlib",
    "pytest",
    "threading",
    "time",
    "tomllib",
    "trio",
    "typing",
)
# Type variables, which are documented nowhere.
_VARIABLES = (
    r"trio_parallel_kafka\."
    r"(serialization\.(Given|Made)|testing\.(simulation\.scheduling\.T|watching\.Handler))"
)
# Aliases of types, which attrs hands on as they are written.
_ALIASES = r"PropertyValue|Serializer"
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(_OUTSIDE)})(\..*)?"),
    (r"py:.*", _VARIABLES),
    (r"py:.*", _ALIASES),
]


def setup(app: Sphinx) -> None:
    """Keep Napoleon, whose handler has priority 500, from taking "Bytes: ..." for an attribute's type."""
    as_written: dict[str, list[str]] = {}

    def remember(_app: Sphinx, what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
        if what in {"attribute", "property"}:
            as_written[name] = lines.copy()

    def restore(_app: Sphinx, _what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = as_written.pop(name, lines)

    app.connect("autodoc-process-docstring", remember, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
