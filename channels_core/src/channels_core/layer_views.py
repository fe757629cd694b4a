"""The sync and async views of a layer backend that its author did not write.

An operation written synchronously gets its ``a`` twin by running it in a thread (or, for a backend that never
waits, by calling it); one written asynchronously gets its sync twin by running it on the backend's own loop
thread. Both are made at first use and made anew after a fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from channels_core.exceptions import BlockingCallError, LayerUnavailable

if TYPE_CHECKING:
    from channels_core.layers import (
        ChannelFigures,
        DeadLetter,
        Delivery,
        Exchange,
        LayerBackend,
        Outcome,
        ProcessInfo,
        ProcessKind,
        Send,
        Settlement,
        Turn,
    )

__all__ = ["DerivedViews", "in_running_loop"]

T = TypeVar("T")

_READERS = 64
_CALLERS = 16

_OPERATIONS = (
    "send_batch",
    "receive_batch",
    "settle",
    "renew_leases",
    "group_add",
    "group_discard",
    "group_channels",
    "group_count",
    "groups",
    "close_channel",
    "open_process",
    "renew_process",
    "close_process",
    "processes",
    "flush",
    "statistics",
    "dead_letters",
    "replay_dead",
    "drop_dead",
)


class DerivedViews:
    """The ``a`` twins of :class:`~channels_core.layers.LayerBackend`, and what both derivations need.

    Each twin keeps the law in the docstring of the method without the ``a``.
    """

    is_waiting: ClassVar[bool]
    is_transactional: ClassVar[bool]

    _threads: ThreadPoolExecutor | None = None
    _readers: ThreadPoolExecutor | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == "channels_core.layers" or getattr(cls, "__abstract__", False):
            return
        from channels_core.layers import LayerBackend

        missing = [
            name
            for name in _OPERATIONS
            if getattr(cls, name) is getattr(LayerBackend, name)
            and getattr(cls, f"a{name}") is getattr(LayerBackend, f"a{name}")
        ]
        if cls.wake is LayerBackend.wake:  # type: ignore[attr-defined]  # a mixin of LayerBackend
            missing.append("wake")
        if cls.is_transactional and cls.send_in_transaction is LayerBackend.send_in_transaction:  # type: ignore[attr-defined]  # as above
            missing.append("send_in_transaction")
        if missing:
            raise TypeError(
                f"{cls.__qualname__} is no layer backend yet: it does not write {', '.join(missing)}."
                " Write each of them, or its 'a' twin; channels_core.layers.LayerBackend gives the law of each."
            )

    # Derivation, one way and the other.

    async def _run_sync(self, call: Callable[[], T]) -> T:
        if not self.is_waiting:
            return call()
        if self._threads is None:
            self._prepare()
            self._threads = ThreadPoolExecutor(_CALLERS, thread_name_prefix="layer")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _run_async(self, work: Coroutine[Any, Any, T]) -> T:
        if in_running_loop():
            name: str = getattr(work, "__name__", "the twin")
            work.close()
            raise BlockingCallError(
                f"{type(self).__name__}.{name.removeprefix('a')}() would wait in a thread whose event loop is running,"
                f" and stall everything on it. Await {name}() instead."
            )
        future = asyncio.run_coroutine_threadsafe(work, self._own_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _receive_async(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        return self._run_async(self.areceive_batch(channels, **options))  # type: ignore[misc]  # mixin

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with _starting.lock:
            if self._loop is None:
                self._prepare()
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_loop, args=(self._loop,), name="layer-loop", daemon=True).start()
            return self._loop

    def _prepare(self) -> None:
        """After a fork the child has none of the parent's threads."""
        if hasattr(os, "register_at_fork") and self not in _forgetful:
            _forgetful.add(self)

    def _forget_views(self) -> None:
        self._threads = self._readers = self._loop = None

    def _close_views(self) -> None:
        threads, readers, loop = self._threads, self._readers, self._loop
        self._forget_views()
        for pool in (threads, readers):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    # The twins.

    async def asend_batch(self: LayerBackend, sends: Sequence[Send]) -> list[Outcome]:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.send_batch, sends))

    async def asend_one(self: LayerBackend, send: Send) -> Outcome:  # type: ignore[misc]  # mixin
        return (await self.asend_batch((send,)))[0]

    async def areceive_batch(  # type: ignore[misc]  # mixin
        self: LayerBackend,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        if self._readers is None:
            self._prepare()
            self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="layer-reader")
        reading = self._readers.submit(
            self.receive_batch, channels, limit=limit, timeout=timeout, process=process
        )
        try:
            return await asyncio.shield(asyncio.wrap_future(reading))
        except asyncio.CancelledError:
            if not reading.cancel():
                # In the reading thread: the loop of a reader that is cancelled may be closed by then.
                reading.add_done_callback(self._give_back)
                self.wake()
            raise

    def _give_back(self: LayerBackend, reading: Future[list[Delivery]]) -> None:  # type: ignore[misc]  # mixin
        from channels_core.layers import Settlement, Verdict

        if reading.exception() is None and reading.result():
            self.settle([Settlement(delivery, Verdict.RELEASE) for delivery in reading.result()])

    async def asettle(self: LayerBackend, settlements: Sequence[Settlement]) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(partial(self.settle, settlements))

    async def aexchange(  # type: ignore[misc]  # mixin
        self: LayerBackend,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        from channels_core.layers import Exchange, all_sent, settled_by

        sends = [send for turn in turns for send in turn.sends]
        outcomes, settlements = settled_by(turns, await self.asend_batch(sends) if sends else ())
        deliveries: list[Delivery] = []
        try:
            if settlements:
                await self.asettle(settlements)
                settlements = []
            if channels and limit:
                timeout = timeout if all_sent(outcomes) else 0
                deliveries = await self.areceive_batch(
                    channels, limit=limit, timeout=timeout, process=process
                )
        except LayerUnavailable:
            if not sends:
                raise
            return Exchange(outcomes, deliveries, settlements)
        return Exchange(outcomes, deliveries)

    async def arenew_leases(self: LayerBackend, deliveries: Sequence[Delivery]) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(partial(self.renew_leases, deliveries))

    async def agroup_add(self: LayerBackend, group: str, channel: str) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(partial(self.group_add, group, channel))

    async def agroup_discard(self: LayerBackend, group: str, channel: str) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(partial(self.group_discard, group, channel))

    async def agroup_channels(self: LayerBackend, group: str) -> list[str]:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.group_channels, group))

    async def agroup_count(self: LayerBackend, group: str) -> int:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.group_count, group))

    async def agroups(self: LayerBackend) -> dict[str, int]:  # type: ignore[misc]  # mixin
        return await self._run_sync(self.groups)

    async def aclose_channel(self: LayerBackend, channel: str) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(partial(self.close_channel, channel))

    async def aopen_process(self: LayerBackend, kind: ProcessKind, *, label: str = "") -> str:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.open_process, kind, label=label))

    async def arenew_process(  # type: ignore[misc]  # mixin
        self: LayerBackend, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        return await self._run_sync(partial(self.renew_process, process, load=load, counters=counters))

    async def aclose_process(self: LayerBackend, process: str) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(partial(self.close_process, process))

    async def aprocesses(self: LayerBackend) -> list[ProcessInfo]:  # type: ignore[misc]  # mixin
        return await self._run_sync(self.processes)

    async def aflush(self: LayerBackend) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(self.flush)

    async def astatistics(  # type: ignore[misc]  # mixin
        self: LayerBackend, channels: Iterable[str] | None = None
    ) -> list[ChannelFigures]:
        return await self._run_sync(partial(self.statistics, channels))

    async def adead_letters(  # type: ignore[misc]  # mixin
        self: LayerBackend, channel: str | None = None, *, limit: int = 100
    ) -> list[DeadLetter]:
        return await self._run_sync(partial(self.dead_letters, channel, limit=limit))

    async def areplay_dead(self: LayerBackend, ids: Sequence[str]) -> int:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.replay_dead, ids))

    async def adrop_dead(self: LayerBackend, ids: Sequence[str]) -> int:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.drop_dead, ids))

    async def aclean(self: LayerBackend, *, limit: int | None = None) -> int:  # type: ignore[misc]  # mixin
        return await self._run_sync(partial(self.clean, limit=limit))

    async def aclose(self: LayerBackend) -> None:  # type: ignore[misc]  # mixin
        await self._run_sync(self.close)


def in_running_loop() -> bool:
    """Whether this thread is running an event loop, which waiting would stall."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run until stopped; then cancel what is left, so that nobody waits for an answer for ever, and close."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


class _Starting:
    """The lock under which loop threads are started; a forked child may find it held by a thread it does not have."""

    lock = threading.Lock()


_starting = _Starting()
_forgetful: weakref.WeakSet[DerivedViews] = weakref.WeakSet()


def _after_fork() -> None:
    _starting.lock = threading.Lock()
    for backend in list(_forgetful):
        backend._forget_views()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
