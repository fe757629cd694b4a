"""How a message looks on the wire: one byte of flags, then content and headers in msgpack.

The byte's upper half is the version of this form. A reader refuses versions it does not know and flags that it cannot
serve; nothing it is given makes it run code.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from channels_core.exceptions import InvalidChannelLayerError
from channels_core.headers import CREDIT
from channels_layer_redis.encryption import Cipher, Unreadable

__all__ = ["Envelope", "of_group"]

_VERSION: Final = 0x10
_SEALED: Final = 0x01
_COMPRESSED: Final = 0x02
_CREDIT: Final = 0x04
"""Readable without keys: the server gives expired messages back only where somebody waits for their credit."""
_ZSTD_LEVEL: Final = 1
_LARGEST: Final = 256 * 2**20

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[dict[str, Any], dict[str, str | int]]).decode
_PLAIN: Final = bytes([_VERSION])
_PLAIN_WITH_CREDIT: Final = bytes([_VERSION | _CREDIT])


def of_group(group: str) -> str:
    """What a message to ``group`` is sealed for: no channel has such a name, so it cannot be passed off as one's."""
    return f"*{group}"


class Envelope:
    """Packs and unpacks messages. Thread-safe.

    ``cipher`` seals them, and then refuses what is not sealed; those of at least ``compress_above`` bytes are
    compressed, and compressed ones are understood either way.
    """

    def __init__(self, prefix: str, cipher: Cipher | None = None, compress_above: int | None = None) -> None:
        self._prefix = prefix
        self._cipher = cipher
        self._compress_above = compress_above
        if compress_above is not None:
            _zstandard()
        self._is_plain = cipher is None and compress_above is None

    def pack(self, content: dict[str, Any], headers: dict[str, str | int], name: str) -> bytes:
        """The bytes of a message to the channel or prefix ``name``, or to what :func:`of_group` gives."""
        body = _encode((content, headers))
        if self._is_plain:
            return (_PLAIN_WITH_CREDIT if CREDIT in headers else _PLAIN) + body
        flags = _VERSION
        if CREDIT in headers:
            flags |= _CREDIT
        if self._compress_above is not None and len(body) >= self._compress_above:
            smaller: bytes = _zstandard().ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
            if len(smaller) < len(body):
                body, flags = smaller, flags | _COMPRESSED
        if self._cipher is not None:
            flags |= _SEALED
            body = self._cipher.seal(body, self._bound_to(flags, name))
        return bytes([flags]) + body

    def unpack(self, packed: bytes, name: str) -> tuple[dict[str, Any], dict[str, str | int]]:
        """Content and headers. Raises :class:`Unreadable`."""
        if not packed:
            raise Unreadable("it is empty")
        flags = packed[0]
        if flags & 0xF0 != _VERSION or flags & 0x08:
            raise Unreadable(f"it is of a form that this version does not know (0x{flags:02x})")
        body: bytes | memoryview = memoryview(packed)[1:]
        if flags & _SEALED:
            if self._cipher is None:
                raise Unreadable("it is sealed, and this process has no encryption_keys")
            body = self._cipher.open(body, self._bound_to(flags, name))
        elif self._cipher is not None:
            raise Unreadable("it is not sealed, and this process has encryption_keys")
        if flags & _COMPRESSED:
            body = self._expand(body)
        try:
            return _decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"it is no message: {error}") from error

    def _bound_to(self, flags: int, name: str) -> bytes:
        return b"%c%s\0%s" % (flags, self._prefix.encode(), name.encode())

    def _expand(self, body: bytes | memoryview) -> bytes:
        try:
            zstandard = _zstandard()
        except InvalidChannelLayerError as error:
            raise Unreadable("it is compressed, and the package 'zstandard' is not installed") from error
        packed = bytes(body)
        try:
            said = zstandard.frame_content_size(packed)  # where it says so, the limit below is not looked at
            if said > _LARGEST:
                raise Unreadable(f"it would expand to {said} bytes, more than any message has")
            expanded: bytes = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_LARGEST)
        except zstandard.ZstdError as error:
            raise Unreadable(f"it cannot be expanded: {error}") from error
        return expanded


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise InvalidChannelLayerError(
            "Option compress_above of the Redis layer needs the package 'zstandard', which is not installed: run"
            " 'pip install channels-layer-redis[zstd]'."
        ) from error
    return zstandard
