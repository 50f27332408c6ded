"""What the transactional thread does with what its client says: here a stand-in, which says what it is told to."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError as ClientError, KafkaException
from shell.kit import P0

from trio_parallel_kafka.core.commits import CommitEntry
from trio_parallel_kafka.errors import (
    AuthenticationError,
    AuthorizationError,
    BrokerUnreachableError,
    ConfigError,
    DeliveryError,
    KafkaError,
    ProducerFencedError,
    RecordTooLargeError,
)
from trio_parallel_kafka.produced import ProducerRecord
from trio_parallel_kafka.producing import transaction_thread
from trio_parallel_kafka.producing.transaction_errors import RefusedError, delivery_error
from trio_parallel_kafka.producing.transaction_thread import Ending, Outcome, Stopped, Transaction, TransactionThread

IDLE = "connections.max.idle.ms"
AGAIN = ClientError(ClientError._TIMED_OUT, "again", False, True)  # noqa: FBT003 - it takes no names: retriable
ABORT = ClientError(ClientError.ILLEGAL_GENERATION, "abort", False, False, True)  # noqa: FBT003 - abortable
FENCED = ClientError(ClientError._FENCED, "fenced", True)  # noqa: FBT003 - fatal
BROKEN = ClientError(ClientError.OUT_OF_ORDER_SEQUENCE_NUMBER, "broken", True)  # noqa: FBT003 - fatal

Answer = ClientError | Exception | Callable[[], object] | None


class StandIn:
    """A ``confluent_kafka.Producer`` whose calls succeed unless ``answers`` has something else for them."""

    made: list[StandIn]
    answers: dict[str, deque[Answer]]

    def __init__(self, properties: dict[str, Any]) -> None:
        self.answer("create")
        self.properties = properties
        self.calls: list[str] = []
        self.reports: list[Callable[[ClientError | None, object], None]] = []
        self.made.append(self)

    def answer(self, name: str) -> object:
        answer = self.answers[name].popleft() if self.answers[name] else None
        if isinstance(answer, ClientError):
            raise KafkaException(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer() if answer is not None else 0

    def call(self, name: str) -> object:
        self.calls.append(name)
        return self.answer(name)

    def init_transactions(self, _timeout: float) -> None:
        self.call("init")

    def begin_transaction(self) -> None:
        self.call("begin")

    def produce(self, *, on_delivery: Callable[[ClientError | None, object], None], **_arguments: Any) -> None:
        self.call("produce")
        self.reports.append(on_delivery)

    def send_offsets_to_transaction(self, _offsets: object, _metadata: object, _timeout: float) -> None:
        self.call("offsets")

    def flush(self, _timeout: float) -> object:
        return self.call("flush")

    def commit_transaction(self, _timeout: float) -> None:
        self.call("commit")

    def abort_transaction(self, _timeout: float) -> None:
        self.call("abort")

    def poll(self, _timeout: float) -> None:
        self.answer("poll")

    def purge(self) -> None:
        self.answer("purge")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, deque[Answer]]]:
    """What the client's calls come to, by name."""
    monkeypatch.setattr(transaction_thread, "Producer", StandIn)
    monkeypatch.setattr(transaction_thread, "PAUSE", 0.0)
    StandIn.made = []
    StandIn.answers = defaultdict(deque)
    yield StandIn.answers
    assert not any(StandIn.answers.values()), "some answers weren't asked for"


def thread(*, connect_timeout: float = 60.0, transaction_timeout: float = 30.0) -> TransactionThread:
    """One that isn't opened yet; it runs in the test's own thread."""
    return TransactionThread(
        {"bootstrap.servers": "fake:9092", "message.timeout.ms": "60000"},
        transactional_id="billing-0",
        connect_timeout=connect_timeout,
        transaction_timeout=transaction_timeout,
    )


def opened(**fields: float) -> TransactionThread:
    """One that is ready."""
    made = thread(**fields)
    made.open()
    return made


def transaction(is_wanted: Callable[[], bool] = lambda: True, **fields: Any) -> Transaction:
    """A transaction of one record."""
    record = ProducerRecord("results", b"a", **fields)
    return Transaction([record], [CommitEntry(P0, 1, 3, "")], b"metadata", is_wanted)


