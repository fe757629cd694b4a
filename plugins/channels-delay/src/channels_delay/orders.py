"""What a message on ``asgi.delay`` asks for, read and checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final

from django.conf import settings
from django.utils import timezone

from channels_core.exceptions import InvalidMessageError, InvalidNameError
from channels_core.headers import SENT_AT
from channels_core.layers import Delivery
from channels_core.message import normalise
from channels_core.names import check_channel
from channels_delay.stored import to_text

__all__ = ["DELAY_CHANNEL", "BadOrder", "Order", "as_stored_date", "read_order"]

DELAY_CHANNEL: Final = "asgi.delay"
"""Where messages to be delayed are sent: ``{"channel": name, "content": dict, "delay": milliseconds}``."""

_LONGEST: Final = 100 * 366 * 86_400_000
_SHAPE: Final = '{"channel": "<name>", "content": {...}, "delay": <milliseconds>}'


class BadOrder(ValueError):
    """A message on ``asgi.delay`` that asks for nothing that could be done; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A message to be sent later."""

    channel: str
    text: str
    """The content, as :func:`channels_delay.stored.to_text` writes it."""
    due: datetime
    fingerprint: str
    """The same whenever the same message on ``asgi.delay`` is read."""


def read_order(delivery: Delivery) -> Order:
    """The order in a message from ``asgi.delay``. The delay counts from the moment that message was sent.

    A delay of 0 or less means at once. Raises :class:`BadOrder` for anything of another shape than
    ``{"channel": name, "content": dict, "delay": milliseconds}``; further keys are ignored.
    """
    content = delivery.content
    missing = [key for key in ("channel", "content", "delay") if key not in content]
    if missing:
        raise BadOrder(f"it lacks {' and '.join(map(repr, missing))}: send {_SHAPE}")
    delay = content["delay"]
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not isfinite(delay):
        raise BadOrder(f"its delay is {delay!r:.80}: give a number of milliseconds")
    if delay > _LONGEST:
        raise BadOrder(f"its delay of {delay} ms is longer than 100 years: give a number of milliseconds")
    try:
        channel = check_channel(content["channel"])
        plain, _ = normalise(content["content"])
    except (InvalidNameError, InvalidMessageError) as error:
        raise BadOrder(str(error).rstrip(".")) from error
    text = to_text(plain)
    sent = _sent_at(delivery)
    seal = f"{delivery.headers.get(SENT_AT)} {delay} {channel} {text}"
    return Order(
        channel=channel,
        text=text,
        due=as_stored_date(sent + timedelta(milliseconds=max(0, delay))),
        fingerprint=hashlib.sha256(seal.encode()).hexdigest()[:40],
    )


def _sent_at(delivery: Delivery) -> datetime:
    """When it was sent, or now where the sender's clock is ahead of this one, or did not say."""
    now = datetime.now(UTC)
    stamp: Any = delivery.headers.get(SENT_AT)
    if not isinstance(stamp, int) or stamp <= 0 or stamp >= now.timestamp() * 1000:
        return now
    return datetime.fromtimestamp(stamp / 1000, UTC)


def as_stored_date(moment: datetime) -> datetime:
    """``moment``, which knows its zone, as Django's date columns take it."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)
