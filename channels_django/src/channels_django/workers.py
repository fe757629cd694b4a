"""Workers as Django runs them: with the default routes, the signals and the middleware of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from django.apps import apps
from django.conf import settings

from channels_core.channel_layer import ChannelLayer, channel_layers
from channels_core.worker import Worker
from channels_django.default_routes import with_default_routes
from channels_django.http import ViewConsumer
from channels_django.signals import DjangoEvents

__all__ = ["add_default_routes", "make_view_consumer", "make_worker"]


def make_worker(
    layer: ChannelLayer,
    *,
    threads: int | None = None,
    only_channels: Sequence[str] = (),
    exclude_channels: Sequence[str] = (),
    is_static_served: bool | None = None,
) -> Worker:
    """A worker of ``layer``, not started. ``threads`` is CHANNELS["THREADS"] where it is not given.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for bad routes or middleware, or filters that leave no
    channel.
    """
    config = channel_layers.config.worker
    if threads is not None:
        config = replace(config, threads=threads)
    add_default_routes(layer, is_static_served=is_static_served)
    return Worker(
        layer,
        config=config,
        events=DjangoEvents(),
        middleware=channel_layers.make_middleware(),
        only_channels=only_channels,
        exclude_channels=exclude_channels,
    )


def add_default_routes(layer: ChannelLayer, *, is_static_served: bool | None = None) -> None:
    """Have ``layer`` route to the project's views, and accept WebSockets, where its own routes say nothing. Idempotent.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for bad routes.
    """
    layer.router = with_default_routes(layer.router, make_view_consumer(is_static_served))


def make_view_consumer(is_static_served: bool | None = None) -> ViewConsumer:
    """What answers ``http.request`` where the project routes it nowhere else.

    It serves static files too when ``django.contrib.staticfiles`` is installed and DEBUG is on, unless told otherwise.
    """
    is_wanted = settings.DEBUG if is_static_served is None else is_static_served
    if is_wanted and apps.is_installed("django.contrib.staticfiles"):
        from channels_django.staticfiles import StaticFilesConsumer

        return StaticFilesConsumer()
    return ViewConsumer()
