"""The ASGI 3 types, as far as the interface application speaks the protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = ["EXCLUSIVE_SERVERS", "STEPPED_SERVERS", "Event", "Receive", "Scope", "ServerSend", "server_of"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
ServerSend = Callable[[Event], Awaitable[None]]

STEPPED_SERVERS: Final = frozenset({"uvicorn", "hypercorn", "daphne", "granian"})
"""Servers whose ``send`` for a WebSocket frame asks for no current task, and so may be called outside the
connection's own and driven by hand."""
EXCLUSIVE_SERVERS: Final = frozenset({"granian"})
"""Servers that close no WebSocket while its application waits in ``receive``."""


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
