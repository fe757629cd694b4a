"""One connection as an ASGI server sees it, and the consumer's end of the layer: what interface tests are made of."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from channels_core.channel_layer import ChannelLayer
from channels_core.config import InterfaceConfig
from channels_core.exceptions import LayerUnavailable
from channels_core.headers import CREDITED, FRAME
from channels_core.interface import InterfaceApplication
from channels_core.layers import Delivery, LayerBackend, Outcome, Send
from channels_core.origins import OriginValidator
from channels_layer_memory import MemoryBackend

PATIENCE = 5.0


class Wire:
    """The server's side: events in, events out. Closing ``gate`` makes the client slow."""

    def __init__(self, application: Any, scope: Mapping[str, Any]) -> None:
        self.application = application
        self.scope = dict(scope)
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self._changed = asyncio.Event()
        self._taken = 0
        self.task: asyncio.Task[None] | None = None

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, event: Any) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.append(event)
        if event["type"] == "websocket.close":
            self.incoming.put_nowait(
                {"type": "websocket.disconnect", "code": event.get("code", 1000), "reason": ""}
            )
        self._changed.set()

    def start(self, *events: dict[str, Any]) -> "Wire":
        for event in events:
            self.incoming.put_nowait(event)
        self.task = asyncio.create_task(self.application(self.scope, self.receive, self.send))
        return self

    def push(self, **event: Any) -> None:
        self.incoming.put_nowait(event)

    async def next(self) -> dict[str, Any]:
        """The next event the application sent."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sent) <= self._taken:
                self._changed.clear()
                await self._changed.wait()
        self._taken += 1
        return self.sent[self._taken - 1]

    async def ended(self) -> None:
        assert self.task is not None
        async with asyncio.timeout(PATIENCE):
            await self.task


class SteppedWire(Wire):
    """The same as a server whose ``send`` may be driven by hand."""

    async def send(self, event: Any) -> None:
        await super().send(event)

    send.__module__ = "uvicorn.protocols"


class FutureWire(Wire):
    """The same as granian: ``send`` returns a future instead of a coroutine, and closes nothing while receive waits."""

    is_receiving = False

    async def receive(self) -> dict[str, Any]:
        self.is_receiving = True
        try:
            return await super().receive()
        finally:
            self.is_receiving = False

    async def _send(self, event: Any) -> None:
        while event["type"] == "websocket.close" and self.is_receiving:
            await asyncio.sleep(0.01)
        await super().send(event)

    def send(self, event: Any) -> Awaitable[None]:  # type: ignore[override]  # what granian does
        return asyncio.ensure_future(self._send(event))

    send.__module__ = "granian._granian"


def websocket_scope(path: str = "/chat", **changes: Any) -> dict[str, Any]:
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "ws",
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"a=1",
        "root_path": "",
        "headers": [(b"host", b"example.com")],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        **changes,
    }


def http_scope(path: str = "/", method: str = "GET", **changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.com")],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


class Site:
    """An interface application over a memory layer, and the consumer's end of that layer."""

    def __init__(
        self,
        *,
        backend: LayerBackend | None = None,
        validator: OriginValidator | None = None,
        wire: type[Wire] = SteppedWire,
        has_worker: bool = True,
        http: Callable[..., Awaitable[None]] | None = None,
        **config: Any,
    ) -> None:
        self.backend = backend or MemoryBackend(process_lease=60)
        self.layer = ChannelLayer(self.backend)
        self.application = InterfaceApplication(
            self.layer,
            config=InterfaceConfig(**{"shutdown_timeout": 0.2, **config}),
            origin_validator=validator,
            http=http,
        )
        self.counters = self.layer.counters
        self._wire = wire
        if has_worker:
            self.backend.open_process("worker")

    def socket(self, path: str = "/chat", **scope: Any) -> Wire:
        """A client that is connecting."""
        wire = self._wire(self.application, websocket_scope(path, **scope))
        return wire.start({"type": "websocket.connect"})

    def request(self, path: str = "/", *events: dict[str, Any], **scope: Any) -> Wire:
        """A client that sends a request, without a body unless ``events`` are its parts."""
        wire = self._wire(self.application, http_scope(path, **scope))
        return wire.start(*(events or ({"type": "http.request", "body": b"", "more_body": False},)))

    async def taken(self, channel: str) -> Delivery:
        """The next message on ``channel``."""
        async with asyncio.timeout(PATIENCE):
            while True:
                deliveries = await self.backend.areceive_batch([channel], limit=1, timeout=1.0)
                if deliveries:
                    return deliveries[0]

    async def nothing_on(self, *channels: str) -> bool:
        """Whether nothing arrives on ``channels`` while the loop turns a few times."""
        for _ in range(10):
            await asyncio.sleep(0)
        return not await self.backend.areceive_batch(channels, limit=1, timeout=0)

    def reply(
        self, delivery: Delivery, content: dict[str, Any] | None = None, *, credit: bool = True
    ) -> None:
        """Answer as a worker does, giving the credit back on the message."""
        name = delivery.content["reply_channel"]
        headers: dict[str, str | int] = {CREDITED: name[name.index("!") + 1 :]} if credit else {}
        if credit and FRAME in delivery.headers:
            headers[FRAME] = delivery.headers[FRAME]
        assert self.backend.send_one(Send(name, content or {}, headers, 64)) is Outcome.SENT

    async def open(self, path: str = "/chat", **scope: Any) -> tuple[Wire, str]:
        """A socket that was accepted, and its reply channel."""
        wire = self.socket(path, **scope)
        connect = await self.taken("websocket.connect")
        self.reply(connect, {"accept": True})
        assert (await wire.next())["type"] == "websocket.accept"
        return wire, connect.content["reply_channel"]

    async def send(self, reply_channel: str, content: dict[str, Any]) -> None:
        await self.layer.asend(reply_channel, content)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Site]:
    site = Site(**options)
    try:
        yield site
    finally:
        await site.application.aclose()


class FlakyBackend(MemoryBackend):
    """A memory layer whose engine can be away: ``error`` is raised by everything that would reach it."""

    error: Exception | None = None
    is_lost_after_arrival = False
    sends = 0

    def away(self, text: str = "connection refused") -> None:
        self.error = LayerUnavailable(text)
        self.wake()

    def back(self) -> None:
        self.error = None

    def _look(self) -> None:
        if self.error is not None:
            raise self.error

    def send_one(self, send: Send) -> Outcome:
        self.sends += 1
        if self.is_lost_after_arrival:
            super().send_one(send)
        self._look()
        return super().send_one(send)

    async def asend_one(self, send: Send) -> Outcome:
        return self.send_one(send)

    async def areceive_batch(self, *args: Any, **options: Any) -> list[Delivery]:
        self._look()
        return await super().areceive_batch(*args, **options)

    def processes(self) -> Any:
        self._look()
        return super().processes()

    async def aprocesses(self) -> Any:
        return self.processes()

    async def aopen_process(self, *args: Any, **options: Any) -> str:
        self._look()
        return await super().aopen_process(*args, **options)


class WaitingBackend(MemoryBackend):
    """A memory layer that is used as one across a network is: through its asynchronous side only."""

    is_waiting = True

    async def asend_one(self, send: Send) -> Outcome:
        await asyncio.sleep(0)
        return self.send_one(send)

    async def aclose_channel(self, channel: str) -> None:
        await asyncio.sleep(0)
        self.close_channel(channel)
