"""The example project, whose tests run as its readers run them: by themselves, in its own folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "examples" / "tested_handler"


def test_its_tests() -> None:
    """They pass under the project's own configuration."""
    # Whoever runs these tests has options of their own, which aren't the project's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stdout
    source = (PROJECT / "tests" / "test_payments.py").read_text(encoding="utf-8")
    seeds = sum(int(count) - 1 for count in re.findall(r"^@pytest.mark.seeds\((\d+)\)", source, re.MULTILINE))
    shown = len(re.findall(r"^async def test_", source, re.MULTILINE))
    assert f" {shown + seeds} passed in " in ended.stdout


def test_what_it_needs() -> None:
    """It can be installed: what it imports is among its dependencies, and its module is what it builds."""
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    (module,) = described["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    imported = set(re.findall(r"^(?:from|import) (\w+)", (PROJECT / module).read_text(encoding="utf-8"), re.MULTILINE))
    needed = {name.replace("-", "_") for name in described["project"]["dependencies"]}
    assert imported - sys.stdlib_module_names == needed
