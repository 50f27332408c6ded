"""The pytest plugin: brokers as fixtures, and tests whose chance is drawn from a seed.

pytest loads it in every run of whoever has the package installed. So it stands beside the package, whose import takes
longer than pytest's own, and imports it only for a test that asks for it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from trio_parallel_kafka.testing import EmbeddedBroker, KafkaBroker, SimulatedBroker

ADDRESS_VARIABLE: Final = "TPK_BOOTSTRAP_SERVERS"
DEFAULT_SEED: Final = 0

# Names by which pytest knows what is defined below.
SEED_OPTION: Final = "--simulation-seed"
ADDRESS_OPTION: Final = "--kafka-bootstrap-servers"
SEEDS: Final = "seeds"
SEED: Final = "simulation_seed"
VIRTUAL_TIME: Final = "_virtual_time"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("trio-parallel-kafka")
    group.addoption(SEED_OPTION, type=int, metavar="N", help="run simulated tests with this seed, and no other")
    group.addoption(ADDRESS_OPTION, metavar="HOST:PORT", help="the cluster that the fixture kafka_broker uses")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    description = "run the test once for each seed: of so many, from 0 on, or of a list; its chance follows from that"
    config.addinivalue_line("markers", f"{SEEDS}(seeds): {description}")


# Brokers


@pytest.fixture
async def simulated_broker(
    _virtual_time: None,
    simulation_seed: int,  # noqa: ARG001 - has the run seeded
) -> AsyncIterator[SimulatedBroker]:
    """A simulated broker without topics, which each consumer and producer of the test finds."""
    from trio_parallel_kafka.testing import open_simulated_broker

    async with open_simulated_broker() as broker:
        yield broker


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """A fresh embedded broker, without topics."""
    from trio_parallel_kafka.testing import open_embedded_broker

    with open_embedded_broker() as broker:
        yield broker


@pytest.fixture
def kafka_broker(pytestconfig: pytest.Config) -> Iterator[KafkaBroker]:
    """The cluster that was named; without one the test is skipped. Topics that the test makes are deleted after it."""
    address = pytestconfig.getoption(ADDRESS_OPTION) or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        pytest.skip(f"no cluster: name one by {ADDRESS_OPTION}=HOST:PORT, or by the variable {ADDRESS_VARIABLE}")

    from trio_parallel_kafka.testing import open_kafka_broker

    with open_kafka_broker(address) as broker:
        yield broker


# Seeds


@pytest.fixture
def simulation_seed(request: pytest.FixtureRequest) -> int:
    """The seed with which the test runs."""
    return _seed_of(request.node)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed that the marker names, or of the one that the option does."""
    marker = metafunc.definition.get_closest_marker(SEEDS)
    if marker is not None:
        chosen = metafunc.config.getoption(SEED_OPTION)
        seeds = _seeds_in(marker) if chosen is None else [chosen]
        if SEED not in metafunc.fixturenames:
            metafunc.fixturenames.append(SEED)  # it can't be given values otherwise
        metafunc.parametrize(SEED, seeds, indirect=True, ids=[f"seed={seed}" for seed in seeds])


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Seed the run of a test, as tightly around it as can be: nothing else draws from its chance."""
    if not _is_seeded(pyfuncitem):
        return (yield)

    from trio_parallel_kafka.testing import seeded

    with seeded(_seed_of(pyfuncitem)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the seed of a test that failed, and how to have the same again."""
    report = yield
    if call.when == "call" and report.failed and isinstance(item, pytest.Function) and _is_seeded(item):
        seed = _seed_of(item)
        again = f"pytest '{item.nodeid}' {SEED_OPTION}={seed}"
        report.sections.append(("simulation", f"This was seed {seed}. To replay it: {again}"))
    return report


def _is_seeded(item: pytest.Function) -> bool:
    return SEED in item.fixturenames or item.get_closest_marker(SEEDS) is not None


def _seed_of(item: pytest.Function) -> int:
    callspec = getattr(item, "callspec", None)
    if callspec is not None and SEED in callspec.params:
        return int(callspec.params[SEED])
    chosen = item.config.getoption(SEED_OPTION)
    return DEFAULT_SEED if chosen is None else int(chosen)


def _seeds_in(marker: pytest.Mark) -> Sequence[int]:
    match marker.args:
        case [int(count)] if count > 0 and not marker.kwargs:
            return range(count)
        case [[int(), *_] as seeds] if not marker.kwargs and all(isinstance(seed, int) for seed in seeds):
            return list(seeds)
    pytest.fail(f"@pytest.mark.{SEEDS} takes how many seeds there are to be, or a list of them", pytrace=False)


# Virtual time


@pytest.fixture
def _virtual_time(request: pytest.FixtureRequest) -> None:
    """Says what is missing for the simulated broker before anything else does, which says it worse."""
    plugins = request.config.pluginmanager
    if not (plugins.hasplugin("trio") or plugins.hasplugin("pytest_trio.plugin")):
        pytest.fail("simulated_broker needs pytest-trio: pip install pytest-trio", pytrace=False)
    if request.node.get_closest_marker("trio") is None:
        pytest.fail(
            "simulated_broker is for async tests run by Trio: write `async def`, and mark the test with "
            "@pytest.mark.trio, or all by trio_mode = true in pytest's configuration",
            pytrace=False,
        )


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """See to it that pytest-trio has a clock that can jump; it takes one of the test's own arguments, and no other."""
    if not isinstance(item, pytest.Function) or VIRTUAL_TIME not in item.fixturenames:
        return

    from trio.testing import MockClock

    if not any(isinstance(item.funcargs.get(name), MockClock) for name in inspect.signature(item.function).parameters):
        pytest.fail(
            "simulated_broker lives in virtual time: let the test name the fixture autojump_clock, too", pytrace=False
        )
