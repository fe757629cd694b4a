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

from channels_core.channel_layer import CONFIG_VARIABLE, channel_layers
from channels_core.cli import clean, dead, inspect, plugins, send, worker
from channels_core.cli.host import Host
from channels_core.exceptions import ChannelsError
from channels_core.import_strings import import_target

__all__ = ["Host", "main"]

_COMMANDS = (plugins, worker, send, inspect, dead, clean)


def main(argv: Sequence[str] | None = None, *, prog: str = "channels", host: Host | None = None) -> int:
    """Run one sub-command and return its exit status: 0, 1 for an error that it printed, 2 for wrong usage.

    ``argv`` is ``sys.argv[1:]`` by default. Without ``host`` the process-wide layers are used, configured from
    ``--config`` or the environment, and modules in the current folder can be imported.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="Look at message channels, and run their workers."
    )
    if host is None:
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
        if host is None:
            host = _standalone(arguments.config)
        status: int = arguments.run(arguments, host)
        sys.stdout.flush()
    except ChannelsError as exc:
        print(f"{prog}: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) has left: there is nobody to tell, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _standalone(path: str | None) -> Host:
    """The process-wide layers, configured from ``path`` where one is given."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    if path is not None:
        channel_layers.configure(import_target(path, what="The option --config"))
    options = [] if path is None else [f"--config={path}"]
    return Host(layers=channel_layers, command=[sys.executable, "-m", "channels_core", *options])
