"""What consumers send to a connection, read strictly: each message is understood whole or refused whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from channels_core.interface.asgi import Event
from channels_core.interface.headers import BadReply, clean_response_headers

__all__ = ["SocketReply", "frame_of", "read_response_body", "read_response_start", "read_socket_reply"]

logger = logging.getLogger("channels.interface")

_SOCKET_KEYS: Final = frozenset({"accept", "text", "bytes", "close", "subprotocol", "headers"})
_REPLACED_CODE: Final = 1011
_LONGEST_NUMBER: Final = 18


class SocketReply:
    """One message to a WebSocket: any of accept or refuse, a frame, and a close code, to be done in this order."""

    __slots__ = ("accept", "close", "frame", "headers", "subprotocol")

    def __init__(
        self,
        accept: bool | None,
        frame: Event | None,
        close: int | None,
        subprotocol: str | None,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self.accept = accept
        self.frame = frame
        self.close = close
        self.subprotocol = subprotocol
        self.headers = headers


def frame_of(content: Mapping[str, Any]) -> Event | None:
    """The frame, where ``content`` is nothing but one; else ``None``, and :func:`read_socket_reply` has to look."""
    if len(content) == 1:
        text = content.get("text")
        if text is None:
            data = content.get("bytes")
            if data and type(data) is bytes:
                return {"type": "websocket.send", "bytes": data}
        elif text and type(text) is str:
            return {"type": "websocket.send", "text": text}
    return None


def read_socket_reply(content: Mapping[str, Any]) -> SocketReply:
    """Understand ``content``. Empty text and bytes are no frame; text and bytes together neither.

    Raises :class:`BadReply` for keys beside accept, text, bytes, close, subprotocol and headers, and for wrong types.
    """
    unknown = content.keys() - _SOCKET_KEYS
    if unknown:
        raise BadReply(
            f"it has the keys {sorted(unknown)!r:.200}; only {sorted(_SOCKET_KEYS)} are understood"
        )
    text, data = content.get("text"), content.get("bytes")
    if text is not None and not isinstance(text, str):
        raise BadReply(f"its text is {type(text).__name__}")
    if data is not None and not isinstance(data, bytes):
        raise BadReply(f"its bytes are {type(data).__name__}")
    frame: Event | None = None
    if text and data:
        logger.error("A message to a WebSocket has both text and bytes; neither is sent. Send two messages.")
    elif text:
        frame = {"type": "websocket.send", "text": text}
    elif data:
        frame = {"type": "websocket.send", "bytes": data}
    accept = content.get("accept")
    subprotocol = content.get("subprotocol")
    if subprotocol is not None and not isinstance(subprotocol, str):
        raise BadReply(f"its subprotocol is {type(subprotocol).__name__}, not text")
    headers = content.get("headers")
    return SocketReply(
        None if accept is None else bool(accept),
        frame,
        _close_code(content.get("close")),
        subprotocol,
        clean_response_headers(headers, is_handshake=True) if headers else [],
    )


def _close_code(close: Any) -> int | None:
    if close is None or close is False or (isinstance(close, int) and close == 0):
        return None
    if close is True:
        return 1000
    if not isinstance(close, int):
        raise BadReply(f"its close is {close!r:.80}; it can be True or a code")
    if close == 1000 or 3000 <= close <= 4999:
        return close
    logger.error(
        "A consumer closes a WebSocket with code %d, which the protocol keeps for itself: the client gets %d. Use 1000"
        " or 3000 to 4999.",
        close,
        _REPLACED_CODE,
    )
    return _REPLACED_CODE


def read_response_start(content: Mapping[str, Any]) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Status and headers of the first message of a response. Raises :class:`BadReply`."""
    status = content.get("status")
    if status is None:
        raise BadReply("it is the first of its response and has no status")
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise BadReply(f"its status is {status!r:.80}; it must be a number from 200 to 599")
    headers = clean_response_headers(content.get("headers") or [])
    lengths = {value for name, value in headers if name == b"content-length"}
    for value in lengths:
        if not value.isdigit() or len(value) > _LONGEST_NUMBER:
            raise BadReply(f"its Content-Length is {value!r:.80}")
    if len(lengths) > 1:
        raise BadReply("it has several Content-Lengths, and they differ")
    return status, headers


def read_response_body(content: Mapping[str, Any]) -> tuple[bytes, bool]:
    """The bytes a response message carries, and whether more follow. Raises :class:`BadReply`."""
    data = content.get("content")
    if data is None:
        data = b""
    if not isinstance(data, bytes):
        raise BadReply(f"its content is {type(data).__name__}, not bytes")
    return data, bool(content.get("more_content", False))
