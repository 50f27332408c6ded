"""How the Java program is had."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import java


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Java the message says so, and how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java, "_TARGET", tmp_path)
    with pytest.raises(java.UnavailableError, match=r"no java and no javac and no mvn: install Java 17"):
        java.command_line()


def test_what_was_built_needs_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program that is there is run, by Java alone."""
    runtime = tmp_path / "java"
    runtime.touch(mode=0o755)
    built = tmp_path / f"jars-{java._fingerprint()}"
    built.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java, "_TARGET", tmp_path)
    assert java.command_line()[-3:] == ["-cp", f"{built}/*", "benchmarks.Main"]
