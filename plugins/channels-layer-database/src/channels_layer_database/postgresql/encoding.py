"""PostgreSQL's binary format for the few types that travel here: parameters one way, columns the other."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = [
    "BIGINT",
    "BOOLEAN",
    "BYTEA",
    "FLOAT",
    "INT",
    "SMALLINT",
    "TEXT",
    "TIMESTAMP",
    "bigint",
    "bigints",
    "boolean",
    "booleans",
    "float8",
    "integer",
    "ints",
    "number",
    "raw_array",
    "real",
    "smallints",
    "text",
    "texts",
]

BOOLEAN, BYTEA, BIGINT, SMALLINT, INT, TEXT, FLOAT, TIMESTAMP = 16, 17, 20, 21, 23, 25, 701, 1184
"""Numbers of types, as PostgreSQL's catalogue has them."""

_HEAD = struct.Struct("!iiiii")
_LENGTH = struct.Struct("!i")
_BIGINT = struct.Struct("!q")
_INT = struct.Struct("!i")
_FLOAT = struct.Struct("!d")
_NULL = b"\xff\xff\xff\xff"
_EMPTY = struct.Struct("!iii")


def bigint(value: int) -> bytes:
    """An ``int8`` parameter."""
    return _BIGINT.pack(value)


def integer(value: int) -> bytes:
    """An ``int4`` parameter."""
    return _INT.pack(value)


def float8(value: float) -> bytes:
    """A ``float8`` parameter."""
    return _FLOAT.pack(value)


def boolean(value: bool) -> bytes:
    """A ``boolean`` parameter."""
    return b"\x01" if value else b"\x00"


def raw_array(oid: int, items: Sequence[bytes | None]) -> bytes:
    """An array of ``oid`` of elements that are encoded already."""
    if not items:
        return _EMPTY.pack(0, 0, oid)
    pack = _LENGTH.pack
    parts = [_HEAD.pack(1, 1 if None in items else 0, oid, len(items), 1)]
    for item in items:
        if item is None:
            parts.append(_NULL)
        else:
            parts += (pack(len(item)), item)
    return b"".join(parts)


def texts(items: Sequence[str | None]) -> bytes:
    """A ``text[]`` parameter."""
    return raw_array(TEXT, [None if item is None else item.encode() for item in items])


def bigints(items: Sequence[int]) -> bytes:
    """An ``int8[]`` parameter."""
    return raw_array(BIGINT, [item.to_bytes(8, "big", signed=True) for item in items])


def ints(items: Sequence[int | None]) -> bytes:
    """An ``int4[]`` parameter."""
    return raw_array(INT, [None if item is None else item.to_bytes(4, "big", signed=True) for item in items])


def smallints(items: Sequence[int]) -> bytes:
    """An ``int2[]`` parameter."""
    return raw_array(SMALLINT, [item.to_bytes(2, "big", signed=True) for item in items])


def booleans(items: Sequence[bool]) -> bytes:
    """A ``boolean[]`` parameter."""
    return raw_array(BOOLEAN, [boolean(item) for item in items])


def number(value: bytes | None) -> int:
    """An integer column of any width."""
    return int.from_bytes(value or b"", "big", signed=True)


def real(value: bytes | None) -> float:
    """A ``float8`` column."""
    found: float = _FLOAT.unpack(value)[0] if value else 0.0
    return found


def text(value: bytes | None) -> str:
    """A ``text`` column that is not null."""
    return (value or b"").decode()
