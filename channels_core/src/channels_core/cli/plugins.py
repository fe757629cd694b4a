"""``channels plugins``: what is installed, where it comes from, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from channels_core.cli.host import Host, print_table
from channels_core.plugins import PluginManager, get_plugin_manager

__all__ = ["add_parser", "run"]

_COLUMNS = ("name", "kind", "distribution", "version", "status", "reason")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the ``channels`` parser."""
    parser = commands.add_parser("plugins", help="list installed plugins")
    parser.add_argument("--json", action="store_true", help="print a list of objects, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, host: Host) -> int:
    """Print a line for each registration, and for each plugin that cannot be used."""
    manager = host.layers.plugins if host.layers.is_configured else get_plugin_manager()
    lines = [asdict(status) for status in manager.statuses()]
    if arguments.json:
        print(json.dumps(lines, indent=2))
    elif lines:
        print_table(
            [name.upper() for name in _COLUMNS], [[line[name] for name in _COLUMNS] for line in lines]
        )
    else:
        print("No plugins are installed: try 'pip install channels-layer-memory'.")
    _warn_of_unmatched(manager)
    return 0


def _warn_of_unmatched(manager: PluginManager) -> None:
    for name in manager.unmatched_blocks:
        print(f"Blocked, but not installed: {name!r}. Check its spelling.", file=sys.stderr)
