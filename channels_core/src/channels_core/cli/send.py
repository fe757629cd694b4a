"""``channels send``: put one message on a channel, or send it to a group."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from channels_core.cli.host import Host, add_layer_option, layer_of
from channels_core.exceptions import ConfigurationError, InvalidMessageError

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the ``channels`` parser."""
    parser = commands.add_parser("send", help="send a message to a channel or a group")
    add_layer_option(parser)
    parser.add_argument("--group", action="store_true", help="NAME is a group")
    parser.add_argument("name", metavar="NAME", help="the channel's or group's name")
    parser.add_argument("content", metavar="JSON", help="the message, a JSON object; - reads standard input")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, host: Host) -> int:
    """Send at once. A full channel is an error, as it is for every sender."""
    content = _parsed(_standard_input() if arguments.content == "-" else arguments.content)
    layer = layer_of(arguments, host)
    if layer.backend.local_only:
        raise ConfigurationError(
            f"Layer {layer.alias!r} keeps its messages in the memory of one process ({type(layer.backend).__name__}):"
            " what this command sends would end with it. Choose a BACKEND that is shared between processes."
        )
    if arguments.group:
        layer.send_group(arguments.name, content)
    else:
        layer.send(arguments.name, content)
    return 0


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as exc:
        raise InvalidMessageError(f"Standard input is no text: {exc}. Pipe in JSON, in UTF-8.") from exc


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidMessageError(
            f'The message {text!r:.80} is not JSON: {exc}. Write an object, such as \'{{"text": "hello"}}\'.'
        ) from exc
    if not isinstance(content, dict):
        raise InvalidMessageError(
            f"The message {text!r:.80} is not a JSON object, and a message is one: write"
            ' \'{"text": "hello"}\', for example.'
        )
    return content
