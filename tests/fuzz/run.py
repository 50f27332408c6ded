"""Fuzzes the targets one after another, and sums up: ``nox -s fuzz -- --runs 1000000``.

Every target starts from its seeds and its part of the corpus. An input that breaks a promise ends its target; it is
kept in ``corpus/``, so that the tests fail from then on, until the mistake is mended. With ``--keep`` the corpus is
replaced by the smallest one that runs the same code, of what was there and what was found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Final

import attrs
from fuzz.target import Target
from fuzz.targets import CORPUS, TARGETS, kept_inputs

_TESTS: Final = str(Path(__file__).parents[1])
_SECONDS_PER_INPUT: Final = 30
_MEMORY: Final = 1024
"""Megabytes that a whole process may have."""

_SEEN: Final = re.compile(r"#(?P<runs>\d+)\s+\w+\s+cov: (?P<edges>\d+) ft: \d+ corp: (?P<kept>\d+)/")
_SECONDS_BETWEEN_LINES: Final = 10.0


@attrs.define
class Progress:
    """How far a target is.

    Attributes:
        name: which.
        runs: inputs tried.
        edges: of the code's branches, how many were taken.
        seconds: how long it took.
        crashes: inputs that broke a promise.
    """

    name: str
    runs: int = 0
    edges: int = 0
    seconds: float = 0.0
    crashes: list[Path] = attrs.field(factory=list)

    def __str__(self) -> str:
        rate = self.runs / self.seconds if self.seconds else 0
        return f"{self.name:14}{self.runs:>12,}{rate:>12,.0f}{self.edges:>8,}{len(self.crashes):>9}"


HEAD: Final = f"{'target':14}{'inputs':>12}{'inputs/s':>12}{'edges':>8}{'crashes':>9}"


def shares(runs: int, targets: list[Target]) -> dict[str, int]:
    """So many inputs, dealt out to targets."""
    whole = sum(target.share for target in targets)
    return {target.name: max(1, runs * target.share // whole) for target in targets}


def fuzz(target: Target, runs: int, folder: Path) -> Progress:
    """Try so many inputs on a target, below this folder; what is found stays in ``folder/found``."""
    found, crashes, seeds, dictionary = (folder / name for name in ("found", "crashes", "seeds", "words"))
    found.mkdir(parents=True)
    crashes.mkdir()
    write_seeds(target, seeds)
    # libFuzzer refuses an empty one.
    dictionary.write_text("".join(f'"{escaped(word)}"\n' for word in ("\0", *target.words)), encoding="ascii")
    for path in kept_inputs(target):
        shutil.copy(path, found)
    bounds = [f"-runs={runs}", f"-timeout={_SECONDS_PER_INPUT}", f"-artifact_prefix={crashes}/", f"-dict={dictionary}"]
    progress = Progress(target.name)
    started = shown = time.monotonic()
    last_lines: deque[str] = deque(maxlen=40)
    with atheris_process(target, folder, [*bounds, str(found), str(seeds)]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if seen := _SEEN.match(line):
                progress.runs, progress.edges = int(seen["runs"]), int(seen["edges"])
            else:
                last_lines.append(line)
            progress.seconds = time.monotonic() - started
            if time.monotonic() - shown > _SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                print(progress, flush=True)
    progress.crashes = sorted(crashes.iterdir())
    if process.returncode and not progress.crashes:
        sys.exit("".join(last_lines))
    if progress.crashes:
        print("".join(last_lines), flush=True)
    return progress


def write_seeds(target: Target, folder: Path) -> None:
    """Put the inputs made by hand where a fuzzer finds them."""
    folder.mkdir()
    for number, seed in enumerate(target.seeds()):
        if len(seed) <= target.max_size:
            (folder / f"{number:04}").write_bytes(seed)


def escaped(word: str) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def atheris_process(target: Target, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start a fuzzer."""
    program, scratch = Path(__file__).with_name("under_atheris.py"), folder / "scratch"
    scratch.mkdir(exist_ok=True)
    bounds = [f"-max_len={target.max_size}", f"-rss_limit_mb={_MEMORY}"]
    return subprocess.Popen(
        [sys.executable, str(program), target.name, str(scratch), *bounds, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([_TESTS, os.environ.get("PYTHONPATH", "")])},
    )


def keep(target: Target, folder: Path) -> None:
    """Replace a target's part of the corpus by as few inputs as run the same code, besides the seeds.

    What broke a promise once stays: libFuzzer names it ``crash-...``, ``oom-...`` or ``timeout-...``.
    """
    smallest = folder / "smallest"
    shutil.copytree(folder / "seeds", smallest)
    with atheris_process(target, folder, ["-set_cover_merge=1", str(smallest), str(folder / "found")]) as process:
        said, _ = process.communicate()
    if process.returncode or "MERGE-OUTER: the control file" not in said:
        sys.exit(said[-5000:])
    seeds = {path.name for path in (folder / "seeds").iterdir()}
    corpus = CORPUS / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for path in kept_inputs(target):
        if "-" not in path.name:
            path.unlink()
    for path in smallest.iterdir():
        if path.name not in seeds:
            shutil.copy(path, corpus / path.name[:16])


def main() -> None:
    """Fuzz what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200_000, help="inputs, of all targets together")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="this one only; may be repeated")
    parser.add_argument("--keep", action="store_true", help="keep what was found in the corpus")
    given = parser.parse_args()
    targets = [TARGETS[name] for name in given.target or TARGETS]
    done = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        print(HEAD, flush=True)
        for target, runs in zip(targets, shares(given.runs, targets).values(), strict=True):
            progress = fuzz(target, runs, Path(folder, target.name))
            done.append(progress)
            if given.keep and not progress.crashes:
                keep(target, Path(folder, target.name))
            for crash in progress.crashes:
                (CORPUS / target.name).mkdir(parents=True, exist_ok=True)
                kept = shutil.copy(crash, CORPUS / target.name)
                print(f"{target.name}: {kept} breaks a promise", flush=True)
    print(HEAD, *done, sep="\n")
    total = Progress(
        "all", sum(each.runs for each in done), sum(each.edges for each in done), sum(each.seconds for each in done)
    )
    total.crashes = [crash for each in done for crash in each.crashes]
    print(total)
    sys.exit(bool(total.crashes))


if __name__ == "__main__":
    main()
