"""The MySQL engine of the layer "database" keeps every law, on a real MariaDB."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from channels_core.testing.conformance import LayerConformance
from channels_layer_database.dbapi.mysql import MySQLLayer
from channels_layer_database.layer import DatabaseLayer
from channels_layer_database.schema.mysql import create
from database_sites import on_mariadb
from mariadb_server import MariaDB


@pytest.fixture(autouse=True, scope="module")
def server() -> Iterator[MariaDB]:
    with on_mariadb("kit") as server:
        for statement in create("channels_"):
            server.execute(statement, "kit")
        yield server


@pytest.fixture(autouse=True)
def _empty(server: MariaDB) -> None:
    for (table,) in server.execute("SHOW TABLES", "kit"):
        server.execute(f"DELETE FROM {table}", "kit")


class TestMySQLLayer(LayerConformance):
    takes_clock = True

    def make_backend(self, **options: Any) -> DatabaseLayer:
        backend = DatabaseLayer(using="channels_mysql", **options)
        assert type(backend) is MySQLLayer
        return backend

    def transaction(self) -> AbstractContextManager[object]:
        from django.db import transaction

        return transaction.atomic(using="channels_mysql")
