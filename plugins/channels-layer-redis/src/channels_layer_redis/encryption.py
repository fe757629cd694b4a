"""Sealing of messages: AES-256-GCM under keys that every process derives anew.

A sealed body is bound to the channel (or group) it was sent to: it cannot be read from another one. Each process, also
a forked one, draws a random id of 16 bytes and derives a key of its own from it, so a counter is a safe nonce and no
number of processes or messages makes two messages share one.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from channels_core.exceptions import InvalidChannelLayerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Cipher", "Unreadable"]

_KEY_ID: Final = 4
_SUBKEY_ID: Final = 16
_COUNTER: Final = 8
_HEAD: Final = _KEY_ID + _SUBKEY_ID + _COUNTER
_REMEMBERED: Final = 1024
_INFO: Final = b"channels-layer-redis 1"


class Unreadable(ValueError):
    """A payload that cannot be understood; the text says why."""


class Cipher:
    """Seals with the first of ``keys`` and opens what any of them sealed.

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` for keys that are none, and where the package
    ``cryptography`` is missing.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError as error:
            raise InvalidChannelLayerError(
                "Option encryption_keys of the Redis layer needs the package 'cryptography', which is not installed:"
                " run 'pip install channels-layer-redis[crypto]'."
            ) from error
        if (
            isinstance(keys, str | bytes)
            or not keys
            or not all(isinstance(key, str | bytes) and key for key in keys)
        ):
            raise InvalidChannelLayerError(
                "Option encryption_keys of the Redis layer is not a list of keys: give one or more secrets, each text"
                " or bytes and not empty; the first one seals, all of them open."
            )
        self._aes, self._hkdf, self._sha256 = AESGCM, HKDF, SHA256
        self._masters: dict[bytes, bytes] = {}
        for key in keys:
            secret = hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
            self._masters[hashlib.sha256(b"id " + secret).digest()[:_KEY_ID]] = secret
        self._first = next(iter(self._masters))
        self._derived: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._sealing: tuple[AESGCM, bytes, Iterator[int]] | None = None
        """Key, head and counter: one value, so that no thread sees the counter of another key than its own."""

    def _start(self) -> tuple[AESGCM, bytes, Iterator[int]]:
        subkey_id = os.urandom(_SUBKEY_ID)
        self._sealing = sealing = self._derive(self._first, subkey_id), self._first + subkey_id, count(1)
        return sealing  # two threads at once: each its own, and the later one stays

    def _derive(self, key_id: bytes, subkey_id: bytes) -> AESGCM:
        hkdf: Any = self._hkdf(algorithm=self._sha256(), length=32, salt=subkey_id, info=_INFO)
        return self._aes(hkdf.derive(self._masters[key_id]))

    def forget_own_key(self) -> None:
        """In a forked child: a key of its own at the next message."""
        self._sealing = None

    def seal(self, body: bytes, bound_to: bytes) -> bytes:
        """``body``, unreadable and unforgeable for who has none of the keys, and bound to ``bound_to``. Thread-safe."""
        key, head, counter = self._sealing or self._start()
        number = next(counter).to_bytes(_COUNTER, "big")
        return head + number + key.encrypt(b"\0\0\0\0" + number, body, bound_to)

    def open(self, sealed: bytes | memoryview, bound_to: bytes) -> bytes:
        """The body. Raises :class:`Unreadable` where no key fits, or it was changed, or is for another channel."""
        head = bytes(sealed[:_HEAD])
        key_id, subkey = head[:_KEY_ID], head[: _KEY_ID + _SUBKEY_ID]
        if len(head) < _HEAD or key_id not in self._masters:
            raise Unreadable("it was sealed with a key that is not among encryption_keys")
        opening = self._derived.get(subkey)
        if opening is None:
            opening = self._derived[subkey] = self._derive(key_id, head[_KEY_ID : _KEY_ID + _SUBKEY_ID])
            if len(self._derived) > _REMEMBERED:
                self._derived.popitem(last=False)
        from cryptography.exceptions import InvalidTag

        try:
            return opening.decrypt(b"\0\0\0\0" + head[-_COUNTER:], bytes(sealed[_HEAD:]), bound_to)
        except InvalidTag as error:
            raise Unreadable("its seal is broken: it was changed, or was sent to another channel") from error
