"""The one object through which a layer speaks to its servers, from any thread, event loop or forked child."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final
from weakref import WeakSet

from channels_layer_redis.transport.addresses import Servers
from channels_layer_redis.transport.aio import AsyncClient
from channels_layer_redis.transport.blocking import SyncClient
from channels_layer_redis.transport.greeting import ServerFacts
from channels_layer_redis.transport.replies import Reply, Unsent
from channels_layer_redis.transport.scripts import Command, Script
from channels_layer_redis.transport.shared import Shared

__all__ = ["Transport"]

_transports: WeakSet[Transport] = WeakSet()
_inherited: Final[list[object]] = []
"""What a forked child got from its parent: kept, since its end would undo what is still the parent's."""


class _ThreadsOwn(threading.local):
    """A thread's client, which ends with the thread."""

    client: SyncClient | None = None


class _Posted:
    """A request of a thread that waits for it."""

    __slots__ = ("commands", "done", "error", "replies")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.replies: list[Reply] = []
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class _LoopThread:
    """The event loop that serves threads which have none and read nothing: one for the process, made when needed."""

    def __init__(self, make_client: Callable[[asyncio.AbstractEventLoop], AsyncClient]) -> None:
        self._posted: deque[_Posted] = deque()
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self.client = make_client(self._loop)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="channels-redis", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self.client.close()
            self._loop.run_until_complete(self._last_words())
        finally:
            self._loop.close()

    async def _last_words(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._take()  # what came too late fails here, as the client is closed
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)
        await self._loop.shutdown_default_executor()

    def submit(self, commands: Sequence[Command]) -> list[Reply]:
        posted = _Posted(commands)
        self._posted.append(posted)
        if not self._is_due:  # one wake-up serves all that post until it comes
            self._is_due = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                raise Unsent("Not sent: the transport was closed.") from None
        while not posted.done.acquire(timeout=1.0):
            if not self._thread.is_alive():
                raise Unsent("Not sent: the transport was closed.")
        if posted.error is not None:
            raise posted.error
        return posted.replies

    def _take(self) -> None:
        self._is_due = False
        posted = self._posted
        while posted:
            task = self._loop.create_task(self._serve(posted.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, posted: _Posted) -> None:
        try:
            posted.replies = await self.client.call(posted.commands)
        except BaseException as error:  # noqa: BLE001  # it is the waiting thread's
            posted.error = error
        finally:
            posted.done.release()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(5.0)


class Transport:
    """Clients for every event loop and thread of this process, made when asked for.

    ``on_salvaged(commands, replies)`` gets the replies that come to a request which was cancelled; it is called from
    whatever thread or loop the request was made in. Every new connection loads ``scripts`` first. After a fork the
    child's transport starts anew and leaves the parent's connections alone.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        scripts: Iterable[Script] = (),
        on_salvaged: Callable[[Sequence[Command], Sequence[Reply]], None] | None = None,
    ) -> None:
        self.servers = servers
        self._scripts = tuple(scripts)
        self._on_salvaged = on_salvaged
        self._start()
        _watch_forks(self)

    def _start(self) -> None:
        self._shared = Shared(self.servers, self._scripts)
        self._shared.on_salvaged = self._on_salvaged
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, AsyncClient] = {}
        self._own = _ThreadsOwn()
        self._threads: WeakSet[SyncClient] = WeakSet()
        self._loop_thread: _LoopThread | None = None
        self._is_closed = False

    def for_loop(self) -> AsyncClient:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        client = self._loops.get(loop)
        return self._client_of(loop) if client is None else client

    def _client_of(self, loop: asyncio.AbstractEventLoop) -> AsyncClient:
        with self._lock:
            self._check_open()
            for known in [known for known in self._loops if known.is_closed()]:
                self._loops.pop(known).abandon()
            client = self._loops[loop] = AsyncClient(self._shared, loop)
        return client

    async def aleave_loop(self) -> None:
        """End the connections of the running event loop's client, if it has one: the loop is about to end."""
        with self._lock:
            client = self._loops.pop(asyncio.get_running_loop(), None)
        if client is not None:
            client.close()
            await asyncio.sleep(0)  # a closed connection's socket goes with the loop's next turn

    def for_thread(self) -> SyncClient:
        """The client of the calling thread, for its alone; its connections end with the thread."""
        client = self._own.client
        if client is None:
            with self._lock:
                self._check_open()
                client = self._own.client = SyncClient(self._shared)
                self._threads.add(client)
        return client

    def submit(self, commands: Sequence[Command]) -> list[Reply]:
        """:meth:`AsyncClient.call` for a thread that needs no connection of its own.

        Waits. Calls of many threads share one connection, and what they post at about the same time leaves in one
        write. Not from a thread whose event loop runs.
        """
        thread = self._loop_thread
        if thread is None:
            with self._lock:
                self._check_open()
                thread = self._loop_thread
                if thread is None:
                    thread = self._loop_thread = _LoopThread(lambda loop: AsyncClient(self._shared, loop))
        return thread.submit(commands)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unsent("Not sent: the transport was closed.")

    def wake(self) -> None:
        """Every ``block()`` under way in this process returns early. From any thread, or a signal handler."""
        for client in list(self._threads):
            client.wake()
        for loop, looped in list(self._loops.items()):
            with suppress(RuntimeError):  # a closed loop has nobody to wake
                loop.call_soon_threadsafe(looped.wake)

    @property
    def facts(self) -> ServerFacts | None:
        """What the server said last, of several the first one in order; ``None`` before the first connection."""
        facts = self._shared.facts
        return facts[min(facts)] if facts else None

    @property
    def all_facts(self) -> dict[str, ServerFacts]:
        """What each server said last, by its place."""
        return {self._shared.place(address): facts for address, facts in dict(self._shared.facts).items()}

    @property
    def is_sharded(self) -> bool:
        """Whether no command may name keys of two hash slots."""
        return self.servers.is_sharded

    def epoch_of(self, key: str | bytes = "") -> int:
        """Another number after a lost connection to the server that holds ``key`` was made anew, by any client of this
        process, and after slots of a cluster went to other servers."""
        router = self._shared.router
        return self._shared.epochs.get(router.address_of(key), 0) + router.changes

    def servers_keys(self) -> list[str]:
        """A routing key for each server there is, for commands that go to all of them: see ``Routed``."""
        return self._shared.router.keys()

    def close(self) -> None:
        """End every connection; whoever waits gets an error. Idempotent, from any thread."""
        with self._lock:
            self._is_closed = True
            loops, self._loops = self._loops, {}
            thread, self._loop_thread = self._loop_thread, None
        for client in list(self._threads):
            client.close()
        for loop, looped in loops.items():
            if loop is _running_loop():
                looped.close()
            elif loop.is_closed():
                looped.abandon()
            else:
                with suppress(RuntimeError):  # it was closed just now
                    loop.call_soon_threadsafe(looped.close)
        if thread is not None:
            thread.close()

    def _after_fork(self) -> None:
        """In the child: let go of the parent's connections without a word on them, and start anew."""
        clients: list[AsyncClient | SyncClient] = [*self._threads, *self._loops.values()]
        if self._loop_thread is not None:
            clients.append(self._loop_thread.client)
        _inherited.append((clients, self._own, self._loop_thread, self._shared, self._loops))
        null = os.open(os.devnull, os.O_RDWR)
        for client in clients:
            for descriptor in client.descriptors():
                with suppress(OSError):  # closed a moment before
                    os.dup2(null, descriptor)
        os.close(null)
        self._start()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _watch_forks(transport: Transport) -> None:
    global _is_watching  # noqa: PLW0603  # a handler cannot be registered twice, nor taken back
    if not _is_watching and hasattr(os, "register_at_fork"):
        _is_watching = True
        os.register_at_fork(after_in_child=_after_fork)
    _transports.add(transport)


_is_watching = False


def _after_fork() -> None:
    for transport in list(_transports):
        transport._after_fork()
