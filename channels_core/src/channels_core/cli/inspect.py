"""``channels inspect``: what waits on a layer, who is in its groups, which processes live, what was given up."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from channels_core.cli.host import Host, add_layer_option, layer_of, print_table
from channels_core.names import redact

if TYPE_CHECKING:
    from channels_core.layers import LayerBackend

__all__ = ["add_parser", "run"]

_SECTIONS = {
    "channels": ("channel", "pending", "leased", "oldest_age"),
    "groups": ("group", "members"),
    "processes": ("process", "kind", "age", "load", "label"),
    "dead_letters": ("id", "channel", "attempt", "age", "reason"),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the ``channels`` parser."""
    parser = commands.add_parser("inspect", help="show channels, groups, processes and dead letters")
    add_layer_option(parser)
    parser.add_argument("--json", action="store_true", help="print one object, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, host: Host) -> int:
    """Print the engine's figures. Times are in seconds; random parts of names are cut, for they are capabilities."""
    layer = layer_of(arguments, host)
    report = _report(layer.backend)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        for title, columns in _SECTIONS.items():
            _print_section(title, columns, report[title])
    if layer.backend.local_only:
        print(
            f"Layer {layer.alias!r} keeps its messages in the memory of one process, and these are the figures of this"
            " one.",
            file=sys.stderr,
        )
    return 0


def _report(backend: LayerBackend) -> dict[str, list[dict[str, Any]]]:
    return {
        "channels": [
            {
                "channel": redact(one.channel),
                "pending": one.pending,
                "leased": one.leased,
                "oldest_age": round(one.oldest_age, 3),
            }
            for one in backend.statistics()
        ],
        "groups": [{"group": name, "members": count} for name, count in sorted(backend.groups().items())],
        "processes": [
            {
                "process": one.id,
                "kind": one.kind,
                "age": round(one.age, 3),
                "load": round(one.load, 3),
                "label": one.label,
                "counters": one.counters,
            }
            for one in backend.processes()
        ],
        "dead_letters": [
            {
                "id": one.id,
                "channel": redact(one.channel),
                "attempt": one.attempt,
                "age": round(one.age, 3),
                "reason": one.reason,
            }
            for one in backend.dead_letters()
        ],
    }


def _print_section(title: str, columns: tuple[str, ...], lines: list[dict[str, Any]]) -> None:
    heading = title.replace("_", " ")
    if not lines:
        print(f"No {heading}.")
    else:
        print(f"{len(lines)} {heading.removesuffix('s') if len(lines) == 1 else heading}:")
        print_table(
            [column.replace("_", " ").upper() for column in columns],
            [[line[column] for column in columns] for line in lines],
        )
