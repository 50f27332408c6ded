"""The same handlers in each kind, async and plain. A record's value says what is to become of it.

``do``; ``fail 2``, ``retry 2``: so many attempts fail, or ask for another; ``skip``; ``bury``; ``send`` one record, or
``several``; ``strange``: return what can't be sent; ``hold x``: wait for the gate x; ``hang x``: the first attempt does
so. In a batch these are the record's outcomes, but for ``raise 2``, by which so many calls raise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import trio
from engines.journal import Journal

from trio_parallel_kafka import DeadLetter, ProducerRecord, Record, Retry, Skip

AGAIN = 0.002
"""Seconds after which a gate is looked at again."""

Records = tuple[Record[Any, Any], ...]


class HandlerError(Exception):
    """A handler's failure, with two arguments."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what, offset)


def handle(record: Record[Any, Any]) -> object:
    """Handle one, plainly."""
    journal = Journal()
    with journal.noting([record]):
        while _has_to_wait(journal, record):
            time.sleep(AGAIN)
        return _act(record)


async def handle_async(record: Record[Any, Any]) -> object:
    """Handle one, asynchronously."""
    journal = Journal()
    with journal.noting([record]):
        while _has_to_wait(journal, record):
            await trio.sleep(AGAIN)
        return _act(record)


def handle_batch(records: Records) -> Sequence[object]:
    """Handle several, plainly."""
    journal = Journal()
    with journal.noting(records):
        while any(_has_to_wait(journal, each) for each in records):
            time.sleep(AGAIN)
        return _outcomes(records)


async def handle_batch_async(records: Records) -> Sequence[object]:
    """Handle several, asynchronously."""
    journal = Journal()
    with journal.noting(records):
        while any(_has_to_wait(journal, each) for each in records):
            await trio.sleep(AGAIN)
        return _outcomes(records)


def _command(record: Record[Any, Any]) -> tuple[str, str]:
    command, _, argument = (record.raw_value or b"").decode().partition(" ")
    return command, argument


def _has_to_wait(journal: Journal, record: Record[Any, Any]) -> bool:
    command, gate = _command(record)
    return (command == "hold" or (command == "hang" and record.attempt == 1)) and not journal.is_open(gate)


def _act(record: Record[Any, Any]) -> object:
    outcome = _outcome(record)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _outcome(record: Record[Any, Any]) -> object:
    command, argument = _command(record)
    match command:
        case "fail" if record.attempt <= int(argument):
            return HandlerError("it is bad", record.offset)
        case "retry" if record.attempt <= int(argument):
            return Retry(after=0)
        case "skip":
            return Skip("not of interest")
        case "bury":
            return DeadLetter("beyond help")
        case "send":
            return ProducerRecord("results", repr(record.value))
        case "several":
            return [ProducerRecord("results", f"{number}") for number in range(2)]
        case "strange":
            return 42
    return None


def _outcomes(records: Records) -> Sequence[object]:
    for record in records:
        command, argument = _command(record)
        if command == "raise" and record.attempt <= int(argument):
            raise HandlerError("all are bad", record.offset)
    return [_outcome(record) for record in records]
