"""System checks of the layer "database", run where databases are checked: ``migrate`` and ``check --database ...``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning

__all__ = ["check_tables", "layers_on"]

_NAMES = frozenset(
    {"database", "channels_layer_database.DatabaseLayer", "channels_layer_database.layer.DatabaseLayer"}
)


def layers_on(using: str) -> Iterator[tuple[str, str]]:
    """Alias and table prefix of each configured layer whose messages are in the tables of the database ``using``."""
    for alias, entry in getattr(settings, "CHANNEL_LAYERS", {}).items():
        options = entry.get("CONFIG") or {}
        if entry.get("BACKEND") not in _NAMES or options.get("using", "default") != using:
            continue
        engine = settings.DATABASES.get(using, {}).get("ENGINE", "")
        if engine.endswith("sqlite3") and not (options.get("shared") or options.get("transactional")):
            continue  # a file of its own
        yield alias, options.get("prefix", "channels_")


def check_tables(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W040: a layer whose tables are missing."""
    from channels_layer_database.tables import has_tables

    return [
        CheckWarning(
            f"The channel layer {alias!r} keeps its messages in the database {using!r}, which has no table"
            f" {prefix + 'msg'!r}.",
            hint=f"Run 'manage.py migrate channels_layer_database --database {using}'; if a database router decides,"
            " let it allow this app there.",
            id="channels.W040",
        )
        for using in databases or ()
        for alias, prefix in layers_on(using)
        if not has_tables(using, prefix)
    ]
