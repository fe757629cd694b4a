"""Databases for tests of the layer "database": an alias of DATABASES with its tables, for as long as a test lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mariadb_server import MariaDB
from mariadb_server import running_server as running_mariadb
from postgres_server import PostgresServer, shared_server
from testsite.fixtures import set_up_django

__all__ = ["ElsewhereRouter", "aliased", "layer_on", "on_mariadb", "on_postgres"]


@contextmanager
def aliased(alias: str, entry: dict[str, Any]) -> Iterator[None]:
    """``entry`` is among DATABASES as ``alias``."""
    set_up_django()
    from django.conf import settings
    from django.db import connections

    whole = connections.configure_settings({"default": settings.DATABASES["default"], alias: dict(entry)})
    connections.settings[alias] = whole[alias]
    try:
        yield
    finally:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]


@contextmanager
def on_postgres(
    database: str,
    *,
    alias: str = "channels_pg",
    prefix: str = "channels_",
    server: PostgresServer | None = None,
) -> Iterator[PostgresServer]:
    """A new database with the layer's tables, under ``alias``."""
    from channels_layer_database.schema import postgresql

    server = server or shared_server()
    server.create(database)
    for statement in postgresql.create(prefix):
        server.execute(statement, database)
    with aliased(alias, server.settings(database)):
        yield server


@contextmanager
def layer_on(**options: Any) -> Iterator[Any]:
    """A layer on the database that :func:`on_postgres` made, unless ``using`` names another; closed at the end."""
    from channels_layer_database import DatabaseLayer

    layer = DatabaseLayer(**{"using": "channels_pg", **options})
    try:
        yield layer
    finally:
        layer.wake()
        layer.close()


@contextmanager
def on_mariadb(database: str, *, alias: str = "channels_mysql") -> Iterator[MariaDB]:
    """A new, empty database of MariaDB, under ``alias``."""
    server = running_mariadb()
    with aliased(alias, server.new_database(database)):
        yield server


class ElsewhereRouter:
    """A database router that sends every model to the default database."""

    def db_for_read(self, model: object, **hints: object) -> str:
        return "default"

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return db == "default"
