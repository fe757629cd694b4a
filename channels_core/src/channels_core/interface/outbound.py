"""Handing events to the server without a task: the one step that nearly always suffices, and what happens when not.

A server's ``send`` for a WebSocket frame writes into a buffer and returns; it waits only when the client is slow. So
the receiving task drives it by hand for one step, and only a send that really waits gets a task of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType
from typing import Any

from channels_core.interface.asgi import Event

__all__ = ["Backlog", "Resumed", "step"]


class Resumed:
    """The rest of a coroutine that was driven by hand for one step; awaiting it carries on where that stopped."""

    __slots__ = ("_coroutine", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, None], yielded: Any) -> None:
        self._coroutine = coroutine
        self._yielded = yielded

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, yielded = self._coroutine, self._yielded
        try:
            while True:
                try:
                    value = yield yielded
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - cancellation too is for the coroutine to see
                    yielded = coroutine.throw(error)
                else:
                    yielded = coroutine.send(value)
        except StopIteration:
            return


def step(awaitable: Awaitable[None]) -> Awaitable[None] | None:
    """Run ``awaitable`` until it ends or waits. ``None`` when it ended, else what is left to be awaited.

    Raises what it raises. Nothing is driven by hand that is not a coroutine: it is looked at and given back.
    """
    if type(awaitable) is CoroutineType:
        try:
            yielded = awaitable.send(None)
        except StopIteration:
            return None
        return Resumed(awaitable, yielded)
    done = getattr(awaitable, "done", None)
    if done is not None and done():
        awaitable.result()  # type: ignore[attr-defined]  # a future, as it has done()
        return None
    return awaitable


class Backlog:
    """What waits for one slow client: events in order, their size, and when it last took something."""

    __slots__ = ("events", "progress_at", "size", "task")

    def __init__(self, now: float) -> None:
        self.events: deque[tuple[Event, int]] = deque()
        self.size = 0
        self.progress_at = now
        self.task: Any = None

    def append(self, event: Event, size: int) -> None:
        """Put ``event`` behind the others."""
        self.events.append((event, size))
        self.size += size
