"""A layer that is away: one log line when it goes, one when it is back, and pauses that grow in between."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from time import monotonic

__all__ = ["Outage", "pauses"]

logger = logging.getLogger("channels.interface")


class Outage:
    """Whether the layer is away, as the interface last saw it."""

    __slots__ = ("_alias", "_since")

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._since: float | None = None

    def begin(self, error: BaseException) -> None:
        """The layer did not answer. Logs the first time only."""
        if self._since is None:
            self._since = monotonic()
            logger.error(
                "The channel layer %r is away (%s: %s). Sockets stay open, their frames wait, and requests are answered"
                " 503 until it is back.",
                self._alias,
                type(error).__name__,
                error,
            )

    def end(self) -> None:
        """The layer answered."""
        if self._since is not None:
            away, self._since = monotonic() - self._since, None
            logger.warning("The channel layer %r is back after %.1f s.", self._alias, away)


def pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait between tries: doubling from ``first`` up to ``longest``, each spread by half, without end."""
    pause = first
    while True:
        yield pause * random.uniform(0.75, 1.25)
        pause = min(pause * 2, longest)
