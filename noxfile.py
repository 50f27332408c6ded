"""What CI checks, a session each. ``nox`` runs them all, ``nox -s lint`` one, ``nox --list`` names them."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import nox

# Seconds that a session may take, its installations included; "tests" is for each Python.
# All together stay within 25 minutes on two cores, the demonstration that .ci/run starts with included.
BUDGETS: Final = {
    "lint": 150,
    "types": 50,
    "tests": 220,
    "simulate": 120,
    "kafka": 540,
    "docs": 25,
    "wheel": 40,
    "compiled": 100,
    "coverage": 20,
}

PYTHONS: Final = ["3.11", "3.12", "3.13"]
PACKAGE: Final = "trio_parallel_kafka"
PLUGIN: Final = "pytest_trio_parallel_kafka.py"
EXTRAS: Final = ".[cli,dotenv,process,zstd]"
# One file for each process that ran under coverage, named after its session.
COVERAGE_DATA: Final = Path(".nox", ".measured").absolute()
IN_CI: Final = bool(os.environ.get("CI"))

PROJECT: Final = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
# A Python that the machine lacks is reported as skipped, in CI too: what it has is what is tested.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = list(BUDGETS)


def show_pyenv_versions() -> None:
    """Make pyenv's ``python3.12`` and the like answer: they do so only for versions that are switched on."""
    if "PYENV_VERSION" in os.environ or not shutil.which("pyenv"):
        return
    listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True)
    supported = [name for name in listed.stdout.split() if re.match(r"3\.1[123]\.\d+$", name)]
    if supported:
        os.environ["PYENV_VERSION"] = ":".join(supported)


show_pyenv_versions()


def budgeted(check: Callable[[nox.Session], None]) -> Callable[[nox.Session], None]:
    """Fail a session that takes twice its budget, and say so of one that is over it.

    Machines that others share are slower by half now and then; a session that has really grown is noticed all the same.
    """
    allowed = BUDGETS[check.__name__]

    @functools.wraps(check)
    def timed(session: nox.Session) -> None:
        started = time.monotonic()
        check(session)
        used = time.monotonic() - started
        session.log(f"{session.name}: used {used:.0f} of {allowed} s")
        if used > 2 * allowed:
            session.error(f"{session.name} took more than twice its budget: {used:.0f} of {allowed} s")
        if used > allowed:
            session.warn(f"{session.name} is over its budget: {used:.0f} of {allowed} s")

    return timed


def install(session: nox.Session, group: str, *packages: str) -> None:
    """Install a dependency group and packages, and tell how long it took: it counts in the budget."""
    started = time.monotonic()
    session.install(*nox.project.dependency_groups(PROJECT, group), *packages)
    session.log(f"{session.name}: installed in {time.monotonic() - started:.0f} s")


def run_with_coverage(session: nox.Session, *pytest_arguments: str) -> None:
    """Run pytest under coverage, in place of what this session measured before."""
    COVERAGE_DATA.mkdir(parents=True, exist_ok=True)
    data_file = COVERAGE_DATA / f".coverage.{session.name}"
    for old in COVERAGE_DATA.glob(f"{data_file.name}.*"):
        old.unlink()
    session.run(
        *("coverage", "run", "-m", "pytest", *pytest_arguments),
        env={"COVERAGE_FILE": str(data_file)},
    )


@nox.session
@budgeted
def lint(session: nox.Session) -> None:
    """Style, Trio mistakes, spelling, and the layers of the package."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check", "--diff")
    lint_async_code(session)
    session.run("codespell")
    session.run("lint-imports")


def lint_async_code(session: nox.Session) -> None:
    """Run flake8-async with all of its rules but those that ask for what isn't wanted."""
    inner = python_files(*(f"{PACKAGE}/{each}" for each in ("control", "execution", "producing", "testing/simulation")))
    outer = python_files(PACKAGE) - inner | {PLUGIN}
    around = python_files("tests", "docs", "examples", "benchmarks")
    # ASYNC114 asks for a list of all functions that a nursery may start: nothing is gained by keeping one.
    unwanted = "ASYNC114"
    checks = [(unwanted, sorted(outer))]
    # These ask each async function and loop for a checkpoint. What users call has one; further in, a
    # checkpoint costs more than handling a record does.
    unwanted += ",ASYNC910,ASYNC911,ASYNC912,ASYNC913"
    checks.append((unwanted, sorted(inner)))
    # A handler of a test is async because the interface says so, and only asking tells what a broker has done; the
    # rest warns of what tests do on purpose: catch everything, nest scopes oddly, sleep for days of virtual time.
    unwanted += ",ASYNC110,ASYNC124,ASYNC103,ASYNC105,ASYNC111,ASYNC116,ASYNC122,ASYNC401,ASYNC900"
    checks += [(unwanted, sorted(around)[half::2]) for half in range(2)]

    def check(unwanted: str, paths: list[str]) -> None:
        session.run("flake8-async", "--enable=ASYNC", f"--disable={unwanted}", *paths)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for result in [pool.submit(check, *each) for each in reversed(checks)]:
            result.result()


