"""What the tests of the Redis layer share: servers that live as long as a module, and clients of every face."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from channels_layer_redis.transport import AsyncClient, Script, Servers, Transport
from redis_servers import KINDS, RedisServer


class Speaker:
    """One face of a transport, to be used from plain functions: the asynchronous client, the blocking one, or submit().

    ``salvaged`` holds what came back for requests that were broken off.
    """

    def __init__(self, face: str, options: dict[str, Any], scripts: Sequence[Script] = ()) -> None:
        self.face = face
        self.salvaged: list[tuple[list[Any], list[Any]]] = []
        self.has_salvaged = threading.Event()
        self.transport = Transport(
            Servers.from_options(**options), scripts=scripts, on_salvaged=self._salvage
        )
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        if face == "async":
            self._thread.start()

    def _salvage(self, commands: Sequence[Any], replies: Sequence[Any]) -> None:
        self.salvaged.append((list(commands), list(replies)))
        self.has_salvaged.set()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.start(coroutine).result(30)

    @property
    def client(self) -> AsyncClient:
        async def get() -> AsyncClient:
            return self.transport.for_loop()

        client: AsyncClient = self.run(get())
        return client

    async def _call(self, commands: Sequence[Any]) -> Any:
        return await self.transport.for_loop().call(commands)

    async def _block(self, commands: Sequence[Any], timeout: float, suffices: Any) -> Any:
        return await self.transport.for_loop().block(commands, timeout=timeout, suffices=suffices)

    def call(self, commands: Sequence[Any]) -> list[Any]:
        if self.face == "async":
            return self.run(self._call(commands))
        if self.face == "submit":
            return self.transport.submit(commands)
        return self.transport.for_thread().call(commands)

    def block(self, commands: Sequence[Any], *, timeout: float, suffices: Any = None) -> list[Any]:
        if self.face == "async":
            return self.run(self._block(commands, timeout, suffices))
        return self.transport.for_thread().block(commands, timeout=timeout, suffices=suffices)

    def close(self) -> None:
        if self.face == "async":

            async def close() -> None:
                self.transport.close()
                await asyncio.sleep(0.01)

            self.run(close())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5)
        self.transport.close()
        self.loop.close()


@pytest.fixture(scope="module", params=KINDS)
def any_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of server in turn."""
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One Valkey server."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def speak() -> Iterator[Callable[..., Speaker]]:
    """Makes speakers and closes them: ``speak("sync", hosts=...)``."""
    with ExitStack() as stack:

        def make(face: str, *, scripts: Sequence[Script] = (), **options: Any) -> Speaker:
            speaker = Speaker(face, options, scripts)
            stack.callback(speaker.close)
            return speaker

        yield make
