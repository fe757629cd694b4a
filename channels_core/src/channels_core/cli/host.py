"""What the ``channels`` command needs from whoever runs it: the console script, or Django's ``manage.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER
from channels_core.exceptions import ConfigurationError

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer, ChannelLayers
    from channels_core.worker import WorkerEvents

__all__ = ["Host", "add_layer_option", "at_least_one", "layer_of", "print_table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """The surroundings of one run of the command."""

    layers: ChannelLayers
    """Already configured."""
    command: Sequence[str]
    """What, with a sub-command appended, runs this command again with the same configuration."""
    events: WorkerEvents | None = None
    """What workers tell about their consumers; Django's signals, under ``manage.py``."""


def add_layer_option(parser: argparse.ArgumentParser) -> None:
    """Let people choose the layer."""
    parser.add_argument(
        "--layer", default=DEFAULT_CHANNEL_LAYER, metavar="ALIAS", help="the channel layer (%(default)s)"
    )


def at_least_one(text: str) -> int:
    """The type of options that count threads and processes, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def layer_of(arguments: argparse.Namespace, host: Host) -> ChannelLayer:
    """The chosen layer. Raises :class:`~channels_core.exceptions.ConfigurationError`, also for an unknown alias."""
    try:
        return host.layers[arguments.layer]
    except KeyError as exc:
        raise ConfigurationError(exc.args[0]) from exc


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns, numbers to the right; the last column may be of any length."""
    cells = [[_shown(value) for value in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(headings), *cells]) for index in range(len(headings))]
    numeric = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(headings))]
    for row in [list(headings), *cells]:
        parts = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ]
        sys.stdout.write("  ".join(parts).rstrip() + "\n")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    # What is not printable could steer the reader's terminal: a reason may quote what a client sent.
    text = "-" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
