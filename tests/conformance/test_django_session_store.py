"""The session store "django" keeps the laws of session stores, over each kind of engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from channels_core.sessions import SessionStore
from channels_core.testing.conformance.session_stores import SessionStoreConformance

pytest_plugins = ["testsite.databases"]


class _OverDjango(SessionStoreConformance):
    engine: str
    short_ttl = 0.05  # to which the store adds up to a second

    @pytest.fixture
    def store(self, file_database: Path, session_folder: Path, tmp_path: Path) -> Iterator[SessionStore]:
        from django.test import override_settings

        from channels_session_django.store import DjangoSessionStore

        caches = {
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": str(tmp_path)}
        }
        with override_settings(
            CHANNEL_SESSION_ENGINE=f"django.contrib.sessions.backends.{self.engine}",
            CACHES=caches,
        ):
            yield DjangoSessionStore()

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        from django.db import connections

        yield
        connections.close_all()


class TestDatabaseEngine(_OverDjango):
    engine = "db"


class TestCacheEngine(_OverDjango):
    engine = "cache"


class TestCachedDatabaseEngine(_OverDjango):
    engine = "cached_db"


class TestFileEngine(_OverDjango):
    engine = "file"