def python_files(*folders: str) -> set[str]:
    """Return the paths of all Python files in these folders."""
    return {str(path) for folder in folders for path in Path(folder).rglob("*.py")}


@nox.session
@budgeted
def types(session: nox.Session) -> None:
    """Strict types everywhere, and complete ones in what users import."""
    # Editable, here and below: no build cache can then serve an older copy of the package.
    install(session, "types", "-e", EXTRAS)
    session.run("mypy")
    session.run("pyright", "--verifytypes", PACKAGE, "--ignoreexternal")


@nox.session(python=PYTHONS)
@budgeted
def tests(session: nox.Session) -> None:
    """All tests that need no Kafka, on each Python there is: the first with coverage, the last with most examples."""
    install(session, "tests", "-e", EXTRAS)
    arguments = [
        "--ignore=tests/broker",
        "--ignore=tests/mutations",
        "--numprocesses=2",
        "--dist=loadfile",
        *session.posargs,
    ]
    present = [version for version in PYTHONS if shutil.which(f"python{version}")]
    if session.python != present[-1]:
        session.env["HYPOTHESIS_PROFILE"] = "brief"
    if session.python == present[0]:
        run_with_coverage(session, *arguments)
    else:
        session.run("pytest", *arguments)


@nox.session
@budgeted
def simulate(session: nox.Session) -> None:
    """Random schedules for the consumer, and mutants for them to find: ``nox -s simulate -- --schedules 200000``."""
    install(session, "tests", "-e", EXTRAS)
    session.run("python", "-m", "simulation.run", *session.posargs, env={"PYTHONPATH": "tests"})
    if not session.posargs:
        session.run("pytest", "tests/mutations", "--numprocesses=2")


@nox.session
@budgeted
def kafka(session: nox.Session) -> None:
    """The tests on a real Kafka: with coverage, then what measures speed without."""
    require_kafka(session)
    install(session, "tests", "-e", EXTRAS)
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    # Two at once, each with brokers of its own: they mostly wait.
    run_with_coverage(session, "tests/broker", "-m", "not performance", "--numprocesses=2", "--dist=loadfile")
    session.run("pytest", "tests/broker", "-m", "performance", "-rP")


def require_kafka(session: nox.Session) -> None:
    """Pass the session over where Kafka can't run; in CI that is an error."""
    missing = [program for program in ("java", "mvn") if not shutil.which(program)]
    if missing and not os.environ.get("TPK_BOOTSTRAP_SERVERS"):
        give_up(session, f"no {' and no '.join(missing)}: install openjdk-17-jre-headless and maven")


def give_up(session: nox.Session, reason: str) -> None:
    """End a session that can't do its work: an error in CI, a skip elsewhere."""
    if IN_CI:
        session.error(reason)
    session.skip(reason)


@nox.session
def soak(session: nox.Session) -> None:
    """Members on a real Kafka at half load: does anything grow? ``nox -s soak -- --minutes 20 --output FOLDER``."""
    require_kafka(session)
    install(session, "tests", "-e", EXTRAS)
    session.run("python", "-m", "soak", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def bench(session: nox.Session) -> None:
    """This library beside others, on a real Kafka: ``nox -s bench -- --quick --output FOLDER``."""
    require_kafka(session)
    install(session, "bench", "build>=1.3", "-e", EXTRAS)
    others = (*python_with_pyrallel(session), *python_with_compiled(session))
    session.run(
        *("python", "-m", "benchmarks", *others, *session.posargs),
        env={"PYTHONPATH": "tests"},
        interrupt_timeout=120.0,  # seconds that it has after Ctrl-C, to write its report
    )


def python_with_pyrallel(session: nox.Session) -> list[str]:
    """The option that names an interpreter with Pyrallel, which needs Python 3.12; it is made once."""
    python = shutil.which("python3.12")
    if python is None:
        return []
    folder = Path(".nox", "pyrallel").absolute()
    if not Path(folder, "bin", "python").exists():
        session.run(python, "-m", "venv", str(folder), external=True)
    packages = ("attrs", "cattrs", *nox.project.dependency_groups(PROJECT, "peers"))
    # If it can't be had, the report says so.
    session.run(f"{folder}/bin/pip", "install", "--quiet", *packages, external=True, success_codes=[0, 1])
    return [f"--python312={folder}/bin/python"]


def python_with_compiled(session: nox.Session) -> list[str]:
    """The option that names an interpreter with the compiled wheel of this checkout, if there is a compiler."""
    if not shutil.which("cc"):
        return []
    wheel = build_compiled_wheel(session, Path(session.create_tmp(), "dist"))
    folder = Path(session.create_tmp(), "compiled").absolute()
    session.run("python", "-m", "venv", "--clear", str(folder))
    session.run(f"{folder}/bin/pip", "install", "--quiet", str(wheel), external=True)
    return [f"--compiled={folder}/bin/python"]


@nox.session
@budgeted
def docs(session: nox.Session) -> None:
    """The documentation builds without a warning, and its examples work."""
    install(session, "docs", "-e", EXTRAS)
    session.run("sphinx-build", "-W", "--keep-going", "-n", "-E", "docs", f"{session.create_tmp()}/html")
    session.run("pytest", "docs")


@nox.session
@budgeted
def wheel(session: nox.Session) -> None:
    """The sdist and the wheel hold what they should, and the wheel works without extras."""
    install(session, "wheel")
    folder = Path(session.create_tmp(), "dist")
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder))
    (sdist,), (built,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(built))
    session.run("check-wheel-contents", str(built))
    check_sdist(session, sdist)

    bare = Path(session.create_tmp(), "bare")
    session.run("python", "-m", "venv", "--clear", str(bare))
    session.run(f"{bare}/bin/pip", "install", "--quiet", str(built), external=True)
    session.run(f"{bare}/bin/python", "-I", "tests/wheel/smoke.py", external=True)


