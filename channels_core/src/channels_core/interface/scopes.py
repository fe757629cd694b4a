"""What the messages take from an ASGI scope, brought into one form whatever the server puts there."""

from __future__ import annotations

from typing import Any

from channels_core.interface.asgi import Scope
from channels_core.interface.headers import BadHeaders

__all__ = ["address", "path_of"]


def address(pair: Any) -> list[Any] | None:
    """``[host, port]`` with the port as a number, or ``None`` (a UNIX socket has no address)."""
    try:
        host, port = pair
        return [_text(str(host)), 0 if port is None else int(port)]
    except (TypeError, ValueError):
        return None


def path_of(scope: Scope) -> str:
    """The percent-decoded path. Raises ``BadHeaders`` (400) where it came with raw non-ASCII bytes."""
    raw = scope.get("raw_path")
    if raw and not bytes(raw).isascii():
        raise BadHeaders("The path holds bytes that are not percent-encoded.")
    return _text(str(scope["path"]))


def _text(text: str) -> str:
    """Without lone surrogates, which no layer carries."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
