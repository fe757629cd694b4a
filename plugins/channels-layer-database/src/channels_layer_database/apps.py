"""The Django app: brings the tables by migrations, and the system checks. At run time the layer needs neither."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate

__all__ = ["ChannelsLayerDatabaseConfig"]


class ChannelsLayerDatabaseConfig(AppConfig):
    """Put ``"channels_layer_database"`` into ``INSTALLED_APPS``."""

    name = "channels_layer_database"
    label = "channels_layer_database"
    verbose_name = "Channel layer"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from channels_layer_database.checks import check_tables

        checks.register(check_tables, checks.Tags.database)
        post_migrate.connect(_make_tables_of_other_prefixes, sender=self)


def _make_tables_of_other_prefixes(using: str, **_: Any) -> None:
    from channels_layer_database.checks import layers_on
    from channels_layer_database.tables import create_tables

    for _alias, prefix in layers_on(using):
        if prefix != "channels_":
            create_tables(using, prefix)
