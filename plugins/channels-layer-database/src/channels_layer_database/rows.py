"""What a row holds: a message as bytes, and for whom of a process it is.

A body is the msgpack of content and headers. ``dest`` says for whom within the row's queue it is:

* ``NULL``: a message on a normal or ``?`` channel;
* ``a b``: the local parts, after the ``!``, that a message on a process-specific channel goes to;
* ``@group``: a broadcast to the members of a group under the row's prefix, whom the owning process knows;
* ``+group local`` and ``-group local``: the owning process learns of a membership's begin and end. No message.

None of the marks is in the grammar of names. Wire version 1: later releases append to the body's array, and earlier
ones ignore what they do not know.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = ["ADD", "BROADCAST", "DISCARD", "UNREADABLE", "UnreadableRow", "pack", "unpack", "unpack_dead"]

BROADCAST: Final = "@"
ADD: Final = "+"
DISCARD: Final = "-"

UNREADABLE: Final = "It cannot be read: its row holds no message."
"""Why such a row is a dead letter."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class UnreadableRow(ValueError):
    """A row's body is no message: somebody else wrote it, or it is damaged."""


def pack(content: dict[str, Any], headers: dict[str, str | int]) -> bytes:
    """The body of a message's row."""
    return _encode((content, headers) if headers else (content,))


def unpack(body: bytes) -> tuple[dict[str, Any], dict[str, str | int]]:
    """Content and headers, made anew: nobody else holds them. Raises :class:`UnreadableRow`."""
    try:
        parts = _decode(body)
        content, headers = parts[0], parts[1] if len(parts) > 1 else {}
    except (msgspec.DecodeError, TypeError, LookupError) as error:
        raise UnreadableRow(str(error)) from error
    if type(content) is not dict or type(headers) is not dict:
        raise UnreadableRow(f"it holds {type(content).__name__} and {type(headers).__name__}")
    return content, headers


def unpack_dead(body: bytes) -> tuple[dict[str, Any], dict[str, str | int]]:
    """As :func:`unpack`, for looking at: what cannot be read comes as bytes under ``"unreadable"``."""
    try:
        return unpack(body)
    except UnreadableRow:
        return {"unreadable": body}, {}
