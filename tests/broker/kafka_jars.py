"""The jars of a real Apache Kafka broker, fetched once by Maven into ``target/``."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

INSTALL_HINT = "install Java 17 and Maven (e.g. Debian: apt-get install openjdk-17-jre-headless maven)"

_POM = Path(__file__).resolve().with_name("pom.xml")
_TARGET = _POM.with_name("target")
_MAVEN_TIMEOUT = 600.0

BrokerChoice = Literal["cluster", "start", "skip", "fail"]


def choose_broker(*, bootstrap_servers: str | None, startable: bool, ci: bool, private: bool = False) -> BrokerChoice:
    """Decide what a test that needs a broker runs against.

    Args:
        bootstrap_servers: the cluster that the user named, if any.
        startable: Java and the jars (or Maven, to fetch them) are at hand.
        ci: a missing broker is a failure there: a skip would go unseen.
        private: the test kills or freezes its broker, so a named cluster won't do.
    """
    if bootstrap_servers and not private:
        return "cluster"
    if startable:
        return "start"
    return "fail" if ci and not bootstrap_servers else "skip"


def startable() -> bool:
    """Whether a broker can be started on this machine."""
    return bool(shutil.which("java") and (_jars_directory().is_dir() or shutil.which("mvn")))


def fetch_jars() -> Path:
    """Return the folder that holds the broker's jars; fetch them if they aren't there yet."""
    jars = _jars_directory()
    if not jars.is_dir():
        _TARGET.mkdir(exist_ok=True)
        with _locked(_TARGET / ".lock"):
            if not jars.is_dir():
                _fetch(jars)
    return jars


def _jars_directory() -> Path:
    # Named after the pom's content, so that a new version is fetched and never mixed with the old one.
    return _TARGET / f"jars-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Maven's local repository isn't safe for two processes at once either.
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(jars: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_TARGET) as scratch:
        fetched = Path(scratch, "jars")
        result = subprocess.run(
            [
                *("mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"),
                *("-DincludeScope=runtime", f"-DoutputDirectory={fetched}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_MAVEN_TIMEOUT,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"Maven could not fetch the broker's jars:\n{result.stdout[-4000:]}")
        fetched.rename(jars)
