"""The session store "django": channel sessions in Django's session engines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import CreateError
from django.utils import timezone

from channels_core.exceptions import SessionExists
from channels_core.sessions import SessionStore
from channels_session_django.engines import existing_session_class, load_existing_session

__all__ = ["DjangoSessionStore"]

_SIGNED_COOKIES = "django.contrib.sessions.backends.signed_cookies"
_EXPIRY = "_session_expiry"
_OWN_EXPIRY = "_channel_session_expiry"


class DjangoSessionStore(SessionStore):
    """Keeps sessions with the engine ``CHANNEL_SESSION_ENGINE``, else ``SESSION_ENGINE``, as settings say at each call.

    A session lives its ``ttl`` and at most a second more. Safe to use from any thread, as far as the engine is;
    Django's are. The async twins run in the thread that Django keeps for its database.

    Raises ``ValueError`` from every method where that engine is the one of signed cookies: it keeps nothing itself.
    """

    def load(self, key: str) -> dict[str, Any] | None:
        row = load_existing_session(self._engine, key)
        if row is None:
            return None
        data = dict(row.items())
        data.pop(_EXPIRY, None)
        if _OWN_EXPIRY in data:
            data[_EXPIRY] = data.pop(_OWN_EXPIRY)
        return data

    def create(self, key: str, data: dict[str, Any], ttl: float) -> None:
        row = self._row(key, data, ttl)
        try:
            row.save(must_create=True)
        except CreateError:
            if not self._drop_expired(row, key):
                raise SessionExists(_EXISTS) from None
            try:
                row.save(must_create=True)
            except CreateError:
                raise SessionExists(_EXISTS) from None

    def save(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        is_there: bool = self._row(key, data, ttl).replace()
        return is_there

    def delete(self, key: str) -> None:
        existing_session_class(self._engine)(key).delete(key)

    async def aload(self, key: str) -> dict[str, Any] | None:
        return await sync_to_async(self.load)(key)

    async def acreate(self, key: str, data: dict[str, Any], ttl: float) -> None:
        await sync_to_async(self.create)(key, data, ttl)

    async def asave(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        return await sync_to_async(self.save)(key, data, ttl)

    async def adelete(self, key: str) -> None:
        await sync_to_async(self.delete)(key)

    @property
    def _engine(self) -> str:
        engine: str = getattr(settings, "CHANNEL_SESSION_ENGINE", None) or settings.SESSION_ENGINE
        if engine == _SIGNED_COOKIES:
            raise ValueError(
                f"Channel sessions cannot be kept by {engine!r}: a message has no cookie to put them into. Set"
                " CHANNEL_SESSION_ENGINE to another engine, such as 'django.contrib.sessions.backends.db'."
            )
        return engine

    def _row(self, key: str, data: Mapping[str, Any], ttl: float) -> Any:
        row: Any = existing_session_class(self._engine)(key)
        content = dict(data)
        if _EXPIRY in content:
            # What a consumer chose by set_expiry() counts anew from every change; the row carries a date.
            content[_OWN_EXPIRY] = content.pop(_EXPIRY)
        # Some engines cut the time to live off to whole seconds, so a little less than one is added.
        content[_EXPIRY] = (timezone.now() + timedelta(seconds=ttl + 0.999)).isoformat()
        row._session_cache = content  # its public methods would load the row first
        return row

    def _drop_expired(self, row: Any, key: str) -> bool:
        """Whether what held ``key`` had expired and is gone now; clearing up may be days away."""
        model = getattr(row, "model", None)
        if model is None:
            return load_existing_session(self._engine, key) is None
        # In one statement: a row that somebody else has just put there in its place must not be hit.
        expired = model.objects.filter(session_key=key, expire_date__lte=timezone.now())
        deleted: int = expired.delete()[0]
        return deleted > 0


_EXISTS = "The session key is taken: somebody else has created that session. Load it instead."
