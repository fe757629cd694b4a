"""An engine that is away: one log line when it goes, one when it is back, and pauses that grow in between."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from time import monotonic

__all__ = ["Outage", "pauses"]


class Outage:
    """Whether the layer ``alias`` is away, as those last saw it who share this object. Thread-safe.

    ``meanwhile`` is a sentence for the log: what becomes of the work until the layer is back.
    """

    __slots__ = ("_alias", "_lock", "_logger", "_meanwhile", "_since")

    def __init__(self, alias: str, logger: logging.Logger, meanwhile: str) -> None:
        self._alias = alias
        self._logger = logger
        self._meanwhile = meanwhile
        self._lock = threading.Lock()
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether the layer is away."""
        return self._since is not None

    def begin(self, error: BaseException) -> None:
        """The layer did not answer. Logs the first time only."""
        with self._lock:
            if self._since is not None:
                return
            self._since = monotonic()
        self._logger.error(
            "The channel layer %r is away (%s: %s). %s",
            self._alias,
            type(error).__name__,
            error,
            self._meanwhile,
        )

    def end(self) -> None:
        """The layer answered."""
        if self._since is None:  # nearly always, and then without the lock
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            self._logger.warning(
                "The channel layer %r is back after %.1f s.", self._alias, monotonic() - since
            )


def pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait between tries: doubling from ``first`` up to ``longest``, each spread by half, without end."""
    pause = first
    while True:
        yield pause * random.uniform(0.75, 1.25)
        pause = min(pause * 2, longest)
