"""The ``channels`` command.

Without Django it takes its configuration from ``--config`` or ``CHANNELS_CONFIG``; with Django, ``manage.py channels``
runs the same sub-commands on the project's settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from channels_core.channel_layer import CONFIG_VARIABLE, ChannelLayers, channel_layers
from channels_core.cli import plugins
from channels_core.exceptions import ChannelsError
from channels_core.import_strings import import_target

__all__ = ["main"]

_COMMANDS = (plugins,)


def main(
    argv: Sequence[str] | None = None, *, prog: str = "channels", layers: ChannelLayers | None = None
) -> int:
    """Run one sub-command and return its exit status: 0, 1 for an error that it printed, 2 for wrong usage.

    ``argv`` is ``sys.argv[1:]`` by default. ``layers`` are those to work on, already configured; without it they are
    the process-wide ones, configured from ``--config`` or the environment.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Look at and run message channels.")
    if layers is None:
        parser.add_argument(
            "--config",
            metavar="MODULE:ATTRIBUTE",
            help=f"a channels_core.Config, or a function that returns one; {CONFIG_VARIABLE} by default",
        )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        if layers is None:
            layers = _configured(arguments.config)
        status: int = arguments.run(arguments, layers)
        sys.stdout.flush()
    except (ChannelsError, KeyError) as exc:
        print(f"{prog}: {exc.args[0] if exc.args else exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _configured(path: str | None) -> ChannelLayers:
    """The process-wide layers, configured from ``path`` where one is given. Modules in the current folder count."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    if path is not None:
        channel_layers.configure(import_target(path, what="The option --config"))
    return channel_layers
