"""The Django app: brings the migrations and the system checks. At run time the layer needs neither apps nor models."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["ChannelsLayerDatabaseConfig"]


class ChannelsLayerDatabaseConfig(AppConfig):
    """Put ``"channels_layer_database"`` into ``INSTALLED_APPS``."""

    name = "channels_layer_database"
    label = "channels_layer_database"
    verbose_name = "Channel layer"
    default_auto_field = "django.db.models.BigAutoField"
