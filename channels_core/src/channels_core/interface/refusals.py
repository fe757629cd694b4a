"""The interface's own answers to clients: what it says where no consumer answers."""

from __future__ import annotations

from typing import Final

__all__ = ["refusal"]

_RETRY_AFTER: Final = b"5"
"""Seconds; a restart of the workers is usually over by then."""


def refusal(status: int, reason: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body that say ``reason`` as plain text; with 503 also when to come back."""
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 503:
        headers.append((b"retry-after", _RETRY_AFTER))
    return headers, body
