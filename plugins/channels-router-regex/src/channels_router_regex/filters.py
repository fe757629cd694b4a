"""Filters: the regular expressions of a route, and how a chain of them is asked about a message's content."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels_core.exceptions import InvalidRouteError

__all__ = ["Extract", "Filter", "compile_filters", "make_extract"]

Extract = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Takes a message's content; returns the keyword arguments for the consumer, or ``None`` for no match."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """One keyword of a route: the content's value under ``key`` has to match ``pattern`` from its start."""

    key: str
    pattern: re.Pattern[str]


def compile_filters(label: str, patterns: Mapping[str, object]) -> tuple[Filter, ...]:
    """The filters for what a route was given as keywords; ``label`` names the route in errors.

    Raises :class:`InvalidRouteError` for what is no regular expression over text, and for unnamed groups.
    """
    return tuple(Filter(key=key, pattern=_compile(label, key, given)) for key, given in patterns.items())


def _compile(label: str, key: str, given: object) -> re.Pattern[str]:
    where = f"{label}: the filter {key}={_shown(given)}"
    try:
        pattern = _text_pattern(given)
    except UnicodeDecodeError:
        raise InvalidRouteError(
            f"{where} is bytes that are not ASCII. Message values are compared as text: write the pattern as text."
        ) from None
    except (re.error, ValueError, OverflowError, RecursionError) as exc:
        raise InvalidRouteError(f"{where} is no regular expression: {exc}. Correct it.") from exc
    if pattern is None:
        raise InvalidRouteError(
            f"{where} is {type(given).__name__}. A filter is a regular expression, as text, bytes or"
            " re.compile(...), for the message's value under that key."
        )
    if pattern.groups != len(pattern.groupindex):
        raise InvalidRouteError(
            f"{where} has a group without a name, and consumers take what is captured by name only. Write"
            " (?P<name>...) to capture, or (?:...) to group."
        )
    return pattern


def _text_pattern(given: object) -> re.Pattern[str] | None:
    if isinstance(given, re.Pattern):
        if isinstance(given.pattern, str):
            return given
        # A bytes pattern means ASCII letters by \w, so its text twin is told to.
        return re.compile(given.pattern.decode("ascii"), given.flags | re.ASCII)
    if isinstance(given, bytes):
        return re.compile(given.decode("ascii"))
    return re.compile(given) if isinstance(given, str) else None


def _shown(given: object) -> str:
    return repr(given.pattern if isinstance(given, re.Pattern) else given)


def make_extract(levels: Sequence[Sequence[Filter]]) -> Extract | None:
    """One function for the filters of a route and of the includes around it, outermost first.

    Each level sees what the levels before it left of a value: the text after their match. Named groups of all levels
    end up in one dict, where an inner level's win. Returns ``None`` where there is no filter at all.
    """
    order = [found for level in levels for found in level]
    keys = [found.key for found in order]
    steps = [
        (
            found.key,
            found.pattern.match,
            bool(found.pattern.groups),
            key in keys[:index],
            key in keys[index + 1 :],
        )
        for index, (key, found) in enumerate(zip(keys, order, strict=True))
    ]
    if not steps:
        return None

    def extract(content: dict[str, Any]) -> dict[str, Any] | None:
        kwargs: dict[str, Any] = {}
        rest: dict[str, str] = {}
        for key, match, captures, is_stripped, is_seen_again in steps:
            value = rest[key] if is_stripped else content.get(key)
            if not isinstance(value, str):
                if not isinstance(value, bytes):
                    return None
                try:
                    value = value.decode("ascii")
                except UnicodeDecodeError:
                    return None
            found = match(value)
            if found is None:
                return None
            if captures:
                kwargs.update(found.groupdict())
            if is_seen_again:
                rest[key] = value[found.end() :]
        return kwargs

    return extract
