"""The Java peer: Confluent's parallel-consumer, in a program of its own that Maven builds once into ``java/target/``.

``python -m benchmarks.peers.java JOB`` builds it if need be and becomes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_PROJECT: Final = Path(__file__).resolve().with_name("java")
_TARGET: Final = _PROJECT / "target"
_MAVEN_TIMEOUT: Final = 600.0
_JAVA_OPTIONS: Final = ("-Xmx2g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


class UnavailableError(RuntimeError):
    """The program can't be built or run on this machine; the message says what to install."""


def command_line() -> list[str]:
    """Return the program's command line, to which the job is to be added; build the program if that wasn't done yet.

    Raises:
        UnavailableError: if Java, its compiler or Maven is missing, or Maven fails.
    """
    jars = _TARGET / f"jars-{_fingerprint()}"
    missing = [name for name in ("java",) if not shutil.which(name)]
    if not jars.is_dir():
        missing += [name for name in ("javac", "mvn") if not shutil.which(name)]
    if missing:
        raise UnavailableError(
            f"no {' and no '.join(missing)}: install Java 17, with its compiler, and Maven"
            " (e.g. Debian: apt-get install openjdk-17-jdk-headless maven)"
        )
    if not jars.is_dir():
        _build(jars)
    return ["java", *_JAVA_OPTIONS, "-cp", f"{jars}/*", "benchmarks.Main"]


def _fingerprint() -> str:
    """Stand for all that the program is made of: what has changed is built anew, and never mixed with the old."""
    digest = hashlib.sha256()
    for path in [_PROJECT / "pom.xml", *sorted(_PROJECT.glob("src/**/*.java"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(jars: Path) -> None:
    _TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_TARGET) as scratch:
        result = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(_PROJECT / "pom.xml"), "package", f"-Doutput={scratch}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_MAVEN_TIMEOUT,
            check=False,
        )
        if result.returncode != 0:
            raise UnavailableError(f"Maven could not build the Java program:\n{result.stdout[-4000:]}")
        for old in _TARGET.glob("jars-*"):
            shutil.rmtree(old)
        Path(scratch, "jars").rename(jars)


if __name__ == "__main__":
    command = command_line()
    os.execvp(command[0], [*command, *sys.argv[1:]])
