"""``channels dead``: look at messages that were given up, put them back on their channels, or delete them."""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from pprint import pformat
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from channels_core.cli.host import Host, add_layer_option, at_least_one, layer_of, print_table
from channels_core.exceptions import ConfigurationError
from channels_core.headers import CREDIT
from channels_core.names import is_channel, redact

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.layers import DeadLetter, LayerBackend

__all__ = ["add_parser"]

_COLUMNS: Final = ("id", "channel", "attempt", "age", "reason")
_PAGE: Final = 500


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command and its own to the ``channels`` parser."""
    parser = commands.add_parser("dead", help="list, show, replay or drop dead letters")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list dead letters, the oldest first")
    _add_choice(listing, "show at most N (%(default)s)", limit=100)
    listing.add_argument("--json", action="store_true", help="print a list of objects, for programs")
    listing.set_defaults(run=_list)

    showing = actions.add_parser("show", help="show one whole, its content and headers included")
    showing.add_argument("id", metavar="ID", help="as listed")
    add_layer_option(showing)
    showing.add_argument("--json", action="store_true", help="print one object, for programs")
    showing.set_defaults(run=_show)

    for name, run, does in (
        ("replay", _replay, "put them back on their channels, as new messages"),
        ("drop", _drop, "delete them"),
    ):
        changing = actions.add_parser(name, help=does)
        changing.add_argument("ids", nargs="*", metavar="ID", help="as listed")
        changing.add_argument("--all", action="store_true", help="all there are, or all of --channel")
        _add_choice(changing, "with --all: the oldest N only", limit=None)
        changing.set_defaults(run=run)


def _add_choice(parser: argparse.ArgumentParser, help_of_limit: str, *, limit: int | None) -> None:
    add_layer_option(parser)
    parser.add_argument("--channel", metavar="NAME", help="only those of this channel")
    parser.add_argument("--limit", type=at_least_one, default=limit, metavar="N", help=help_of_limit)


def _list(arguments: argparse.Namespace, host: Host) -> int:
    layer = layer_of(arguments, host)
    lines = [
        {
            "id": one.id,
            "channel": redact(one.channel),
            "attempt": one.attempt,
            "age": round(one.age, 3),
            "reason": one.reason,
        }
        for one in layer.backend.dead_letters(_channel_of(arguments), limit=arguments.limit)
    ]
    if arguments.json:
        print(json.dumps(lines, indent=2))
    elif lines:
        print_table(
            [name.upper() for name in _COLUMNS], [[line[name] for name in _COLUMNS] for line in lines]
        )
    else:
        print("No dead letters.")
    _warn_of_memory(layer)
    return 0


def _show(arguments: argparse.Namespace, host: Host) -> int:
    layer = layer_of(arguments, host)
    letter = _find(layer.backend, arguments.id)
    if letter is None:
        _warn_of_memory(layer)
        raise ConfigurationError(
            f"Layer {layer.alias!r} has no dead letter {arguments.id!r}: it was replayed or dropped, or never was. See"
            " 'channels dead list'."
        )
    content = dict(letter.content)
    if isinstance(content.get("reply_channel"), str):
        content["reply_channel"] = redact(content["reply_channel"])
    headers = {
        name: redact(value) if name == CREDIT and isinstance(value, str) else value
        for name, value in letter.headers.items()
    }
    fields = {
        "id": letter.id,
        "channel": redact(letter.channel),
        "attempt": letter.attempt,
        "age": round(letter.age, 3),
        "reason": letter.reason,
    }
    if arguments.json:
        print(json.dumps({**fields, "headers": headers, "content": _plain(content)}, indent=2))
    else:
        print_table(("FIELD", "VALUE"), [(name, str(value)) for name, value in fields.items()])
        # Python's notation, as a consumer sees it; what is not printable is escaped.
        print(f"\nHEADERS\n{pformat(headers, sort_dicts=False)}")
        print(f"\nCONTENT\n{pformat(content, width=100, sort_dicts=False)}")
    return 0


def _replay(arguments: argparse.Namespace, host: Host) -> int:
    layer = layer_of(arguments, host)
    return _change(arguments, layer, layer.backend.replay_dead, "put back")


def _drop(arguments: argparse.Namespace, host: Host) -> int:
    layer = layer_of(arguments, host)
    return _change(arguments, layer, layer.backend.drop_dead, "dropped")


def _change(
    arguments: argparse.Namespace,
    layer: ChannelLayer,
    change: Callable[[Sequence[str]], int],
    done: str,
) -> int:
    """1 where a named one is not there, which may be because somebody else was faster."""
    ids: list[str] = list(dict.fromkeys(arguments.ids))
    if bool(ids) == arguments.all:
        raise ConfigurationError(
            "Name the dead letters by the ids that 'channels dead list' shows, or say --all; not both, and not neither."
        )
    if ids:
        if arguments.channel is not None or arguments.limit is not None:
            raise ConfigurationError(
                "--channel and --limit choose among all: say --all with them, and no ids."
            )
        count = change(ids)
    else:
        count = sum(change(page) for page in _pages(layer.backend, arguments))
    print(f"{count} dead {'letter' if count == 1 else 'letters'} {done}.")
    _warn_of_memory(layer)
    if count < len(ids):
        print(f"{len(ids) - count} of {len(ids)} are not there.", file=sys.stderr)
        return 1
    return 0


def _pages(backend: LayerBackend, arguments: argparse.Namespace) -> Iterator[list[str]]:
    """The ids to change, in pages; each page is gone when the next is asked for. What dies meanwhile is left alone."""
    channel, left = _channel_of(arguments), arguments.limit
    begun = monotonic()
    seen: set[str] = set()
    while left is None or left > 0:
        letters = backend.dead_letters(channel, limit=_PAGE if left is None else min(_PAGE, left))
        since = monotonic() - begun
        ids = [letter.id for letter in letters if letter.age >= since and letter.id not in seen]
        if not ids:
            return
        seen.update(ids)
        if left is not None:
            left -= len(ids)
        yield ids


def _find(backend: LayerBackend, letter_id: str) -> DeadLetter | None:
    limit = _PAGE
    while True:
        letters = backend.dead_letters(limit=limit)
        for letter in letters:
            if letter.id == letter_id:
                return letter
        if len(letters) < limit:
            return None
        limit *= 10


def _channel_of(arguments: argparse.Namespace) -> str | None:
    channel: str | None = arguments.channel
    if channel is not None and not is_channel(channel):
        raise ConfigurationError(
            f"--channel {channel!r} is not a channel's name. Write one that 'channels dead list' shows."
        )
    return channel


def _plain(value: Any) -> Any:
    """As JSON can hold it: bytes become an object with their base64 text."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _warn_of_memory(layer: ChannelLayer) -> None:
    if layer.backend.local_only:
        print(
            f"Layer {layer.alias!r} keeps its messages in the memory of one process, and these are those of this one.",
            file=sys.stderr,
        )
