"""Where serialisers and deserialisers are called, what deserialisers get, and what becomes of their errors."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from confluent_kafka.serialization import (
    IntegerDeserializer,
    MessageField,
    SerializationContext,
    StringDeserializer,
    StringSerializer,
)
from shell.timed_function import HANG, Clock, Function

from trio_parallel_kafka import Record, serialization
from trio_parallel_kafka.errors import SerializationError
from trio_parallel_kafka.execution.decoding import Decoder, decoding, schema_of
from trio_parallel_kafka.outcomes import Skip
from trio_parallel_kafka.serialization import THREADS, Conversion, Inline, InThread, Place, place_of

SLOW = 2 * serialization.QUICK


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which calls are timed."""
    made = Clock()
    monkeypatch.setattr(serialization, "time", made)
    return made


@pytest.fixture
def function(clock: Clock) -> Function:
    """What is called."""
    return Function(clock)


async def test_inline_once_it_was_quick(function: Function) -> None:
    """A kind's first call is made in a thread; when it was quick, the next ones aren't."""
    convert = Conversion(function)
    assert [await convert("a", number) for number in range(3)] == [0, 1, 2]
    assert function.were_inline == [False, True, True]
    await convert("b")
    await convert("b")
    assert function.were_inline[3:] == [False, True]


async def test_in_threads_while_it_is_slow(function: Function) -> None:
    """Slow calls are made in threads until one was quick."""
    convert = Conversion(function)
    function.takes = serialization.QUICK
    for _ in range(3):
        await convert("a")
    function.takes = 0.9 * serialization.QUICK
    for _ in range(3):
        await convert("a")
    assert function.were_inline == [False, False, False, False, True, True]


async def test_one_slow_call_on_the_spot_ends_all_trust(function: Function) -> None:
    """When a call on the spot turns out slow, the next one of each kind is made in a thread again."""
    convert = Conversion(function)
    for kind in ("a", "a", "b", "b"):
        await convert(kind)
    function.takes = SLOW
    await convert("a")
    function.takes = 0.0
    for kind in ("a", "b", "a", "b"):
        await convert(kind)
    assert function.were_inline == [False, True, False, True, True, False, False, True, True]


async def test_a_failure_in_a_thread_proves_nothing(function: Function) -> None:
    """However quickly a call in a thread fails, the next is made in a thread; the error leaves as it is."""
    convert = Conversion(function)
    function.error = ValueError("bad")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^bad$") as caught:
            await convert("a")
        assert caught.value is function.error
    function.error = None
    await convert("a")
    assert function.were_inline == [False, False, False]


async def test_after_a_failed_first_call(function: Function) -> None:
    """When a kind's first call has failed, the next ones don't wait for one another."""
    convert = Conversion(function)
    function.error = ValueError("bad")
    with pytest.raises(ValueError, match="bad"):
        await convert("a")
    function.error = None
    function.hold()
    async with trio.open_nursery() as nursery:
        for _ in range(THREADS):
            nursery.start_soon(convert, "a")
        await function.wait_until_running(THREADS)
        function.let_go()


async def test_a_quick_failure_on_the_spot_changes_nothing(function: Function, clock: Clock) -> None:
    """A kind stays quick when a call on the spot fails quickly, and doesn't when it fails slowly."""
    convert = Conversion(function)
    await convert("a")
    function.error = ValueError("bad")
    for takes in (0.0, SLOW, 0.0):
        function.takes = takes
        with pytest.raises(ValueError, match="bad"):
            await convert("a")
    assert function.were_inline == [False, True, True, False]


async def test_others_wait_for_the_first_of_a_kind(function: Function) -> None:
    """While a kind's first call is on its way, others of that kind wait for its result and then go on the spot."""
    convert = Conversion(function)
    function.hold()
    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(convert, "a")
            await function.wait_until_running()
            await trio.testing.wait_all_tasks_blocked()
            assert function.were_inline == [False]
            function.let_go()
    assert function.were_inline == [False] + [True] * 9


async def test_bounded_threads(function: Function) -> None:
    """At most so many calls run in threads at once; those that waited go on the spot if their kind has become quick."""
    convert = Conversion(function)
    function.takes = SLOW
    await convert("a")
    function.takes = 0.0
    function.hold()
    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(convert, "a")
            await function.wait_until_running(THREADS)
            await trio.testing.wait_all_tasks_blocked()
            function.let_go()
    assert function.peak == THREADS
    assert function.were_inline == [False] * (1 + THREADS) + [True] * (20 - THREADS)


