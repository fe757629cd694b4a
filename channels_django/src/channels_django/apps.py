"""The application ``channels_django``: connects the settings, the system checks and the signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed
from django.db import transaction

from channels_core.channel_layer import channel_layers
from channels_django import conf

__all__ = ["ChannelsConfig"]


class ChannelsConfig(AppConfig):
    """Put ``"channels_django"`` first into ``INSTALLED_APPS``."""

    name = "channels_django"
    label = "channels_django"
    verbose_name = "Channels"

    def ready(self) -> None:
        """Configure ``channel_layers``, to be read when first asked, and follow ``override_settings``; tell it what
        runs after a commit."""
        from channels_django import checks

        conf.configure()
        channel_layers.commit_hook = _after_commit
        checks.register()
        setting_changed.connect(_forget_layers, dispatch_uid="channels_django.layers")


def _after_commit(call: Callable[[], None], using: str | None) -> None:
    transaction.on_commit(call, using=using)


def _forget_layers(*, setting: str, **_: Any) -> None:
    if setting in ("CHANNEL_LAYERS", "CHANNELS", "CHANNELS_WS_PROTOCOLS"):
        channel_layers.configure(conf.load_config)
