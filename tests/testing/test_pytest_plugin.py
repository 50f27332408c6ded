"""The pytest plugin: what it gives to tests, what it says when it can't, and what it costs whoever doesn't use it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest

from trio_parallel_kafka.testing import kafka_broker, open_embedded_broker

pytest_plugins = ["pytester"]

OPTIONS = """
    [pytest]
    trio_mode = true
    filterwarnings = error
    addopts = --strict-markers
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest on a file of tests."""
    pytester.makeini(OPTIONS)

    def run(tests: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=tests)
        return pytester.runpytest_inprocess(*arguments)

    return run


def test_the_simulated_broker(run: Run) -> None:
    """What a test opens finds it, in virtual time: an hour is nothing."""
    run("""
        import trio
        from trio_parallel_kafka import ConsumerConfig, ProducerConfig, Retry, open_producer, parallel_consumer

        async def test_orders(simulated_broker, autojump_clock):
            simulated_broker.create_topic("orders")

            async def handle(record):
                if record.attempt == 1:
                    raise Retry(after=3600)
                assert record.value == b"7"
                pc.stop()

            servers = simulated_broker.bootstrap_servers
            async with open_producer(ProducerConfig(bootstrap_servers=servers)) as producer:
                await producer.send("orders", b"7")
            config = ConsumerConfig(bootstrap_servers=servers, group_id="billing", topics=["orders"])
            async with parallel_consumer(config) as pc:
                await pc.run(handle)
            assert trio.current_time() >= 3600
    """).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("test", "arguments", "problem"),
    [
        ("async def test_it(simulated_broker): pass", [], "*let the test name the fixture autojump_clock, too"),
        (
            "async def test_it(simulated_broker, late): pass",
            [],
            "*let the test name the fixture autojump_clock, too",
        ),
        ("def test_it(simulated_broker, autojump_clock): pass", [], "*async tests run by Trio*"),
        (
            "async def test_it(simulated_broker, autojump_clock): pass",
            ["-o", "trio_mode=false"],
            "*mark the test with @pytest.mark.trio, or all by trio_mode = true*",
        ),
    ],
)
def test_the_simulated_broker_in_the_wrong_place(run: Run, test: str, arguments: list[str], problem: str) -> None:
    """What the test lacks is said, with the way to mend it."""
    clock_of_another = "import pytest\n@pytest.fixture\ndef late(autojump_clock): pass\n"
    result = run(clock_of_another + test, *arguments)
    result.stdout.fnmatch_lines([problem])
    assert sum(result.parseoutcomes().values()) == 1
    assert "passed" not in result.parseoutcomes()
    assert "Traceback" not in result.stdout.str()


def test_without_pytest_trio(pytester: pytest.Pytester) -> None:
    """Other tests run as ever, and those that need the simulated broker say what it needs."""
    pytester.makepyfile("""
        def test_another(): pass

        def test_the_rest(embedded_broker): embedded_broker.create_topic("orders")

        async def test_simulated(simulated_broker): pass
    """)
    result = pytester.runpytest_inprocess("-p", "no:trio")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["simulated_broker needs pytest-trio: pip install pytest-trio"])


def test_the_embedded_broker(run: Run) -> None:
    """Each test has its own, with the topics that it makes."""
    run("""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(embedded_broker, number):
            embedded_broker.create_topic("orders")
            embedded_broker.create_topic("returns", 2)
            assert embedded_broker.bootstrap_servers.startswith("127.0.0.1:")
    """).assert_outcomes(passed=2)


NAMES_ITS_CLUSTER = """
    def test_it(kafka_broker):
        print("at", kafka_broker.bootstrap_servers)
