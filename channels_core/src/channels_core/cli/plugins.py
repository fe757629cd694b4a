"""``channels plugins``: what is installed, where it comes from, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from channels_core.plugins import PluginManager, get_plugin_manager

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayers

__all__ = ["add_parser", "run"]

_COLUMNS = ("name", "kind", "distribution", "version", "status", "reason")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the ``channels`` parser."""
    parser = commands.add_parser("plugins", help="list installed plugins", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of objects for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, layers: ChannelLayers) -> int:
    """Print a line for each registration, and for each plugin that cannot be used."""
    manager = layers.plugins if layers.is_configured else get_plugin_manager()
    lines = [asdict(status) for status in manager.statuses()]
    if arguments.json:
        print(json.dumps(lines, indent=2))
    else:
        print(
            _table(lines) if lines else "No plugins are installed: try 'pip install channels-layer-memory'."
        )
    _warn_of_unmatched(manager)
    return 0


def _table(lines: list[dict[str, Any]]) -> str:
    rows = [[column.upper() for column in _COLUMNS]]
    rows += [[str(line[column] or "-") for column in _COLUMNS[:-1]] + [line["reason"]] for line in lines]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def _warn_of_unmatched(manager: PluginManager) -> None:
    for name in manager.unmatched_blocks:
        print(f"Blocked, but not installed: {name!r}. Check its spelling.", file=sys.stderr)
