"""How a violation is explained: in words, and by what happened."""

from __future__ import annotations

import doctest
import types

import pytest
from testing.script import Script

from trio_parallel_kafka.testing import exactly_once, guarantees, history
from trio_parallel_kafka.testing.events import Output
from trio_parallel_kafka.testing.exactly_once import ExactlyOnceOutput
from trio_parallel_kafka.testing.guarantee import GuaranteeViolationError
from trio_parallel_kafka.testing.guarantees import AtLeastOnce, KeyOrder, KeySerial, LittleReplay


def test_what_is_shown() -> None:
    """The events of the lane are shown one a line, aligned, the one that broke it marked; other lanes' aren't."""
    script = Script()
    script.join()
    script.join("n")
    script.produced(8, 9)
    script.produced(10, key=b"b")
    script.assign("m")
    script.handle(8)
    script.handle(10, key=b"b")
    script.fail(script.start(9, attempt=12))
    script.give_up(9)
    script.lose("m")
    script.handle(8, epoch=1)
    with pytest.raises(GuaranteeViolationError) as caught:
        KeyOrder(script.history).check()
    assert isinstance(caught.value, AssertionError)
    assert caught.value.event == script.history.events[-2]
    assert str(caught.value) == (
        "KeyOrder doesn't hold: orders[0]@8 was started after offset 9 of its lane, in the same assignment\n"
        "\n"
        "What happened to orders[0]@8 and the records of its lane:\n"
        "   #0   0.000 s  Joined     m\n"
        "   #2   2.000 s  Produced      orders[0]@8  key=b'a'\n"
        "   #3   3.000 s  Produced      orders[0]@9  key=b'a'\n"
        "   #5   5.000 s  Assigned   m  orders[0]\n"
        "   #6   6.000 s  Started    m  orders[0]@8  key=b'a'  attempt=1  assignment_epoch=1  call=1\n"
        "   #7   7.000 s  Completed  m  orders[0]@8  key=b'a'  attempt=1  assignment_epoch=1  call=1\n"
        "  #10  10.000 s  Started    m  orders[0]@9  key=b'a'  attempt=12  assignment_epoch=1  call=3\n"
        "  #11  11.000 s  Failed     m  orders[0]@9  key=b'a'  attempt=12  assignment_epoch=1  call=3"
        "  error=ValueError('bad')\n"
        "  #12  12.000 s  GivenUp       orders[0]@9\n"
        "  #13  13.000 s  Lost       m  orders[0]\n"
        "> #14  14.000 s  Started    m  orders[0]@8  key=b'a'  attempt=1  assignment_epoch=1  call=4\n"
        "  #15  15.000 s  Completed  m  orders[0]@8  key=b'a'  attempt=1  assignment_epoch=1  call=4"
    )


def test_much_is_left_out() -> None:
    """Of a long history what is around the violation is shown, and what has to do with it, however long ago."""
    script = Script()
    script.start(0)
    script.history.add(Output(1.0, "invoices", None, b"x" * 50, None))
    script.produced(*range(1, 100))
    script.start(100)
    script.produced(*range(200, 300))
    violation = KeySerial(script.history).violation()
    assert violation is not None
    lines = str(violation).splitlines()
    assert lines[2] == "What happened to orders[0]@100 and the records of its lane (179 more events are left out):"
    assert [line.split()[:1] for line in lines[3:6]] == [["#0"], ["#86"], ["#87"]]
    assert [line[:6] for line in lines[-6:]] == ["> #101", *(f"  #{number}" for number in range(102, 107))]


def test_outputs_and_commits_are_shown() -> None:
    """An output is shown with its origin, a long value cut; a commit with its metadata."""
    script = Script()
    script.produced(0, 1)
    script.handle(0)
    script.output(b"x" * 50, 0)
    script.commit(0, 1)
    text = str(AtLeastOnce(script.history).violation())
    value = f"{b'x' * 40!r}... (50 bytes)"
    assert f"invoices  key=b'a'  value={value}  origin=orders[0]@0" in text
    assert "> #5  5.000 s  Committed  m  orders[0]  offset=0  metadata='tpk1." in text
    script = Script()
    script.output(None)
    script.commit(3)
    assert "invoices  key=b'a'  value=None" in str(ExactlyOnceOutput(script.history).violation())
    script.assign()
    script.start(2)
    assert "Committed  m  orders[0]  offset=3" in str(LittleReplay(script.history).violation()).splitlines()[3]


def test_history_may_grow() -> None:
    """A guarantee looks at what has happened by the time it is asked."""
    script = Script()
    script.produced(0)
    guarantee = AtLeastOnce(script.history)
    assert not guarantee.is_held
    script.handle(0)
    assert guarantee.is_held
    guarantee.check()


@pytest.mark.parametrize("module", [exactly_once, guarantees, history])
def test_examples(module: types.ModuleType) -> None:
    """The examples of the docstrings show what happens."""
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0
