"""Django's session engines, held to what already exists.

An engine asked for a session that is gone makes a new one up, and so does signing in or out. Nobody could learn the new
key, for only a view can set a cookie; so here a session that is gone stays gone.
"""

from __future__ import annotations

import functools
import logging
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends import signed_cookies
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import DataError, InterfaceError, InternalError, OperationalError, ProgrammingError

__all__ = ["ExistingSession", "existing_session_class", "load_existing_session"]

logger = logging.getLogger("channels.sessions")

_ENGINE_FAILURES = (DataError, InterfaceError, InternalError, OperationalError, ProgrammingError)


class ExistingSession(SessionBase):
    """Mixed into an engine's ``SessionStore``: reads and changes a row that is there, and never makes one."""

    def replace(self) -> bool:
        """Save where the row still exists; else ``False``, and nothing is stored.

        Raises the database's error where it failed: engines report that, too, as a session that is gone.
        """
        if self.session_key is None:
            return False
        if isinstance(self, signed_cookies.SessionStore):
            logger.warning(
                "A consumer changed an HTTP session that lives in a signed cookie; the change is lost, since only a"
                " view can set a cookie. Change it in a view, or set SESSION_ENGINE to an engine that keeps sessions"
                " itself."
            )
            return False
        try:
            super().save()
        except UpdateError as error:
            if isinstance(error.__context__, _ENGINE_FAILURES):
                raise error.__context__ from None
            return False
        self.modified = False
        return True

    def save(self, must_create: bool = False) -> None:
        """:meth:`replace`; with ``must_create``, as the engine does."""
        if must_create:
            super().save(must_create=True)
        else:
            self.replace()

    async def asave(self, must_create: bool = False) -> None:
        await sync_to_async(self.save)(must_create)

    def create(self) -> None:
        """Engines call this instead of saying that there is no such session; remember that there is none."""
        self._session_key = None

    async def acreate(self) -> None:
        self.create()

    def cycle_key(self) -> None:
        """The key is in a cookie that nobody here can change, so it stays."""

    async def acycle_key(self) -> None:
        self.cycle_key()


@functools.cache
def existing_session_class(engine: str) -> type[ExistingSession]:
    """The ``SessionStore`` of the session engine ``engine``, with :class:`ExistingSession` in front."""
    store: type[SessionBase] = import_module(engine).SessionStore
    # Engines sign what they store with a salt made of their class's qualified name.
    namespace: dict[str, Any] = {"__qualname__": store.__qualname__, "__module__": store.__module__}
    return type(store.__name__, (ExistingSession, store), namespace)


def load_existing_session(engine: str, key: str) -> ExistingSession | None:
    """The live session under ``key``, loaded; ``None`` where there is none or it has expired."""
    session = existing_session_class(engine)(key)
    if session.session_key is None:
        return None
    session.keys()  # loads; an engine that finds nothing drops the key
    return session if session.session_key == key else None