def check_sdist(session: nox.Session, sdist: Path) -> None:
    """Refuse an sdist that lacks a source file, or that carries what a build or a test run left behind."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    sources = {"LICENSE", "README.rst", "noxfile.py", PLUGIN, *map(str, Path(PACKAGE).rglob("*.py"))}
    if missing := sources - held:
        session.error(f"the sdist lacks {sorted(missing)}")
    if debris := [name for name in held if re.search(r"\.(pyc|so)$|_cache/|(^|/)target/|^\.nox", name)]:
        session.error(f"the sdist carries {sorted(debris)}")


@nox.session
@budgeted
def compiled(session: nox.Session) -> None:
    """The compiled wheel is compiled, and passes the tests of what is compiled in it."""
    if not shutil.which("cc"):
        give_up(session, "no C compiler: install gcc and libc6-dev")
    install(session, "tests", "build>=1.3")
    wheel = build_compiled_wheel(session, Path(session.create_tmp(), "dist"))
    session.install(f"trio-parallel-kafka{EXTRAS[1:]} @ {wheel.as_uri()}")
    session.run("python", "-I", "tests/wheel/smoke.py")

    # Where no sources are: pytest would import them, for its option "pythonpath" has "." first.
    away = Path(session.create_tmp(), "away")
    shutil.rmtree(away, ignore_errors=True)
    shutil.copytree("tests", away / "tests", ignore=shutil.ignore_patterns("__pycache__", "target"))
    shutil.copy("pyproject.toml", away)
    # The steps that it counts are bytecodes and calls of Python's, of which compiled code has none.
    unlike = "--deselect=tests/core/test_parking.py::test_cost_of_nothing_grows_with_parked_lanes"
    session.env["HYPOTHESIS_PROFILE"] = "brief"
    with session.chdir(away):
        session.run(
            *("pytest", "tests/compiled/modules.py", "tests/core", "tests/shell"),
            *("tests/embedded/test_record.py", "tests/embedded/test_strange_headers.py"),
            "tests/engines/test_pickled_records.py",
            *(unlike, "--numprocesses=2", "--dist=loadfile", *session.posargs),
        )


def build_compiled_wheel(session: nox.Session, folder: Path) -> Path:
    """Build it, by way of the sdist: built right in the checkout, it would leave its extension modules there."""
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder), env={"HATCH_BUILD_HOOK_ENABLE_MYPYC": "1"})
    (built,) = folder.glob("*.whl")
    return built.absolute()


@nox.session
def fuzz(session: nox.Session) -> None:
    """Inputs of all kinds for what reads what others wrote, guided by the code: ``nox -s fuzz -- --runs 1000000``."""
    install(session, "fuzz", "-e", EXTRAS)
    session.run("python", "tests/fuzz/run.py", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
@budgeted
def coverage(session: nox.Session) -> None:
    """Every branch of the package ran in some test, over all sessions and subprocesses."""
    for needed in ("tests", "kafka"):
        if not any(COVERAGE_DATA.glob(f".coverage.{needed}*")):
            give_up(session, f"the session {needed} has measured nothing yet")
    install(session, "tests")
    session.run("coverage", "combine", "--keep", "--quiet", str(COVERAGE_DATA))
    session.run("coverage", "report")
