"""The grammar of channel and group names, and the making of unguessable ones.

* A normal channel: 1 to 99 of the ASCII letters, digits and ``.``, ``-``, ``_``.
* ``name?random``: a single-reader channel, whose order the layer keeps.
* ``prefix.PROCESS!local``: a process-specific channel. Readers ask for everything up to and including the
  ``!`` and so serve all of a process's locals at once.
* A group: the letters of a normal channel, no mark.

A reply channel is a capability: who knows its name can write to the socket behind it. Names made here
therefore carry 128 random bits, and :func:`redact` is what a log line may show of them.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import Final

from channels_core.exceptions import InvalidNameError

__all__ = [
    "MAX_NAME_LENGTH",
    "check_channel",
    "check_group",
    "check_receivable",
    "is_channel",
    "is_process_specific",
    "is_single_reader",
    "known_channels",
    "new_id",
    "prefix_of",
    "process_of",
    "redact",
]

MAX_NAME_LENGTH: Final = 99

_CHANNEL: Final = re.compile(r"[A-Za-z0-9._-]+(?:[?!][A-Za-z0-9._-]+)?\Z")
_RECEIVABLE: Final = re.compile(r"[A-Za-z0-9._-]+(?:\?[A-Za-z0-9._-]+|!)?\Z")
_GROUP: Final = re.compile(r"[A-Za-z0-9._-]+\Z")
_PROCESS: Final = re.compile(r"(?:.*\.)?([a-z2-7]{26})!")
_ID_LENGTH: Final = 26
_RULE: Final = f"Use 1 to {MAX_NAME_LENGTH} ASCII letters, digits, '.', '-' and '_'"

# Names are few and used often: remembering the good ones makes the check a set lookup, which senders make themselves
# before they call. The bound keeps a flood of one-off names (reply channels) from growing it; those are checked again
# after the clearing.
known_channels: set[str] = set()
_known_groups: set[str] = set()
_known_receivables: set[str] = set()
_MEMORY: Final = 4096


def check_channel(name: str) -> str:
    """Return ``name`` if a message can be sent to it, else raise :class:`InvalidNameError`."""
    if type(name) is str and name in known_channels:
        return name
    _check(
        name,
        _CHANNEL,
        "channel name",
        f"{_RULE}, with at most one '?' or '!' and something on both sides of it.",
    )
    name = str.__str__(
        name
    )  # a subclass, such as a member of an enum, may be another text when it is formatted
    if len(known_channels) >= _MEMORY:
        known_channels.clear()
    known_channels.add(name)
    return name


def is_channel(name: object) -> bool:
    """Whether a message can be sent to ``name``: for what came from elsewhere and need not be a name."""
    try:
        check_channel(name)  # type: ignore[arg-type]  # it finds out
    except InvalidNameError:
        return False
    return True


def check_group(name: str) -> str:
    """Return ``name`` if it can name a group, else raise :class:`InvalidNameError`."""
    if type(name) is str and name in _known_groups:
        return name
    _check(name, _GROUP, "group name", f"{_RULE}; a group name has no '?' or '!'.")
    name = str.__str__(name)
    if len(_known_groups) >= _MEMORY:
        _known_groups.clear()
    _known_groups.add(name)
    return name


def check_receivable(name: str) -> str:
    """Return ``name`` if it can be received from: a full name, or a process prefix ending in ``!``.

    Raises :class:`InvalidNameError` otherwise; a full process-specific name is refused, since its messages
    are read under the prefix.
    """
    if isinstance(name, str):
        if name in _known_receivables:
            return name
        if "!" in name[:-1]:
            raise InvalidNameError(
                f"Cannot receive from {redact(name)!r}: a process-specific channel is read by its prefix."
                f" Ask for {name[: name.index('!') + 1]!r} and look at the full name that comes back."
            )
    _check(name, _RECEIVABLE, "name to receive from", f"{_RULE}, then nothing, '!' or '?something'.")
    if len(_known_receivables) >= _MEMORY:
        _known_receivables.clear()
    _known_receivables.add(name)
    return name


def _check(name: object, pattern: re.Pattern[str], kind: str, rule: str) -> None:
    if not isinstance(name, str):
        raise InvalidNameError(f"A {kind} is text, not {type(name).__name__}: {name!r:.80}. {rule}")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidNameError(
            f"The {kind} {name[:40]!r}... has {len(name)} characters; {MAX_NAME_LENGTH} are allowed. {rule}"
        )
    if not pattern.match(name):
        raise InvalidNameError(f"{name!r} is not a {kind}. {rule}")


def new_id() -> str:
    """26 characters of ``a-z2-7`` carrying 128 random bits: a process id, or the local part of a name."""
    return base64.b32encode(secrets.token_bytes(16))[:_ID_LENGTH].decode("ascii").lower()


def is_process_specific(name: str) -> bool:
    """Whether ``name`` carries the ``!`` mark."""
    return "!" in name


def is_single_reader(name: str) -> bool:
    """Whether ``name`` carries the ``?`` mark."""
    return "?" in name


def prefix_of(name: str) -> str:
    """What messages to ``name`` are read and counted under: up to and including ``!``, else the whole name."""
    mark = name.find("!")
    return name if mark < 0 else name[: mark + 1]


def process_of(name: str) -> str | None:
    """The id of the process that reads ``prefix.PROCESS!`` or ``prefix.PROCESS!local``, else ``None``.

    A ``!`` name whose last dotted part is not an id made by :func:`new_id` belongs to no process; it is a
    plain inbox that is never "gone".
    """
    found = _PROCESS.match(name)
    return found[1] if found else None


def redact(name: str) -> str:
    """``name`` as a log line may show it: what follows ``!`` or ``?`` is shortened to four characters."""
    for mark in "!?":
        head, found, tail = name.partition(mark)
        if found:
            return f"{head}{mark}{tail[:4]}..." if len(tail) > 4 else name
    return name