def report(*errors: ClientError | None) -> Callable[[], int]:
    """The client reports of the records handed over, in their order, as it flushes."""

    def flush() -> int:
        for each, error in zip(StandIn.made[-1].reports, errors, strict=True):
            each(error, None)
        return 0

    return flush


def outcome_code(outcome: Outcome) -> int | None:
    """The code of the error in it."""
    return None if outcome.error is None else outcome.error.code()


# Opening


def test_properties(answers: dict[str, deque[Answer]]) -> None:
    """No record outlives its transaction, and the identity is told."""
    opened(transaction_timeout=10.0)
    properties = StandIn.made[0].properties
    assert properties["transactional.id"] == "billing-0"
    assert properties["transaction.timeout.ms"] == properties["message.timeout.ms"] == 10_000


@pytest.mark.parametrize(
    ("given", "used"), [({}, 10_000), ({IDLE: "0"}, 10_000), ({IDLE: 230_000}, 10_000), ({IDLE: 3_000}, 3_000)]
)
def test_idle_connections(answers: dict[str, deque[Answer]], given: dict[str, Any], used: int) -> None:
    """Idle connections are closed soon: without that, the client waits for a coordinator that was restarted."""
    TransactionThread(given, transactional_id="billing-0", connect_timeout=60.0).open()
    assert StandIn.made[0].properties[IDLE] == used


def test_opening_takes_time(answers: dict[str, deque[Answer]]) -> None:
    """Opening is asked for again until it succeeds."""
    answers["init"] += [AGAIN, AGAIN]
    opened()
    assert StandIn.made[0].calls == ["init"] * 3


@pytest.mark.parametrize(
    ("code", "kind", "match"),
    [
        (ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, AuthorizationError, "WRITE and DESCRIBE"),
        (ClientError.INVALID_TRANSACTION_TIMEOUT, KafkaError, "transaction.max.timeout.ms"),
        (ClientError._UNSUPPORTED_FEATURE, KafkaError, "can't make transactions"),
        (ClientError.POLICY_VIOLATION, KafkaError, "transactions can't be made"),
    ],
)
def test_opening_fails(answers: dict[str, deque[Answer]], code: int, kind: type[Exception], match: str) -> None:
    """What trying again doesn't mend is said, and the client is let go."""
    answers["init"].append(ClientError(code, "refused", True))  # noqa: FBT003 - fatal
    answers["poll"] += [KafkaException(FENCED), KafkaException(FENCED)]
    made = thread()
    with pytest.raises(kind, match=match):
        made.open()
    assert made._client is None


def test_wrong_credentials(answers: dict[str, deque[Answer]]) -> None:
    """What the client reports on the side is found."""

    def say() -> None:
        StandIn.made[0].properties["error_cb"](ClientError(ClientError._AUTHENTICATION))
        StandIn.made[0].properties["error_cb"](ClientError(ClientError._ALL_BROKERS_DOWN))

    answers["init"].append(AGAIN)
    answers["poll"].append(say)
    with pytest.raises(AuthenticationError):
        opened()


@pytest.mark.parametrize("is_reported", [True, False])
def test_nobody_answers(answers: dict[str, deque[Answer]], is_reported: bool) -> None:
    """Opening is bounded, and says what the client reports, if it does."""
    if is_reported:
        answers["poll"].append(lambda: StandIn.made[0].properties["error_cb"](ClientError(ClientError._RESOLVE)))
    answers["init"].append(AGAIN)
    with pytest.raises(BrokerUnreachableError, match="resolution" if is_reported else "again"):
        opened(connect_timeout=0.0)


def test_bad_properties(answers: dict[str, deque[Answer]]) -> None:
    """What librdkafka refuses is a fault of the configuration."""
    answers["create"].append(ClientError(ClientError._INVALID_ARG, "no such file"))
    with pytest.raises(ConfigError, match="no such file"):
        opened()


def test_stopped_while_opening(answers: dict[str, deque[Answer]]) -> None:
    """Opening ends when the thread is to stop."""
    made = thread()
    answers["init"] += [AGAIN, _raising(made.stop, AGAIN)]
    with pytest.raises(Stopped):
        made.open()


def _raising(act: Callable[[], object], error: ClientError) -> Callable[[], object]:
    def answer() -> object:
        act()
        raise KafkaException(error)

    return answer


