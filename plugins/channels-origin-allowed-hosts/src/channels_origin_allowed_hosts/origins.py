"""Which origins ALLOWED_HOSTS allows.

An ``Origin`` header is compared by its grammar (RFC 6454, section 7), never by prefix or by a forgiving URL parser:
what a browser would not have written is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from channels_core.exceptions import ConfigurationError
from channels_core.origins import OriginValidator

__all__ = ["AllowedHosts", "host_of", "is_named_by_settings"]

_ORIGIN: Final = re.compile(
    r"(?i:https?)://"
    r"(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.?|\[(?P<address>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_LONGEST: Final = len("https://") + 254 + len(":65535")
_LOCALHOSTS: Final = (".localhost", "127.0.0.1", "[::1]")


def host_of(origin: str) -> str | None:
    """The host of an origin, lower-case and without a trailing dot, or ``None`` where it is no web page's origin.

    Such an origin is ``http`` or ``https``, ``://``, a host name in ASCII (punycode), an IPv4 address or an IPv6
    address in brackets, and maybe a port from 1 to 65535; nothing before, between or after.
    """
    if len(origin) > _LONGEST:
        return None
    found = _ORIGIN.fullmatch(origin)
    if found is None or int(found["port"] or 1) > 65_535:
        return None
    if found["address"] is not None:
        try:
            ipaddress.IPv6Address(found["address"])
        except ValueError:
            return None
    return found["host"].lower().removesuffix(".")


class AllowedHosts(OriginValidator):
    """Allows the origins whose host Django's ``ALLOWED_HOSTS`` names, by Django's own rules for its entries.

    ``example.com`` is that host, ``.example.com`` also all its subdomains, ``*`` every host; letter case makes no
    difference. With ``DEBUG`` and no entries it is ``localhost`` with its subdomains, ``127.0.0.1`` and ``[::1]``.
    Entries have no ports, so every port of an allowed host is allowed. ``ALLOWED_HOSTS`` is read at every question.

    Needs Django's settings and nothing else of the project. Raises
    :class:`~channels_core.exceptions.ConfigurationError` where there are none, or ``ALLOWED_HOSTS`` is text.
    """

    def __init__(self) -> None:
        _allowed_hosts()

    def is_allowed(self, origin: str, host: str | None = None) -> bool:
        """Whether ``ALLOWED_HOSTS`` names the host of ``origin``; ``host`` makes no difference."""
        return is_named_by_settings(origin)


def is_named_by_settings(origin: str) -> bool:
    """Whether ``origin`` is that of a host which ``ALLOWED_HOSTS`` names now."""
    host = host_of(origin)
    return host is not None and any(_is_named(host, entry) for entry in _allowed_hosts())


def _is_named(host: str, entry: object) -> bool:
    if not isinstance(entry, str):
        return False
    entry = entry.lower()
    if entry.startswith("."):
        return len(entry) > 1 and (host == entry[1:] or host.endswith(entry))
    return entry in ("*", host)


def _allowed_hosts() -> Iterable[object]:
    try:
        entries: object = settings.ALLOWED_HOSTS
        debug: bool = settings.DEBUG
    except ImproperlyConfigured as exc:
        raise ConfigurationError(
            "The origin validator 'allowed-hosts' reads Django's ALLOWED_HOSTS, and there are no settings"
            f" ({' '.join(str(exc).split()).rstrip('.')}). Set DJANGO_SETTINGS_MODULE, or choose another validator, or"
            " None, as ORIGIN_VALIDATOR."
        ) from exc
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise ConfigurationError(
            f"ALLOWED_HOSTS is {entries!r:.80} ({type(entries).__name__}): make it a list of hosts, such as"
            " ['example.com'], since every letter of a text would count as an entry."
        )
    found = list(entries)
    return _LOCALHOSTS if debug and not found else found
