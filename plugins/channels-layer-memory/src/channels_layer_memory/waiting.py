"""Readers that wait, and how a sender wakes exactly one of them.

A waiter hangs on every queue its reader named. Whoever puts a message on a queue takes one waiter off it under the
layer's lock and, with the lock released again, fires it. The reader then looks for itself: a waiter carries no
message, so nothing can be lost with one.
"""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop, CancelledError, TimerHandle, get_running_loop
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_layer_memory.queues import Queue

__all__ = ["LoopWaiter", "ThreadWaiter", "Waiter"]


class Waiter:
    """One wait of one reader. All attributes are guarded by the layer's lock."""

    __slots__ = ("is_fired", "queues", "wakes")

    def __init__(self) -> None:
        self.is_fired = False
        self.queues: list[Queue] = []
        self.wakes = 0
        """How often the layer's ``wake`` had been called when the wait began."""

    def fire(self, *, from_anywhere: bool = False) -> None:
        """Wake the reader; called at most once, without the layer's lock, from any thread; with ``from_anywhere`` also
        from a signal handler.

        Raises ``RuntimeError`` where the reader's event loop is closed: another waiter must have the message.
        """
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """A thread that sleeps on a lock of its own, so that a wake-up reaches it and nobody else."""

    __slots__ = ("_sleep",)

    def __init__(self) -> None:
        super().__init__()
        self._sleep = threading.Lock()
        self._sleep.acquire()

    def fire(self, *, from_anywhere: bool = False) -> None:
        self._sleep.release()

    def wait(self, seconds: float | None) -> None:
        """Sleep until fired, at most ``seconds``."""
        if seconds is None:
            self._sleep.acquire()
        else:
            self._sleep.acquire(True, min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class LoopWaiter(Waiter):
    """A task that sleeps in an event loop.

    It is what asyncio calls a future-like object: the task's own wake-up is run by the very call that a sender
    schedules. A real Future would schedule that in its turn, which costs another round of the loop, system call
    included, for each message. Used by one task, in one loop.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_is_done",
        "_thread",
        "_timer",
        "loop",
    )

    def __init__(self) -> None:
        super().__init__()
        self.loop = get_running_loop()
        self._thread = threading.get_ident()
        self._asyncio_future_blocking = False
        self._cancelled: CancelledError | None = None
        self._callback: Callable[[LoopWaiter], Any] | None = None
        self._context: Context | None = None
        self._timer: TimerHandle | None = None
        self._is_done = False

    def fire(self, *, from_anywhere: bool = False) -> None:
        # A signal handler runs in the loop's own thread while the loop sleeps, and has to interrupt that.
        if threading.get_ident() == self._thread and not from_anywhere:
            self.loop.call_soon(self._finish)
        else:
            self.loop.call_soon_threadsafe(self._finish)

    def finish_in(self, seconds: float) -> None:
        """Return from the wait after ``seconds``, fired or not; called in the loop, before the wait."""
        self._timer = self.loop.call_later(max(seconds, 0.0), self._finish)

    def _finish(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        if self._callback is not None and self._context is not None:
            self._context.run(self._callback, self)

    def __await__(self) -> Generator[Any, None, None]:
        try:
            if not self._is_done:
                self._asyncio_future_blocking = True
                yield self
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # What a task asks of the future it waits for.

    def get_loop(self) -> AbstractEventLoop:
        return self.loop

    def add_done_callback(self, callback: Callable[[Any], Any], *, context: Context) -> None:
        self._callback = callback
        self._context = context

    def remove_done_callback(self, callback: Callable[[Any], Any]) -> int:
        had_callback = self._callback is not None
        self._callback = None
        return int(had_callback)

    def cancel(self, msg: Any = None) -> bool:
        """The task is being cancelled: let it run, to find that out in :meth:`result`."""
        if self._is_done:
            return False
        self._is_done = True
        self._cancelled = CancelledError() if msg is None else CancelledError(msg)
        if self._callback is not None and self._context is not None:
            self.loop.call_soon(self._callback, self, context=self._context)
        return True

    def done(self) -> bool:
        return self._is_done

    def result(self) -> None:
        if self._cancelled is not None:
            raise self._cancelled