# A transaction


def test_committed(answers: dict[str, deque[Answer]]) -> None:
    """All is handed over, then the acknowledgements are waited for, then it is committed."""
    made = opened()
    answers["flush"].append(lambda: 1)
    assert made.transact(transaction()).ending is Ending.COMMITTED
    assert StandIn.made[0].calls == ["init", "begin", "produce", "offsets", "flush", "flush", "commit"]
    made.serve_callbacks()
    made.close()
    made.serve_callbacks()
    made.close()


def test_everything_takes_time(
    answers: dict[str, deque[Answer]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs more time is asked for again, and the log says what is waited for."""
    monkeypatch.setattr(transaction_thread, "SLOW", 0.0)
    answers["offsets"].append(AGAIN)
    answers["commit"] += [AGAIN, AGAIN]
    made = opened()
    made._trouble = ClientError(ClientError._RESOLVE)
    assert made.transact(transaction()).ending is Ending.COMMITTED
    assert StandIn.made[0].calls[3:] == ["offsets", "offsets", "flush", "commit", "commit", "commit"]
    assert "under way for 0 s: again; the client reported: Local: Host resolution failure" in caplog.text


def test_queue_is_full(answers: dict[str, deque[Answer]]) -> None:
    """Where the client's queue is full, it is polled until there is room."""
    answers["produce"] += [BufferError(), BufferError()]
    assert opened().transact(transaction()).ending is Ending.COMMITTED
    assert StandIn.made[0].calls.count("produce") == 3


@pytest.mark.parametrize("call", ["begin", "offsets", "commit"])
def test_aborted(answers: dict[str, deque[Answer]], call: str) -> None:
    """What has to be aborted is, however long that takes; the next begins anew."""
    answers[call].append(ABORT)
    answers["abort"].append(AGAIN)
    made = opened()
    outcome = made.transact(transaction())
    assert (outcome.ending, outcome_code(outcome)) == (Ending.ABORTED, ClientError.ILLEGAL_GENERATION)
    assert StandIn.made[0].calls[-2:] == ["abort", "abort"]
    assert made.transact(transaction()).ending is Ending.COMMITTED
    assert len(StandIn.made) == 1


def test_not_wanted(answers: dict[str, deque[Answer]]) -> None:
    """What isn't wanted any more is aborted before it is committed."""
    assert opened().transact(transaction(lambda: False)).ending is Ending.ABORTED
    assert "commit" not in StandIn.made[0].calls


@pytest.mark.parametrize("call", ["offsets", "produce"])
def test_not_wanted_in_the_midst(answers: dict[str, deque[Answer]], call: str) -> None:
    """Also while it waits for the broker."""
    answers[call].append(AGAIN if call == "offsets" else BufferError())
    assert opened().transact(transaction(lambda: False)).ending is Ending.ABORTED
    assert StandIn.made[0].calls.count(call) == 1


def test_trouble_of_the_client_s_own(answers: dict[str, deque[Answer]]) -> None:
    """The code by which a lost partition is told elsewhere isn't handed on for anything else."""
    answers["offsets"].append(ClientError(ClientError._STATE, "erroneous state"))
    outcome = opened().transact(transaction())
    assert outcome.ending is Ending.ABORTED
    assert outcome.error is not None
    assert outcome.error.code() != ClientError._STATE
    assert outcome.error.str() == "erroneous state"


def test_not_delivered(answers: dict[str, deque[Answer]]) -> None:
    """A record that wasn't acknowledged in time aborts the transaction; one that was purged by that says nothing."""
    given = transaction()
    given = Transaction([*given.records] * 3, given.offsets, given.group_metadata, given.is_wanted)
    purged, late = ClientError(ClientError._PURGE_QUEUE), ClientError(ClientError._MSG_TIMED_OUT)
    answers["flush"].append(report(None, purged, late))
    made = opened()
    outcome = made.transact(given)
    assert (outcome.ending, outcome_code(outcome)) == (Ending.ABORTED, ClientError._MSG_TIMED_OUT)
    assert made.transact(given).ending is Ending.COMMITTED


@pytest.mark.parametrize("is_late", [True, False])
def test_refused(answers: dict[str, deque[Answer]], is_late: bool) -> None:
    """A record that will never be taken is named, whether the client or the broker refuses it."""
    error = ClientError(ClientError.MSG_SIZE_TOO_LARGE)
    if is_late:
        answers["flush"].append(report(error))
    else:
        answers["produce"].append(error)
    given = transaction(key=b"secret")
    with pytest.raises(RefusedError) as caught:
        opened().transact(given)
    assert caught.value.record is given.records[0]
    assert "secret" not in repr(caught.value)
    assert StandIn.made[0].calls[-1] == "abort"
    assert isinstance(delivery_error(caught.value), RecordTooLargeError)


def test_nonsense(answers: dict[str, deque[Answer]]) -> None:
    """A record that no client could take is named, too."""
    with pytest.raises(RefusedError) as caught:
        opened().transact(transaction(timestamp=-1.0))
    error = delivery_error(caught.value)
    assert type(error) is DeliveryError
    assert "timestamp" in str(error)


# A client beyond repair


@pytest.mark.parametrize("call", ["begin", "produce", "offsets", "flush", "abort", "commit"])
def test_fenced(answers: dict[str, deque[Answer]], call: str) -> None:
    """Shut out within the time that a transaction may take, it was another with the same identity."""
    if call == "abort":
        answers["offsets"].append(ABORT)
    answers[call].append(ClientError(ClientError._FATAL, "fatal") if call == "produce" else FENCED)
    if call == "produce":
        answers["abort"].append(FENCED)
    with pytest.raises(ProducerFencedError, match="'billing-0' has taken over"):
        opened().transact(transaction())
    assert len(StandIn.made) == 1


@pytest.mark.parametrize(
    ("call", "ending"), [("begin", Ending.ABORTED), ("abort", Ending.ABORTED), ("commit", Ending.UNKNOWN)]
)
def test_given_up_by_the_broker(answers: dict[str, deque[Answer]], call: str, ending: Ending) -> None:
    """Shut out after that time, it was the broker, which had waited too long: another client goes on."""
    if call == "abort":
        answers["offsets"].append(ABORT)
    answers[call].append(FENCED)
    made = opened(transaction_timeout=0.0)
    answers["init"] += [AGAIN, AGAIN]
    assert made.transact(transaction()).ending is ending
    assert StandIn.made[1].calls == ["init"] * 3
    assert made.transact(transaction()).ending is Ending.COMMITTED


@pytest.mark.parametrize(("call", "ending"), [("abort", Ending.ABORTED), ("commit", Ending.UNKNOWN)])
def test_no_end(answers: dict[str, deque[Answer]], monkeypatch: pytest.MonkeyPatch, call: str, ending: Ending) -> None:
    """A client that goes on asking for more time to end a transaction is replaced, and another sees to its end."""
    monkeypatch.setattr(transaction_thread, "NO_END", 0.0)
    if call == "abort":
        answers["offsets"].append(ABORT)
    answers[call].append(AGAIN)
    made = opened()
    outcome = made.transact(transaction())
    assert outcome.ending is ending
    assert "get on with it" in str(outcome.error)
    assert [each.calls.count("init") for each in StandIn.made] == [1, 1]
    assert made.transact(transaction()).ending is Ending.COMMITTED


def test_broken(answers: dict[str, deque[Answer]]) -> None:
    """A client that is broken otherwise is replaced, and what it may have committed is unknown."""
    answers["commit"].append(BROKEN)
    made = opened()
    outcome = made.transact(transaction())
    assert (outcome.ending, outcome_code(outcome)) == (Ending.UNKNOWN, ClientError.OUT_OF_ORDER_SEQUENCE_NUMBER)
    assert len(StandIn.made) == 2


def test_aborting_a_commit_breaks(answers: dict[str, deque[Answer]]) -> None:
    """If the commit was to be aborted and that broke the client, it isn't known which of the two came first."""
    answers["commit"].append(ABORT)
    answers["abort"].append(BROKEN)
    assert opened().transact(transaction()).ending is Ending.UNKNOWN


def test_replacement_is_refused(answers: dict[str, deque[Answer]]) -> None:
    """Where another client would get on no better, that is said."""
    answers["commit"].append(BROKEN)
    made = opened()
    answers["init"].append(ClientError(ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "refused", True))  # noqa: FBT003
    with pytest.raises(AuthorizationError):
        made.transact(transaction())


def test_wrong_credentials_pass_later(answers: dict[str, deque[Answer]], caplog: pytest.LogCaptureFixture) -> None:
    """A broker that restarts may refuse credentials for a while: a replacement goes on trying."""
    answers["commit"].append(BROKEN)
    made = opened()
    answers["init"].append(AGAIN)
    answers["poll"] += [None, lambda: StandIn.made[1].properties["error_cb"](ClientError(ClientError._AUTHENTICATION))]
    assert made.transact(transaction()).ending is Ending.UNKNOWN
    assert "the transactional client is replaced: broken" in caplog.text


# Stopping


@pytest.mark.parametrize("call", ["flush", "offsets"])
def test_stopped_before_the_commit(answers: dict[str, deque[Answer]], call: str) -> None:
    """A transaction that isn't being committed when the thread is to stop is aborted."""
    made = opened()
    answers[call].append(_raising(made.stop, AGAIN) if call == "offsets" else _returning(made.stop, 1))
    assert made.transact(transaction()).ending is Ending.ABORTED


@pytest.mark.parametrize("call", ["commit", "abort"])
def test_stopped_while_the_broker_is_silent(
    answers: dict[str, deque[Answer]], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the thread is to stop, a transaction has but a moment to end."""
    monkeypatch.setattr(transaction_thread, "LAST_TRY", -1.0)
    made = opened()
    if call == "abort":
        answers["offsets"].append(ABORT)
    answers[call].append(_raising(made.stop, AGAIN))
    assert made.transact(transaction()).ending is Ending.UNKNOWN
    assert StandIn.made[0].calls.count(call) == 1


def test_last_try(answers: dict[str, deque[Answer]]) -> None:
    """In that moment it is asked again."""
    made = opened()
    answers["commit"] += [_raising(made.stop, AGAIN), AGAIN]
    assert made.transact(transaction()).ending is Ending.COMMITTED


def test_stop_is_heard_at_once(answers: dict[str, deque[Answer]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause between two calls ends when the thread is to stop."""
    monkeypatch.setattr(transaction_thread, "PAUSE", 3600.0)
    monkeypatch.setattr(transaction_thread, "LAST_TRY", -1.0)
    made = opened()
    answers["commit"].append(_raising(lambda: threading.Timer(0.01, made.stop).start(), AGAIN))
    assert made.transact(transaction()).ending is Ending.UNKNOWN


def _returning(act: Callable[[], object], value: int) -> Callable[[], object]:
    def answer() -> object:
        act()
        return value

    return answer


def test_client_is_let_go_quietly(answers: dict[str, deque[Answer]], caplog: pytest.LogCaptureFixture) -> None:
    """That a broken client can't even purge its queue is nobody's concern."""
    answers["purge"].append(FENCED)
    with caplog.at_level(logging.DEBUG):
        opened().close()
    assert caplog.text == ""


# A call that doesn't return


@pytest.fixture
def stuck(answers: dict[str, deque[Answer]]) -> Iterator[threading.Event]:
    """The client's next sending of offsets returns only when this is set."""
    returned = threading.Event()
    answers["offsets"].append(returned.wait)
    yield returned
    returned.set()


def test_call_that_does_not_return(
    stuck: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is left to it and replaced; the next aborts what was begun, and the same may be sent again."""
    monkeypatch.setattr(transaction_thread, "OVERDUE", 0.1)
    made = opened()
    outcome = made.transact(transaction())
    assert (outcome.ending, outcome_code(outcome)) == (Ending.ABORTED, ClientError.TRANSACTION_ABORTABLE)
    assert [each.calls for each in StandIn.made] == [["init", "begin", "produce", "offsets"], ["init"]]
    assert "didn't return from a call" in caplog.text
    assert made.transact(transaction()).ending is Ending.COMMITTED


def test_stopped_while_a_call_does_not_return(stuck: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end doesn't wait for it, nor does it touch the client any more."""
    monkeypatch.setattr(transaction_thread, "LAST_TRY", 0.0)
    made = opened()
    made.stop()
    assert made.transact(transaction()).ending is Ending.UNKNOWN
    made.close()
    assert StandIn.made[0].calls[-1] == "offsets"
