"""A pytest fixture: a database in a file, which the threads of workers can share without locking each other out.

Named in the ``pytest_plugins`` of the test modules that use them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testsite.fixtures import set_up_django


class _Swap:
    """Another SQLite file in the place of the default database, whose own connection is left as it is."""

    def __init__(self, path: Path) -> None:
        from django.db import connections

        self._settings = connections.settings["default"]
        own = connections._connections  # type: ignore[attr-defined]  # looking there opens nothing
        self._connection = getattr(own, "default", None)
        if self._connection is not None:
            del connections["default"]
        options = {"init_command": "PRAGMA synchronous=OFF", "timeout": 30}  # it need not survive a power cut
        connections.settings["default"] = {**self._settings, "NAME": str(path), "OPTIONS": options}

    def undo(self) -> None:
        from asgiref.sync import SyncToAsync
        from django.db import connections

        def drop() -> None:
            connections["default"].close()
            del connections["default"]

        SyncToAsync.single_thread_executor.submit(drop).result()
        drop()
        connections.settings["default"] = self._settings
        if self._connection is not None:
            connections["default"] = self._connection


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_up_django()
    from django.core.management import call_command

    path = tmp_path_factory.mktemp("database") / "template.sqlite3"
    swap = _Swap(path)
    call_command("migrate", verbosity=0)
    swap.undo()
    return path


@pytest.fixture
def file_database(_migrated: Path, tmp_path: Path) -> Iterator[Path]:
    """The default database is a fresh, migrated SQLite file. Threads started by a test close what they open."""
    path = tmp_path / "site.sqlite3"
    shutil.copy(_migrated, path)
    swap = _Swap(path)
    yield path
    swap.undo()


@pytest.fixture
def session_folder(tmp_path: Path) -> Iterator[Path]:
    """``SESSION_FILE_PATH``, an empty folder; the file engine remembers the folder it first saw."""
    set_up_django()
    from django.contrib.sessions.backends.file import SessionStore
    from django.test import override_settings

    from channels_session_django.engines import existing_session_class

    def forget() -> None:
        for kind in (SessionStore, existing_session_class("django.contrib.sessions.backends.file")):
            if "_storage_path" in vars(kind):
                delattr(kind, "_storage_path")

    folder = tmp_path / "sessions"
    folder.mkdir()
    forget()
    with override_settings(SESSION_FILE_PATH=str(folder)):
        yield folder
    forget()
