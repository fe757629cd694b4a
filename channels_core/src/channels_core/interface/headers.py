"""Header hygiene, in both directions: what a client may send into the layer, and what the layer may send to a client.

The application runs behind any server, so it does not rely on the server having looked: names with an underscore
are dropped (they would be taken for the same name with a hyphen, CVE-2015-0219 and CVE-2026-3902), control
characters are refused (they forge headers in whoever splits lines), and number and size are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

__all__ = [
    "BadHeaders",
    "BadReply",
    "clean_request_headers",
    "clean_response_headers",
    "header_values",
    "root_path_of",
]

Headers = list[list[bytes]]

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ROOT_PATH: Final = b"daphne-root-path"
# They describe the connection between worker and interface server, which is not the client's.
_HOP_BY_HOP: Final = frozenset({b"transfer-encoding", b"keep-alive", b"upgrade", b"proxy-connection"})
_HANDSHAKE: Final = frozenset({b"connection", b"upgrade", b"content-length", b"transfer-encoding"})


class BadHeaders(Exception):
    """A client's headers are refused; ``status`` is what it is told."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class BadReply(Exception):
    """A message from the layer that cannot be handed to the client; the text says why."""


def clean_request_headers(headers: Iterable[Sequence[bytes]], *, max_headers: int, max_bytes: int) -> Headers:
    """A client's headers as they enter the layer: pairs of lower-case name and stripped value, in order.

    Names with ``_`` are left out. Raises :class:`BadHeaders` for a name that is no token, a control character, more
    than ``max_headers`` headers, or more than ``max_bytes`` bytes of names and values, all of them counted.
    """
    clean: Headers = []
    size = 0
    for number, (name, value) in enumerate(headers, 1):
        size += len(name) + len(value)
        if number > max_headers:
            raise BadHeaders(f"More than {max_headers} headers.", 431)
        if size > max_bytes:
            raise BadHeaders(f"More than {max_bytes} bytes of headers.", 431)
        if not _TOKEN.match(name):
            raise BadHeaders("A header name holds a character that is not allowed there.")
        if _CONTROL.search(value) or (b"\x85" in value and _breaks_lines(value)):
            raise BadHeaders("A header value holds a control character.")
        if b"_" not in name:
            clean.append([bytes(name).lower(), bytes(value).strip(b" \t")])
    return clean


def header_values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of the headers called ``name``, in order."""
    return [value for key, value in headers if key == name]


def root_path_of(headers: Headers, server_root: str) -> str:
    """The path the site is mounted at: the server's, or what a proxy says in ``Daphne-Root-Path``, percent-encoded.

    That header is taken out of ``headers``. Raises :class:`BadHeaders` where it is not a path.
    """
    values = header_values(headers, _ROOT_PATH)
    if not values:
        return server_root
    headers[:] = [pair for pair in headers if pair[0] != _ROOT_PATH]
    try:
        path = unquote_to_bytes(values[-1]).decode()
    except UnicodeDecodeError:
        raise BadHeaders("Daphne-Root-Path is not UTF-8.") from None
    # Browsers take a backslash for a slash, and links that begin with two of them lead to another site.
    if path and not (path.startswith("/") and path.isprintable() and path[1:2] not in ("/", "\\")):
        raise BadHeaders("Daphne-Root-Path is not a path.")
    return path.rstrip("/")


def clean_response_headers(headers: Any, *, is_handshake: bool = False) -> list[tuple[bytes, bytes]]:
    """Headers from the layer as the server may have them: lower-case names, in order, repeats kept.

    Takes pairs of bytes or latin-1 text. Headers about a connection are left out. Raises :class:`BadReply` for
    anything else, above all for CR, LF or NUL, which would let a value write headers or a body of its own.
    """
    if isinstance(headers, dict):
        headers = list(headers.items())
    if not isinstance(headers, list | tuple):
        raise BadReply(f"its headers are {type(headers).__name__}, not a list of pairs")
    clean = []
    for pair in headers:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadReply(f"its headers hold {pair!r:.80}, which is no pair of name and value")
        name, value = _octets(pair[0]).lower(), _octets(pair[1]).strip(b" \t")
        if not _TOKEN.match(name):
            raise BadReply(f"its header name {name!r:.80} holds characters that are not allowed there")
        if _CONTROL.search(value) or (b"\x85" in value and _breaks_lines(value)):
            raise BadReply(f"its header {name.decode()!r} holds a control character: {value!r:.80}")
        if name in _HOP_BY_HOP:
            continue
        if is_handshake and (name in _HANDSHAKE or name.startswith(b"sec-websocket-")):
            raise BadReply(f"its header {name.decode()!r} belongs to the handshake, which is the server's")
        clean.append((name, value))
    return clean


def _breaks_lines(value: bytes) -> bool:
    """Whether ``value``, which has the byte 0x85, holds a NEL, at which text is split into lines (CVE-2026-44546); that
    byte may also be a part of a letter in UTF-8."""
    try:
        return "\x85" in value.decode()
    except UnicodeDecodeError:
        return True


def _octets(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            raise BadReply(f"its header text {value!r:.80} does not fit into latin-1") from None
    raise BadReply(f"its headers hold {value!r:.80}, which is neither bytes nor text")
