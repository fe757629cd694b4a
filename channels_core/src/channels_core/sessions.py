"""The session store contract: small dicts kept under a key between messages of one connection."""

from __future__ import annotations

import abc
import asyncio
from typing import Any

__all__ = ["SessionStore"]


class SessionStore(abc.ABC):
    """Keeps session data under keys that the caller chooses.

    Methods may be called from any thread. Each has an async twin, derived by running it in a thread where the
    store does not write its own. Data is a dict of what the store's serialiser can carry.
    """

    @abc.abstractmethod
    def load(self, key: str) -> dict[str, Any] | None:
        """The live data under ``key``, or ``None`` where there is none or it has expired."""

    @abc.abstractmethod
    def create(self, key: str, data: dict[str, Any], ttl: float) -> None:
        """Store ``data`` under a new ``key`` for ``ttl`` seconds.

        Raises :class:`~channels_core.exceptions.SessionExists` when the key is taken; of two that race, one wins.
        """

    @abc.abstractmethod
    def save(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        """Replace the data under an existing ``key``; ``False``, and nothing stored, where it is gone."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Forget ``key``; nothing happens where there is none."""

    async def aload(self, key: str) -> dict[str, Any] | None:
        """:meth:`load`."""
        return await asyncio.to_thread(self.load, key)

    async def acreate(self, key: str, data: dict[str, Any], ttl: float) -> None:
        """:meth:`create`."""
        await asyncio.to_thread(self.create, key, data, ttl)

    async def asave(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        """:meth:`save`."""
        return await asyncio.to_thread(self.save, key, data, ttl)

    async def adelete(self, key: str) -> None:
        """:meth:`delete`."""
        await asyncio.to_thread(self.delete, key)
