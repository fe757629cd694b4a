"""``manage.py channels``: the ``channels`` command on the project's settings."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from channels_core.channel_layer import channel_layers
from channels_core.cli import Host, main
from channels_core.exceptions import ChannelsError
from channels_django.signals import DjangoEvents
from channels_django.workers import add_default_routes


class Command(BaseCommand):
    """Hands its arguments to ``channels``."""

    help = "Look at plugins and channels, send messages, run workers: manage.py channels --help"

    def run_from_argv(self, argv: list[str]) -> None:
        """Leave all parsing to ``channels``, and exit with its status."""
        if argv[2:3] == ["worker"]:
            _add_default_routes()
        sys.exit(main(argv[2:], prog=f"{Path(argv[0]).name} {argv[1]}", host=_host()))

    def handle(self, *args: str, **options: Any) -> None:
        """For ``call_command("channels", "plugins")``."""
        status = main(list(args), prog="channels", host=_host())
        if status:
            sys.exit(status)

    def add_arguments(self, parser: CommandParser) -> None:
        """Take whatever comes."""
        parser.add_argument("args", nargs="*")


def _add_default_routes() -> None:
    for alias in channel_layers:
        with suppress(ChannelsError):  # reported by the worker, where it is about its layer
            add_default_routes(channel_layers[alias])


def _host() -> Host:
    return Host(layers=channel_layers, command=[sys.executable, *_this_program()], events=DjangoEvents())


def _this_program() -> list[str]:
    """What, after the interpreter, runs this command again: manage.py, or django-admin, or -m django."""
    end = sys.orig_argv.index("channels") + 1 if "channels" in sys.orig_argv else len(sys.orig_argv)
    return sys.orig_argv[1:end]
