"""A TCP proxy that fails on purpose: cuts, swallows, delays and crumbles the stream, and answers in the server's place.

It runs in a thread of its own, so that blocking and asynchronous clients can be tried alike. With ``tls`` its side
towards the client speaks TLS.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import hiredis

__all__ = ["Fault", "FaultyProxy"]

UP, DOWN = "up", "down"
_MARK = b"$20\r\n@@in-the-place@@"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong from the moment it is armed; bytes are counted from then on, over all connections."""

    cut_up: int | None = None
    """Both ends are closed once this many bytes of the client's have been passed on."""
    cut_down: int | None = None
    """The same, for the server's bytes."""
    swallow_up: int | None = None
    """What the client says beyond is lost, and both ends stay open."""
    swallow_down: int | None = None
    crumbs: int | None = None
    """Bytes are passed on in pieces of this size."""
    delay: float = 0.0
    """Seconds before each piece."""
    refuse: bool = False
    """New connections are closed at once."""
    once: bool = True
    """After a cut, all is well again."""


class FaultyProxy:
    """Use it in a ``with`` statement; :meth:`arm` and the others work from any thread.

    ``answer(command)`` may give the bytes of a reply: then the server never sees that command.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        answer: Callable[[Sequence[bytes]], bytes | None] | None = None,
    ) -> None:
        self._target = target
        self._tls = tls
        self._answer = answer
        self._fault = Fault()
        self._counts = {UP: 0, DOWN: 0}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty proxy", daemon=True)
        self._tunnels: set[_Tunnel] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.port = 0

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._finish())
        self._loop.close()

    async def _finish(self) -> None:
        self._cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0.01)

    def _in_loop(self, function: Callable[[], Any]) -> Any:
        done = threading.Event()
        results: list[Any] = []

        def call() -> None:
            results.append(function())
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(10)
        return results[0]

    def arm(self, fault: Fault) -> None:
        """From now on ``fault`` happens; counting starts anew."""

        def change() -> None:
            self._fault = fault
            self._counts = {UP: 0, DOWN: 0}

        self._in_loop(change)

    def disarm(self) -> dict[str, int]:
        """All is well from now on. Gives the bytes passed ``up`` and ``down`` since the last change."""

        def change() -> dict[str, int]:
            self._fault = Fault()
            counts, self._counts = self._counts, {UP: 0, DOWN: 0}
            return counts

        counts: dict[str, int] = self._in_loop(change)
        return counts

    def cut(self) -> int:
        """Close all connections; gives how many there were."""
        count: int = self._in_loop(self._cut)
        return count

    def _cut(self) -> int:
        tunnels = list(self._tunnels)
        for tunnel in tunnels:
            tunnel.abort()
        return len(tunnels)

    @property
    def open_connections(self) -> int:
        return len(self._tunnels)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        if self._fault.refuse:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        tunnel = _Tunnel(self, writer, up_writer)
        self._tunnels.add(tunnel)
        change_up, change_down = tunnel.changes(self._answer)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._pump(tunnel, reader, up_writer, UP, change_up),
                self._pump(tunnel, up_reader, writer, DOWN, change_down),
            )
        tunnel.abort()

    async def _pump(
        self,
        tunnel: _Tunnel,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: str,
        change: Callable[[bytes], bytes],
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not await self._pass_on(tunnel, change(data), writer, direction):
                    return
        tunnel.abort()

    async def _pass_on(
        self, tunnel: _Tunnel, data: bytes, writer: asyncio.StreamWriter, direction: str
    ) -> bool:
        while data:
            fault = self._fault
            if fault.delay:
                await asyncio.sleep(fault.delay)
            piece, data = (data[: fault.crumbs], data[fault.crumbs :]) if fault.crumbs else (data, b"")
            cut = fault.cut_up if direction == UP else fault.cut_down
            swallow = fault.swallow_up if direction == UP else fault.swallow_down
            count = self._counts[direction]
            if cut is not None and count + len(piece) >= cut:
                if fault.once:
                    self._fault = Fault()
                writer.write(piece[: cut - count])
                with suppress(OSError):
                    await writer.drain()
                tunnel.abort()
                return False
            if swallow is not None:
                piece = piece[: max(0, swallow - count)]
            self._counts[direction] += len(piece)
            if piece:
                writer.write(piece)
                await writer.drain()
        return True


class _Tunnel:
    """One connection through the proxy: both its ends."""

    def __init__(self, proxy: FaultyProxy, *writers: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = writers

    def abort(self) -> None:
        self._proxy._tunnels.discard(self)
        for writer in self._writers:
            writer.transport.abort()

    @staticmethod
    def changes(
        answer: Callable[[Sequence[bytes]], bytes | None] | None,
    ) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
        """What happens to the bytes in each direction. A command answered here is replaced by an ``ECHO`` of a mark,
        and the mark by the answer, so that the order of the replies takes care of itself."""
        if answer is None:
            return _unchanged, _unchanged
        reader = hiredis.Reader()
        answers: dict[bytes, bytes] = {}
        numbers = itertools.count()
        held = b""

        def up(data: bytes) -> bytes:
            reader.feed(data)
            out = bytearray()
            while (command := reader.gets()) is not False:
                given = answer(command)
                if given is None:
                    out += hiredis.pack_command(tuple(command))
                else:
                    mark = b"@@in-the-place@@%04d" % next(numbers)
                    answers[mark] = given
                    out += b"*2\r\n$4\r\nECHO\r\n$20\r\n" + mark + b"\r\n"
            return bytes(out)

        def down(data: bytes) -> bytes:
            nonlocal held
            data = held + data
            held = b""
            for mark in list(answers):
                whole = b"$20\r\n" + mark + b"\r\n"
                if whole in data:
                    data = data.replace(whole, answers.pop(mark))
            start = data.rfind(b"$")
            if answers and start >= 0 and (_MARK.startswith(data[start:]) or data[start:].startswith(_MARK)):
                data, held = data[:start], data[start:]
            return data

        return up, down


def _unchanged(data: bytes) -> bytes:
    return data
