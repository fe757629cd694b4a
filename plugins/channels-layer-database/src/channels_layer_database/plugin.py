"""Registers the layer "database"."""

from collections.abc import Iterable

from channels_core import hookimpl
from channels_core.registrations import LayerRegistration

__all__ = ["CHANNELS_API", "channels_register_layers"]

CHANNELS_API = 1


@hookimpl
def channels_register_layers() -> Iterable[LayerRegistration]:
    """Yield the one layer of this distribution."""
    yield LayerRegistration(
        name="database",
        target="channels_layer_database.layer:DatabaseLayer",
        summary="in a database of the project: PostgreSQL, MariaDB or MySQL, SQLite; both delivery classes",
    )
