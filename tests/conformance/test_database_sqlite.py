"""The database layer keeps the laws of layers in a SQLite file: with its doorbell, and where there is none."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from channels_core.testing.conformance import LayerConformance
from channels_layer_database.dbapi.sqlite import SQLiteLayer
from channels_layer_database.layer import DatabaseLayer
from database_sites import aliased


class TestSQLiteLayer(LayerConformance):
    takes_clock = True

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "layer.sqlite3"

    def make_backend(self, **options: Any) -> SQLiteLayer:
        return SQLiteLayer(file=self.path, **options)


class TestSQLiteLayerWithoutDoorbell(TestSQLiteLayer):
    def make_backend(self, **options: Any) -> SQLiteLayer:
        return SQLiteLayer(file=self.path, doorbell=False, **options)


class TestSharedSQLiteLayer(LayerConformance):
    """In the project's own file, where sends can belong to the caller's transaction."""

    takes_clock = True
    has_one_writer = True

    @pytest.fixture(autouse=True)
    def alias(self, tmp_path: Path) -> Iterator[None]:
        entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "project.sqlite3")}
        with aliased("channels_sqlite", entry):
            yield

    def make_backend(self, **options: Any) -> DatabaseLayer:
        backend = DatabaseLayer(using="channels_sqlite", shared=True, **options)
        assert type(backend) is SQLiteLayer
        return backend

    def transaction(self) -> AbstractContextManager[object]:
        from django.db import transaction

        return transaction.atomic(using="channels_sqlite")
