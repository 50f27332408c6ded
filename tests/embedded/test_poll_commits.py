"""The thread that owns the client, over a stand-in: which commits are sent, and what is told of them."""

from __future__ import annotations

import pytest
from confluent_kafka import (
    KafkaError as ClientError,
)
from embedded.poll_rig import A, Acknowledged, B, Rig, entry, refused

from trio_parallel_kafka.control.poll_thread import CommitResults

pytestmark = pytest.mark.usefixtures("stand_in")


def test_only_what_is_owned_in_its_tenure_is_committed() -> None:
    """Entries of ended tenures, and of partitions that were never assigned, never reach the client.

    Neither need an entry have metadata: an empty one was once handed over as none, which the client refuses.
    """
    rig = Rig()
    rig.assign({A: (0, 3)})
    (results,) = rig.commit(entry(A, 2), entry(B, 1))
    assert [error.code() for error in (results[A], results[B]) if error] == [ClientError._STATE] * 2
    assert rig.client.called() == []
    pending = rig.commit(entry(A, 3, 8, ""), entry(B, 1))
    assert rig.client.called() == [("commit", ("orders", 0, 8, ""))]
    assert pending == []
    rig.acknowledge(None, Acknowledged(*A))
    assert pending[0][A] is None
    assert pending[0][B] is not None


def test_acknowledgements_come_in_order() -> None:
    """Each acknowledgement is of the oldest commit; an error of the whole, or of one partition, is told of each."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    error = ClientError(ClientError.UNKNOWN)
    first, second, third = (rig.commit(entry(A, 1, n), entry(B, 1, n)) for n in range(3))
    rig.acknowledge(None, Acknowledged(*A), Acknowledged(*B, error))
    assert (first, second) == ([{A: None, B: error}], [])
    rig.acknowledge(error, Acknowledged(*A), Acknowledged(*B))
    rig.acknowledge(None, Acknowledged(*A), Acknowledged(*B))
    assert second == [{A: error, B: error}]
    assert third == [{A: None, B: None}]


def test_a_commit_that_the_client_refuses() -> None:
    """A commit that can't even be sent fails with the client's error; others that are awaited stay so."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    before = rig.commit(entry(A, 1))
    rig.client.refuses["commit"] = refused(ClientError._TRANSPORT)
    results = rig.commit(entry(A, 1), entry(B, 1))
    assert {error.code() for error in results[0].values() if error} == {ClientError._TRANSPORT, ClientError._STATE}
    assert results[0][A] == ClientError(ClientError._TRANSPORT)
    assert before == []
    rig.acknowledge(None, Acknowledged(*A))
    assert before == [{A: None}]


def test_a_last_commit_that_fails() -> None:
    """A synchronous commit that fails says so, and leaves the acknowledgements that are awaited alone."""
    rig = Rig()
    rig.assign({A: (0, 1)})
    before = rig.commit(entry(A, 1))
    rig.client.refuses["commit and wait"] = refused(ClientError.UNKNOWN_MEMBER_ID)
    results: list[CommitResults] = []
    rig.while_asked = lambda: rig.thread.submit(lambda: rig.thread.commit([entry(A, 1)], results.append))
    rig.rebalance("on_revoke", A)
    assert results == [{A: ClientError(ClientError.UNKNOWN_MEMBER_ID)}]
    rig.acknowledge(None, Acknowledged(*A))
    assert before == [{A: None}]


def test_after_the_callback_commits_are_asynchronous_again() -> None:
    """Only within a callback does a commit wait."""
    rig = Rig()
    rig.assign({A: (0, 1), B: (0, 1)})
    rig.rebalance("on_revoke", A)
    rig.commit(entry(B, 1))
    assert rig.client.called() == [("commit", ("orders", 1, 5, "m"))]
