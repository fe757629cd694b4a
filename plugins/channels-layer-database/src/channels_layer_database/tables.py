"""The layer's tables on an alias of ``DATABASES``, by the schema of its vendor."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__all__ = ["VENDORS", "create_tables", "drop_tables", "has_tables"]

VENDORS: Final = ("postgresql", "mysql", "sqlite")


def _run(using: str, which: str, prefix: str) -> None:
    from django.db import connections

    connection = connections[using]
    if connection.vendor in VENDORS:
        schema: Any = import_module(f"channels_layer_database.schema.{connection.vendor}")
        with connection.cursor() as cursor:
            for statement in getattr(schema, which)(prefix):
                cursor.execute(statement)


def create_tables(using: str, prefix: str = "channels_") -> None:
    """Make the tables on the alias where they are missing. Nothing on a database that the layer does not know."""
    _run(using, "create", prefix)


def drop_tables(using: str, prefix: str = "channels_") -> None:
    """Remove the tables with all they hold. Nothing on a database that the layer does not know."""
    _run(using, "drop", prefix)


def has_tables(using: str, prefix: str) -> bool:
    """Whether the tables are there, by the one that holds the messages."""
    from django.db import connections

    connection = connections[using]
    with connection.cursor() as cursor:
        return f"{prefix}msg" in connection.introspection.table_names(cursor)
