"""System checks of delayed messages; their ids are ``channels_delay.E0xx`` and ``W0xx``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags
from django.core.checks import Warning as CheckWarning

from channels_core.channel_layer import ChannelLayer, channel_layers
from channels_core.exceptions import ChannelsError
from channels_core.layers import AT_LEAST_ONCE
from channels_delay.orders import DELAY_CHANNEL

__all__ = ["check_deployment", "check_settings", "register"]

_TAG = "channels"


def register() -> None:
    """Have Django run the checks of this module."""
    checks.register(check_settings, _TAG)
    checks.register(check_deployment, _TAG, Tags.security, deploy=True)


def check_settings(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """E001, E002."""
    if not apps.is_installed("channels_django"):
        return [
            Error(
                "'channels_delay' is in INSTALLED_APPS and 'channels_django' is not.",
                hint="Put 'channels_django' first in INSTALLED_APPS.",
                id="channels_delay.E001",
            )
        ]
    return [
        Error(
            f"CHANNEL_LAYERS[{layer.alias!r}] routes {DELAY_CHANNEL!r} to a consumer: workers would take messages that"
            " the delay server waits for.",
            hint=f"Remove the route for {DELAY_CHANNEL!r}; `manage.py rundelay` reads that channel.",
            id="channels_delay.E002",
        )
        for layer in _layers()
        if _routes_orders(layer)
    ]


def check_deployment(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """W001."""
    if not apps.is_installed("channels_django"):
        return []
    return [
        CheckWarning(
            f"On the channel layer {layer.alias!r}, {DELAY_CHANNEL!r} is at-most-once: a delay server that is killed"
            " loses the messages it has just been given.",
            hint=f"Add 'delivery': {{'{DELAY_CHANNEL}': 'at-least-once'}} to its CONFIG.",
            id="channels_delay.W001",
        )
        for layer in _layers()
        if AT_LEAST_ONCE in layer.backend.delivery_classes
        and not layer.backend.local_only
        and layer.backend.delivery_class_of(DELAY_CHANNEL) != AT_LEAST_ONCE
    ]


def _layers() -> Iterator[ChannelLayer]:
    """The layers that can be made; channels_django reports the others."""
    try:
        aliases = list(channel_layers)
    except ChannelsError:
        return
    for alias in aliases:
        try:
            yield channel_layers[alias]
        except ChannelsError:
            continue


def _routes_orders(layer: ChannelLayer) -> bool:
    try:
        return DELAY_CHANNEL in layer.router.channels
    except ChannelsError:
        return False
