"""A real PostgreSQL server for tests, in a process of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

INSTALL_HINT = "no PostgreSQL server: install one (apt-get install postgresql)"

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0

# The server runs as long as the shell's standard input is open: it ends with the test process, however that ends.
_RUN = '"$@" & read -r _; kill -INT $!; wait $!; rm -rf "$0"'


def find_programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, on the path or where Debian keeps them; ``None`` if nowhere."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def open_postgres(programs: Path) -> Iterator[Mapping[str, str]]:
    """Run a server for the length of a block; neither it nor its data outlive that.

    Yields:
        The variables by which libpq finds its database.

    Raises:
        RuntimeError: it doesn't start; the message has what it said.
    """
    # Not one of pytest's folders: the way to them is closed to other users, and the path of a socket has to be short.
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        with (directory / "log").open("wb") as log:
            output: dict[str, Any] = {"stdout": log, "stderr": log, **_somebody_but_root(directory)}
            data = str(directory / "data")
            initdb = [str(programs / "initdb"), "--auth=trust", "--username=postgres", "--no-sync", f"--pgdata={data}"]
            made = subprocess.run(initdb, cwd=directory, timeout=START_TIMEOUT, check=False, **output)
            if made.returncode != 0:
                raise RuntimeError(_said(directory))
            postgres = [str(programs / "postgres"), "-D", data, "-k", str(directory), "-c", "listen_addresses=", "-F"]
            shell = ["sh", "-c", _RUN, str(directory), *postgres]
            with subprocess.Popen(shell, cwd=directory, stdin=subprocess.PIPE, **output) as process:
                try:
                    variables = {"PGHOST": str(directory), "PGUSER": "postgres", "PGDATABASE": "postgres"}
                    _wait_until_it_answers(variables, directory)
                    yield variables
                finally:
                    process.communicate(timeout=STOP_TIMEOUT)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _somebody_but_root(directory: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then give the folder to another user, and return how to be that one."""
    if os.geteuid() != 0:
        return {}
    names = {user.pw_name: user for user in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


def _wait_until_it_answers(variables: Mapping[str, str], directory: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            connect(variables).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(_said(directory)) from error
            time.sleep(0.05)
        else:
            return


def connect(variables: Mapping[str, str]) -> psycopg.Connection:
    """Connect to a server; each statement is a transaction unless one is begun."""
    return psycopg.connect(
        host=variables["PGHOST"], user=variables["PGUSER"], dbname=variables["PGDATABASE"], autocommit=True
    )


def _said(directory: Path) -> str:
    return "PostgreSQL doesn't start: " + (directory / "log").read_text(errors="replace")[-2000:]
