"""pytest fixtures: the test site set up, and a database in a file, which threads and workers can share.

Named in the ``pytest_plugins`` of the test modules that use them.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def site() -> None:
    """Django, set up with the settings of the test site."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testsite.settings")
    django.setup()


class _Swap:
    """Another SQLite file in the place of the default database, whose own connection is left as it is."""

    def __init__(self, path: Path) -> None:
        from django.db import connections

        self._settings = connections.settings["default"]
        own = connections._connections  # type: ignore[attr-defined]  # looking there opens nothing
        self._connection = getattr(own, "default", None)
        if self._connection is not None:
            del connections["default"]
        connections.settings["default"] = {**self._settings, "NAME": str(path)}

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
def _migrated(site: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
