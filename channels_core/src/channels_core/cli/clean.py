"""``channels clean``: delete what nobody will read any more."""

from __future__ import annotations

import argparse
import sys

from channels_core.cli.host import Host, add_layer_option, at_least_one, layer_of

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the ``channels`` parser."""
    parser = commands.add_parser("clean", help="delete what nobody will read any more, beside traffic")
    add_layer_option(parser)
    parser.add_argument(
        "--limit", type=at_least_one, metavar="N", help="delete at most about N; all without it"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, host: Host) -> int:
    """Delete in small steps. Layers clean up by themselves as they work: this is for what piled up meanwhile."""
    layer = layer_of(arguments, host)
    count = layer.backend.clean(limit=arguments.limit)
    print(f"Layer {layer.alias!r}: {count} deleted.")
    if layer.backend.local_only:
        print(
            f"Layer {layer.alias!r} keeps its messages in the memory of one process: there is nothing to clean from"
            " outside.",
            file=sys.stderr,
        )
    return 0
