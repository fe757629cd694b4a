"""Registers the session store "django"."""

from collections.abc import Iterator

from channels_core.hookspecs import hookimpl
from channels_core.registrations import SessionStoreRegistration

__all__ = ["CHANNELS_API", "channels_register_session_stores"]

CHANNELS_API = 1


@hookimpl
def channels_register_session_stores() -> Iterator[SessionStoreRegistration]:
    """One session store, for every engine that Django has."""
    yield SessionStoreRegistration(
        name="django",
        target="channels_session_django.store:DjangoSessionStore",
        summary="Django's session engines: CHANNEL_SESSION_ENGINE, else SESSION_ENGINE",
    )
