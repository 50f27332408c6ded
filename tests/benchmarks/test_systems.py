"""How systems are started that need an interpreter of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scenarios as sc
from benchmarks.systems import UnavailableError, command_of


@pytest.mark.parametrize(
    ("system", "reason"), [(sc.COMPILED, "needs a C compiler"), (sc.PYRALLEL, "needs Python 3.12 or later")]
)
def test_what_no_interpreter_was_given_for_is_left_out(system: str, reason: str) -> None:
    """The message says what is missing, and what it takes."""
    with pytest.raises(UnavailableError, match=f"no interpreter was given.*{reason}"):
        command_of(system, {system: None})


def test_the_pure_package_doesnt_pass_for_the_compiled_one() -> None:
    """An interpreter that has only the sources is refused."""
    for system in (sc.COMPILED, sc.COMPILED_MEMBERS):
        with pytest.raises(UnavailableError, match="doesn't have the compiled wheel: AssertionError"):
            command_of(system, {sc.COMPILED: Path(sys.executable)})


def test_the_installed_package_is_run_and_not_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program comes from the working directory, the package doesn't."""
    installed = tmp_path / "installed" / "trio_parallel_kafka"
    checkout = tmp_path / "checkout"
    for folder in (installed / "core", checkout / "trio_parallel_kafka", checkout / "benchmarks" / "own"):
        folder.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    (installed / "core" / "lanes.py").write_text("__file__ = 'lanes.so'")
    (checkout / "trio_parallel_kafka" / "__init__.py").write_text("")
    (checkout / "benchmarks" / "own" / "consumer.py").write_text(
        "import sys, trio_parallel_kafka as package; print(package.__file__, sys.argv[1])"
    )
    monkeypatch.setenv("PYTHONPATH", str(installed.parent))
    command = command_of(sc.COMPILED, {sc.COMPILED: Path(sys.executable)})
    printed = subprocess.run([*command, "JOB"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(installed / "__init__.py"), "JOB"]
