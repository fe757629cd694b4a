"""The ASGI 3 types, as far as the interface application speaks the protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = [
    "EXCLUSIVE_SERVERS",
    "STEPPED_SERVERS",
    "Event",
    "Receive",
    "Scope",
    "ServerSend",
    "abort_connection",
    "server_of",
]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
ServerSend = Callable[[Event], Awaitable[None]]

STEPPED_SERVERS: Final = frozenset({"uvicorn", "hypercorn", "daphne", "granian"})
"""Servers whose ``send`` for a WebSocket frame asks for no current task, and so may be called outside the
connection's own and driven by hand."""
EXCLUSIVE_SERVERS: Final = frozenset({"granian"})
"""Servers that close no WebSocket while its application waits in ``receive``."""
_ABORTABLE_SERVERS: Final = frozenset({"uvicorn"})
"""Servers whose protocol object, which ``send`` belongs to, has its asyncio transport as ``transport``."""


def server_of(send: ServerSend) -> str:
    """The top-level package that ``send`` comes from: the server's, unless a middleware wraps it; may be empty."""
    call: Any = send
    while hasattr(call, "func"):
        call = call.func
    if hasattr(call, "__wrapped__"):  # a middleware's, under the name of what it wraps
        return ""
    owner = getattr(call, "__self__", None)
    module = getattr(call, "__module__", None) or getattr(type(owner), "__module__", None) or ""
    return str(module).partition(".")[0]


def abort_connection(send: ServerSend) -> None:
    """Drop the connection that ``send`` writes to, with what is still to be written; nothing if it is over.

    ASGI has no word for this: a server whose application has ended writes out what waits first, and a client that takes
    nothing keeps it waiting for as long as it likes. Where the server is not known to allow it, nothing happens.
    """
    if server_of(send) not in _ABORTABLE_SERVERS:
        return
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
