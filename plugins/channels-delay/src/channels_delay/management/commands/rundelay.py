"""``rundelay``: the delay server of one layer."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer, channel_layers
from channels_core.exceptions import ChannelsError
from channels_delay import table
from channels_delay.models import DelayedMessage
from channels_delay.server import DelayServer, run_until_signalled

__all__ = ["Command"]


class Command(BaseCommand):
    """Sends delayed messages until SIGTERM or SIGINT, which finish what is in hand."""

    help = "Runs the delay server: it keeps messages sent to asgi.delay and sends each when it is due."

    def add_arguments(self, parser: CommandParser) -> None:
        """Which layer, and how often to look."""
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            help="Alias of the layer to serve (default: default).",
        )
        parser.add_argument(
            "--sleep",
            type=_seconds,
            default=1.0,
            help="Seconds after which it looks for messages that others put into the table (default: 1).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Refuse what cannot work, then run until signalled."""
        layer = self._layer(options["layer"])
        self._check_table()
        server = DelayServer(layer, sleep=options["sleep"])
        run_until_signalled(server, partial(self._announce, options["layer"], options["verbosity"]))

    def _layer(self, alias: str) -> ChannelLayer:
        try:
            layer = channel_layers[alias]
        except (ChannelsError, KeyError) as error:
            raise CommandError(str(error.args[0])) from error
        if layer.backend.local_only:
            raise CommandError(
                f"The channel layer {alias!r} ({type(layer.backend).__name__}) keeps messages inside one process, so a"
                " separate delay server would see none. Name a layer that reaches across processes as its BACKEND in"
                " CHANNEL_LAYERS."
            )
        return layer

    def _check_table(self) -> None:
        name = DelayedMessage._meta.db_table
        try:
            with connections[table.database()].cursor() as cursor:
                tables = connections[table.database()].introspection.table_names(cursor)
        except DatabaseError:
            return  # the server waits for the database
        if name not in tables:
            raise CommandError(
                f"The database {table.database()!r} has no table {name!r}. Run `manage.py migrate channels_delay`."
            )

    def _announce(self, alias: str, verbosity: int) -> None:
        if verbosity:
            self.stdout.write(f"Delay server of layer {alias!r} is running.")
            self.stdout.flush()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