async def test_bounded_kinds(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more kinds than are remembered, the one that was noted first is forgotten."""
    monkeypatch.setattr(serialization, "MAX_KINDS", 2)
    convert = Conversion(function)
    for kind in ("a", "b", "b", "c", "b", "c", "a"):
        await convert(kind)
    assert function.were_inline == [False, False, True, False, True, True, False]


async def test_cancelled_while_a_thread_runs(function: Function) -> None:
    """Who is cancelled while the function runs in a thread waits for it, and leaves then."""
    convert = Conversion(function)
    function.hold()
    went_on = False

    async def one() -> None:
        nonlocal went_on
        await convert("a")
        went_on = True

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await function.wait_until_running()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                assert nursery.child_tasks
                function.let_go()
    assert (function.running, went_on) == (0, False)
    await convert("a")
    assert function.were_inline == [False, True]


async def test_cancelled_while_waiting(function: Function) -> None:
    """Who is cancelled while it waits for the first of its kind, or for its turn, leaves at once; others go on."""
    convert = Conversion(function)
    function.hold()
    ended: list[str] = []

    async def one(kind: str, scope: trio.CancelScope) -> None:
        with scope:
            await convert(kind)
        ended.append(f"{kind} cancelled" if scope.cancelled_caught else kind)

    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(8)]
            for kind, scope in zip("abcdeaee", scopes, strict=True):
                nursery.start_soon(one, kind, scope)
                await trio.testing.wait_all_tasks_blocked()
            await function.wait_until_running(THREADS)
            scopes[4].cancel()  # the first "e", which has no turn yet
            scopes[5].cancel()  # the second "a", which waits for the first
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(ended) == ["a cancelled", "e cancelled"]
            function.let_go()
    assert sorted(ended[2:]) == ["a", "b", "c", "d", "e", "e"]
    assert function.were_inline == [False] * 5 + [True]


async def test_where_it_is_told_to(function: Function) -> None:
    """What is wrapped in Inline is never called in a thread, what is wrapped in InThread always."""
    inline = Decoder(None, Inline(function))
    in_thread = Decoder(None, InThread(function))
    function.takes = SLOW
    await inline(Record("orders", 0, 0))
    function.takes = 0.0
    await inline(Record("orders", 0, 0))
    assert function.were_inline == [True, True]
    for _ in range(2):
        await in_thread(Record("orders", 0, 0))
    assert function.were_inline[2:] == [False, False]


def test_the_place_of_several() -> None:
    """One function that may block takes all to a thread; only if none may, none is ever called there."""
    plain = StringSerializer()
    assert place_of() is place_of(None, Inline(plain)) is place_of(Inline(plain), Inline(plain)) is Place.INLINE
    assert place_of(None, plain) is place_of(plain, Inline(plain)) is Place.ADAPTIVE
    assert place_of(InThread(plain), plain) is place_of(Inline(plain), InThread(plain)) is Place.THREAD


async def test_decoding() -> None:
    """The handler gets the record with what the deserialisers made; the raw bytes are there, too."""
    seen: list[Record[int, str]] = []

    async def handle(record: Record[int, str]) -> str:
        seen.append(record)
        return "result"

    record = Record("orders", 3, 7, key=b"\0\0\0\5", value="ä".encode(), headers=(("h", b"1"),), attempt=2)
    assert await decoding(handle, IntegerDeserializer(), StringDeserializer())(record) == "result"
    (decoded,) = seen
    assert (decoded.key, decoded.value) == (5, "ä")
    assert (decoded.raw_key, decoded.raw_value) == (b"\0\0\0\5", "ä".encode())
    assert (decoded.topic, decoded.partition, decoded.offset, decoded.attempt) == ("orders", 3, 7, 2)


async def test_decoding_one_of_the_two() -> None:
    """What has no deserialiser stays raw."""
    record = Record("orders", 0, 0, key=b"\0\0\0\5", value=b"v")
    by_key = await Decoder(IntegerDeserializer(), None)(record)
    by_value = await Decoder(None, StringDeserializer())(record)
    assert [(each.key, each.value) for each in (by_key, by_value)] == [(5, b"v"), (b"\0\0\0\5", "v")]


def test_decoding_nothing() -> None:
    """Without deserialisers, the handler is called without anything in between."""

    async def handle(record: Record[Any, Any]) -> None: ...

    assert decoding(handle, None, None) is handle


async def test_what_deserialisers_get() -> None:
    """A deserialiser gets the raw bytes or None, topic, field and headers, the key's first, in one context."""
    got: list[tuple[Any, ...]] = []
    last_key = contextvars.ContextVar("last_key", default=b"none")

    def deserialize(data: bytes | None, context: SerializationContext) -> None:
        got.append((data, context.topic, context.field, context.headers, last_key.get()))
        last_key.set(data or b"")

    headers = (("h", b"1"), ("h", None))
    for place in (Inline, InThread):
        got.clear()
        last_key.set(b"none")
        decode = Decoder(place(deserialize), place(deserialize))
        await decode(Record("orders", 0, 0, key=b"k", headers=headers))
        assert got == [
            (b"k", "orders", MessageField.KEY, [*headers], b"none"),
            (None, "orders", MessageField.VALUE, [*headers], b"k"),
        ]


@pytest.mark.parametrize("place", [Inline, InThread])
@pytest.mark.parametrize("error", [ValueError("bad"), StopIteration(), StopAsyncIteration()])
async def test_what_cannot_be_deserialised(place: Callable[..., Any], error: Exception) -> None:
    """A deserialiser's error becomes one that names field and place, with the cause chained; no handler is called."""

    def bad(_data: bytes | None, _context: SerializationContext) -> None:
        raise error

    async def never(record: Record[Any, Any]) -> None:
        pytest.fail("was called")

    for field, deserializers in (("key", (place(bad), None)), ("value", (None, place(bad)))):
        with pytest.raises(SerializationError) as caught:
            await decoding(never, *deserializers)(Record("orders", 3, 7, key=b"k", value=b"v"))
        assert str(caught.value) == f"the {field} of orders[3]@7 can't be deserialised"
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("orders", 3, 7)
        assert caught.value.__cause__ is error


async def test_a_deserialiser_may_decide() -> None:
    """An outcome that a deserialiser raises is the attempt's, as if the handler had raised it."""

    def skip(_data: bytes | None, _context: SerializationContext) -> None:
        raise Skip("old")

    with pytest.raises(Skip, match=r"^old$"):
        await Decoder(Inline(skip), None)(Record("orders", 0, 0))


async def test_no_handler_after_a_cancellation(function: Function) -> None:
    """A handler isn't called any more when the attempt was cancelled while a deserialiser ran in a thread."""
    handled: list[Record[Any, Any]] = []

    async def handle(record: Record[Any, Any]) -> None:
        handled.append(record)

    function.hold()
    with trio.fail_after(HANG):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(decoding(handle, None, function), Record("orders", 0, 0))
            await function.wait_until_running()
            nursery.cancel_scope.cancel()
            function.let_go()
    assert not handled


GUID = bytes(range(16))


@pytest.mark.parametrize(
    ("data", "headers", "schema"),
    [
        (None, [], None),
        (b"", [], None),
        (b'{"a": 1}', [], None),
        (b"\0\0\0\0\7rest", [], b"\0\0\0\0\7"),
        (b"\0\0\0\7", [], None),
        (b"\1" + GUID + b"rest", [], b"\1" + GUID),
        (b"\1" + GUID[:-1], [], None),
        (b"\0\0\0\0\7rest", [("id", b"\1" + GUID + b"\0")], b"\1" + GUID),
        (b"rest", [("other", b"x"), ("id", b"\0\0\0\0\7")], b"\0\0\0\0\7"),
        (b"\0\0\0\0\7rest", [("id", None)], b"\0\0\0\0\7"),
        (b"\0\0\0\0\7rest", [("id", b"\1" + GUID), ("id", b"\0\0\0\0\7")], b"\1" + GUID),
    ],
)
def test_the_schema_that_data_names(data: bytes | None, headers: list[Any], schema: bytes | None) -> None:
    """The schema's id is found in the header, else in front of the data, and is cut from what follows it."""
    assert schema_of(data, "id", headers) == schema


async def test_kinds_of_records(function: Function) -> None:
    """A new topic or schema is looked at in a thread, another record of a known one isn't; keys count if decoded."""
    first, second = b"\0\0\0\0\1", b"\0\0\0\0\2"
    records = [
        (Record("orders", 0, 0, key=first, value=first + b"a"), False),
        (Record("orders", 9, 9, key=second, value=first + b"b"), True),
        (Record("orders", 0, 0, value=second + b"a"), False),
        (Record("returns", 0, 0, value=first + b"a"), False),
        (Record("orders", 0, 0, value=b"x", headers=(("__value_schema_id", first),)), True),
        (Record("orders", 0, 0, value=b"x", headers=(("__key_schema_id", first),)), False),
    ]
    decode = Decoder(None, function)
    for record, _ in records:
        await decode(record)
    assert function.were_inline == [expected for _, expected in records]
    both = Decoder(function, function)
    for record, _ in records[:2]:
        await both(record)
    assert function.were_inline[-4:] == [False] * 4