"""


def test_no_cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that needs a real cluster is skipped, and the reason says how to name one."""
    monkeypatch.delenv("TPK_BOOTSTRAP_SERVERS", raising=False)
    result = run(NAMES_ITS_CLUSTER, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*--kafka-bootstrap-servers=HOST:PORT, or by the variable TPK_BOOTSTRAP_SERVERS"])


def test_a_cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by a variable or by an option, which goes first."""
    with open_embedded_broker() as first, open_embedded_broker() as second:
        monkeypatch.setenv("TPK_BOOTSTRAP_SERVERS", first.bootstrap_servers)
        result = run(NAMES_ITS_CLUSTER, "-rP")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"at {first.bootstrap_servers}"])
        result = run(NAMES_ITS_CLUSTER, "-rP", f"--kafka-bootstrap-servers={second.bootstrap_servers}")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"at {second.bootstrap_servers}"])


def test_a_cluster_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is an error, and no reason to skip: it was named."""
    monkeypatch.setattr(kafka_broker, "CONNECT_TIMEOUT", 0.05)
    result = run(NAMES_ITS_CLUSTER, "--kafka-bootstrap-servers=127.0.0.1:9")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*BrokerUnreachableError: no answer from 127.0.0.1:9 *"])


IS_SEEDED = """
    import random
    import re
    import pytest

    def expected(seed):
        return random.Random(seed).random()
"""


def test_so_many_seeds(run: Run) -> None:
    """The marker makes a test of each seed, with the seed in its id; chance follows it, in sync tests too."""
    result = run(
        IS_SEEDED
        + r"""
    @pytest.mark.seeds(3)
    def test_many(simulation_seed, request):
        assert request.node.name == f"test_many[seed={simulation_seed}]"
        assert random.random() == expected(simulation_seed)

    @pytest.mark.seeds([7, 70])
    class TestOfAClass:
        @pytest.mark.parametrize("other", "ab")
        async def test_listed(self, request, other):
            (seed,) = re.findall(r"\[seed=(\d+)-.\]", request.node.name)
            assert random.random() == expected(int(seed))

    def test_of_a_name(simulation_seed):
        assert simulation_seed == 0
        assert random.random() == expected(0)
    """,
        "-v",
    )
    result.assert_outcomes(passed=8)
    ids = re.findall(r"::(test_\S+) PASSED", result.stdout.str())
    assert ids[:3] == ["test_many[seed=0]", "test_many[seed=1]", "test_many[seed=2]"]
    assert sorted(ids[3:7]) == sorted(f"test_listed[seed={seed}-{other}]" for other in "ab" for seed in (7, 70))


def test_one_seed(run: Run) -> None:
    """The option puts one seed in the place of those that the marker names, also one that it doesn't."""
    result = run("import pytest\n@pytest.mark.seeds(3)\ndef test_it(): pass", "-v", "--simulation-seed=70")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_it?seed=70? PASSED*"])


def test_no_seed(run: Run) -> None:
    """A test that doesn't ask for a seed keeps its chance, and what runs around a seeded one gets its own back."""
    run(
        IS_SEEDED
        + """
    @pytest.fixture(autouse=True)
    def around(request):
        random.seed(99)
        yield
        if "seeded" in request.node.name:
            assert random.random() == expected(99)

    @pytest.mark.seeds(2)
    def test_seeded(): random.random()

    def test_another():
        assert random.random() == expected(99)
    """
    ).assert_outcomes(passed=3)


def test_a_simulated_run_takes_its_course(run: Run, pytester: pytest.Pytester) -> None:
    """The order of Trio's tasks is the same for a seed, run after run, and another for others."""
    tests = """
        import pytest
        import trio

        @pytest.mark.seeds(4)
        async def test_it(simulated_broker, autojump_clock, simulation_seed):
            order = []

            async def step(number):
                await trio.lowlevel.checkpoint()
                order.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(step, number)
            with open("courses", "a") as file:
                print(simulation_seed, *order, file=file)
    """
    courses = []
    for _ in range(2):
        run(tests).assert_outcomes(passed=4)
        courses.append((pytester.path / "courses").read_text().splitlines())
        (pytester.path / "courses").unlink()
    assert courses[0] == courses[1]
    assert len({line.partition(" ")[2] for line in courses[0]}) == 4


@pytest.mark.parametrize("arguments", ["", "0", "-1", "[]", "['a']", "[1, 'a']", "3, 4", "[1], key=2", "seeds=3"])
def test_a_marker_that_says_nothing(run: Run, arguments: str) -> None:
    """The marker takes a number or a list of numbers; anything else is an error where tests are collected."""
    result = run(f"""
        import pytest

        @pytest.mark.seeds({arguments})
        def test_it(): pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["@pytest.mark.seeds takes how many seeds there are to be, or a list of them"])


FAILS_BY_CHANCE = """
    import random
    import pytest

    @pytest.fixture
    def broken():
        raise ValueError

    @pytest.mark.seeds(20)
    def test_of_chance():
        assert random.randrange(4), "bad luck"

    def test_of_one_seed(simulation_seed):
        assert simulation_seed == 3

    def test_of_none():
        assert False

    def test_that_never_ran(simulation_seed, broken): pass
"""


def test_a_failure_is_replayed(run: Run, pytester: pytest.Pytester) -> None:
    """A test that failed tells its seed, and the command by which it fails again; that of another seed is another."""
    result = run(FAILS_BY_CHANCE)
    outcomes = result.parseoutcomes()
    reports = re.findall(r"This was seed (\d+)\. To replay it: (.*)", result.stdout.str())
    assert len(reports) == outcomes["failed"] - 1
    assert 3 < len(reports) < 15
    for seed, command in reports[:2]:
        program, *arguments = shlex.split(command)
        assert program == "pytest"
        assert arguments[-1] == f"--simulation-seed={seed}"
        pytester.runpytest_inprocess(*arguments).assert_outcomes(failed=1)
    assert reports[-1] == ("0", "pytest 'test_it.py::test_of_one_seed' --simulation-seed=0")
    well = pytester.runpytest_inprocess("test_it.py::test_of_one_seed", "--simulation-seed=3", "-rP")
    well.assert_outcomes(passed=1)
    assert "This was seed" not in well.stdout.str()


def test_what_it_costs_others(pytester: pytest.Pytester) -> None:
    """A run that doesn't use it doesn't import the package, nor the client."""
    pytester.makepyfile("""
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("trio_parallel_kafka")
            assert not {"confluent_kafka", "trio_parallel_kafka"} & sys.modules.keys()
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_its_help(pytester: pytest.Pytester) -> None:
    """The marker and the fixtures tell what they are for."""
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.seeds(seeds): run the test once *"])
    result = pytester.runpytest_inprocess("--fixtures", "-v")
    for fixture in ("simulated_broker", "embedded_broker", "kafka_broker", "simulation_seed"):
        result.stdout.re_match_lines([rf"{fixture}\b"], consecutive=False)
