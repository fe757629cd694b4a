"""What the layer needs of Django's databases: the vendor of an alias, and how to connect to it.

Reads the settings module and imports Django's database backend, nothing of the project: ``django.setup()`` is not
needed, so that an interface server can use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channels_core.exceptions import InvalidChannelLayerError

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["is_manual", "new_wrapper", "vendor_of"]


def vendor_of(using: str) -> str:
    """What Django calls the kind of database behind the alias: postgresql, mysql, sqlite, oracle, ...

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` for an alias that does not exist or whose
    backend cannot be imported.
    """
    return new_wrapper(using).vendor


def new_wrapper(using: str) -> BaseDatabaseWrapper:
    """A wrapper of Django's for the alias, unconnected and registered nowhere: to take parameters from.

    Settings are read anew at each call, so that a test database is seen.
    """
    from django.core.exceptions import ImproperlyConfigured
    from django.db import connections

    try:
        wrapper: BaseDatabaseWrapper = connections.create_connection(using)
    except KeyError as error:
        known = ", ".join(sorted(connections.settings)) or "none"
        raise InvalidChannelLayerError(
            f"Option using is {using!r}, which DATABASES does not have. It has: {known}."
        ) from error
    except ImproperlyConfigured as error:
        raise InvalidChannelLayerError(f"Option using is {using!r}, which cannot be used: {error}") from error
    return wrapper


def is_manual(connection: BaseDatabaseWrapper) -> bool:
    """Whether what is done on the connection waits for a commit though no ``atomic()`` is open: without autocommit."""
    if connection.in_atomic_block:
        return False
    if connection.connection is None:
        return not connection.settings_dict["AUTOCOMMIT"]
    return not connection.autocommit
