"""One ordered stream of records per key, and which of them is served next.

Rules
-----

- A lane exists while its key has a record: running, ready or waiting. It is in exactly one place: in its
  group's ready queue, in a worker's hands, or sealed.
- Records of a lane are handed out in the order offered, the next only after the previous was finished.
- Groups (partitions) with ready lanes are served in turn, and the ready lanes of a group in turn, so neither
  a hot key nor a full partition starves another.
- A key of ``None`` has no order: each such record is a lane of its own that no later record can find.
- Only a lane with records *behind* its head has a buffer; buffers are recycled when they run dry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")


class Buffer(Protocol[T]):
    """Where the records behind a lane's head wait: a memory channel, or a deque in tests."""

    def send_nowait(self, value: T, /) -> None: ...

    def receive_nowait(self) -> T: ...

    def close(self) -> None: ...


class Lane(Generic[T]):
    """One key's records.

    Attributes:
        group: the lanes of the same partition.
        head: the record to be handled, or being handled.
        waiting: how many records wait behind the head.
        since: when the head was taken by a worker, in the clock of whoever took it.
    """

    __slots__ = ("buffer", "group", "head", "key", "since", "waiting")

    def __init__(self, group: LaneGroup[T], key: Hashable | None, head: T) -> None:
        self.group: LaneGroup[T] = group
        self.key: Hashable | None = key
        self.head: T = head
        self.waiting: int = 0
        self.since: float = 0.0
        self.buffer: Buffer[T] | None = None


class LaneGroup(Generic[T]):
    """The lanes of one assignment (its ``owner``)."""

    __slots__ = ("by_key", "is_closed", "owner", "ready", "sealed")

    def __init__(self, owner: Any) -> None:
        self.owner: Any = owner
        self.by_key: dict[Hashable, Lane[T]] = {}
        self.ready: deque[Lane[T]] = deque()
        self.sealed: list[Lane[T]] = []
        self.is_closed: bool = False


class LaneScheduler(Generic[T]):
    """Hands out lanes, groups in turn.

    Args:
        open_buffer: makes a buffer for a lane that needs one and finds none to recycle.
        max_spare: how many dry buffers are kept.
    """

    def __init__(self, open_buffer: Callable[[], Buffer[T]], max_spare: int = 1024) -> None:
        self._open_buffer: Final = open_buffer
        self._max_spare: Final = max_spare
        self._spare: list[Buffer[T]] = []
        self._turn: deque[LaneGroup[T]] = deque()

    def __bool__(self) -> bool:
        """Whether a lane is ready."""
        return bool(self._turn)

    def offer(self, group: LaneGroup[T], key: Hashable | None, item: T) -> None:
        """Put an item behind all others of its key.

        Raises:
            TypeError: the key can't be hashed; nothing changed.
        """
        if key is None:
            lane = Lane(group, None, item)
        else:
            found = group.by_key.get(key)
            if found is not None:
                if found.buffer is None:
                    found.buffer = self._spare.pop() if self._spare else self._open_buffer()
                found.buffer.send_nowait(item)
                found.waiting += 1
                return
            lane = group.by_key[key] = Lane(group, key, item)
        self._make_ready(lane)

    def take(self) -> Lane[T] | None:
        """The next ready lane, now in the caller's hands; ``None`` when nothing is ready."""
        turn = self._turn
        if not turn:
            return None
        group = turn[0]
        lane = group.ready.popleft()
        if not group.ready:
            turn.popleft()
        elif len(turn) > 1:
            turn.rotate(-1)
        return lane

    def advance(self, lane: Lane[T]) -> bool:
        """The head is finished. ``True``: ``lane.head`` is the next; ``False``: the lane is gone."""
        if not lane.waiting:
            if lane.key is not None and not lane.group.is_closed:
                del lane.group.by_key[lane.key]
            return False
        assert lane.buffer is not None  # noqa: S101 - something waits, so it waits there
        lane.head = lane.buffer.receive_nowait()
        lane.waiting -= 1
        if not lane.waiting:
            self._recycle(lane)
        return True

    def put_back(self, lane: Lane[T]) -> None:
        """The caller stops before the head was started; others of the group go first."""
        if not lane.group.is_closed:
            self._make_ready(lane)

    def seal(self, lane: Lane[T]) -> None:
        """Nothing of this lane is to be started any more; what is offered to it only waits."""
        if not lane.group.is_closed:
            lane.group.sealed.append(lane)

    def close(self, group: LaneGroup[T]) -> None:
        """Drop a group: nothing of it is handed out any more, and its buffers are closed."""
        group.is_closed = True
        if group.ready:
            self._turn.remove(group)
        for lane in group.by_key.values():
            if lane.buffer is not None:
                lane.buffer.close()
                lane.buffer = None
            lane.waiting = 0
        group.by_key.clear()
        group.ready.clear()
        group.sealed.clear()

    def _make_ready(self, lane: Lane[T]) -> None:
        ready = lane.group.ready
        if not ready:
            self._turn.append(lane.group)
        ready.append(lane)

    def _recycle(self, lane: Lane[T]) -> None:
        assert lane.buffer is not None  # noqa: S101 - the caller emptied it
        if len(self._spare) < self._max_spare:
            self._spare.append(lane.buffer)
        else:
            lane.buffer.close()
        lane.buffer = None
