"""The limit: what the server itself can do with the least application there can be."""

from collections.abc import Awaitable, Callable
from typing import Any

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

members: set[Send] = set()


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """Echo on /echo, pass on to everybody on /broadcast, and say hello over HTTP."""
    if scope["type"] == "http":
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"11")],
            }
        )
        await send({"type": "http.response.body", "body": b"hello world"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await (broadcast if scope["path"] == "/broadcast" else echo)(receive, send)
    else:
        raise ValueError(f"No {scope['type']} here: servers take this for an application without it")


async def echo(receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def broadcast(receive: Receive, send: Send) -> None:
    members.add(send)
    while (event := await receive())["type"] == "websocket.receive":
        answer = {"type": "websocket.send", "text": event["text"]}
        for member in tuple(members):
            await member(answer)
    members.discard(send)
