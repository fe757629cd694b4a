"""The layer "database": chooses the engine by the alias' ENGINE, and holds the options that all engines share."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from channels_core.exceptions import InvalidChannelLayerError
from channels_core.layers import AT_LEAST_ONCE, AT_MOST_ONCE, LayerBackend
from channels_layer_database.databases import vendor_of

__all__ = ["DatabaseLayer"]

_ENGINES: Final = {
    "postgresql": ("channels_layer_database.postgresql.layer", "PostgreSQLLayer"),
    "mysql": ("channels_layer_database.dbapi.mysql", "MySQLLayer"),
    "sqlite": ("channels_layer_database.dbapi.sqlite", "SQLiteLayer"),
}
_PREFIX: Final = re.compile(r"[a-z_][a-z0-9_]{0,19}\Z")


class DatabaseLayer(LayerBackend):
    """A channel layer in the database with the alias ``using`` of Django's ``DATABASES``.

    Making one makes the engine that fits the alias: PostgreSQL, MySQL or MariaDB, or SQLite. Options beside those of
    every layer: ``using``; ``prefix`` of the tables' names (layers with different ones share nothing);
    ``transactional``, whether sends belong to the caller's open transaction unless they say otherwise; ``wake``,
    whether such a send wakes readers ``"inside"`` the transaction or ``"after"`` it. Engines add their own.

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` for an alias or engine that does not exist.
    """

    __abstract__ = True
    delivery_classes = frozenset({AT_MOST_ONCE, AT_LEAST_ONCE})
    is_transactional = True

    vendor: ClassVar[str] = ""
    """What Django calls the engine's databases."""

    def __new__(cls, *, using: str = "default", **options: Any) -> DatabaseLayer:
        """An instance of the engine that fits ``using``."""
        kind: type[DatabaseLayer] = cls._engine_of(using) if cls is DatabaseLayer else cls
        return object.__new__(kind)

    @staticmethod
    def _engine_of(using: str) -> type[DatabaseLayer]:
        from importlib import import_module

        vendor = vendor_of(using)
        if vendor not in _ENGINES:
            raise InvalidChannelLayerError(
                f"Option using is {using!r}, a database of {vendor}: the layer 'database' knows"
                f" {', '.join(sorted(_ENGINES))}. Name another alias of DATABASES."
            )
        module, name = _ENGINES[vendor]
        kind: type[DatabaseLayer] = getattr(import_module(module), name)
        return kind

    def __init__(
        self,
        *,
        using: str = "default",
        prefix: str = "channels_",
        transactional: bool = False,
        wake: str = "inside",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(prefix, str) or not _PREFIX.match(prefix):
            raise InvalidChannelLayerError(
                f"Option prefix is {prefix!r}: it must be 1 to 20 of a-z, 0-9 and '_', not beginning with a digit."
            )
        if not isinstance(transactional, bool):
            raise InvalidChannelLayerError(
                f"Option transactional is {transactional!r}: it must be True or False."
            )
        if wake not in {"inside", "after"}:
            raise InvalidChannelLayerError(f"Option wake is {wake!r}: it must be 'inside' or 'after'.")
        self.using = using
        self.prefix = prefix
        self.transactional_by_default = transactional
        self.wake_when = wake
