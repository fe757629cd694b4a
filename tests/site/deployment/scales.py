"""How much of everything: a quick scale for the suite, and the long one of ``make soak``."""

from dataclasses import dataclass, replace

import pytest

__all__ = ["QUICK", "SOAK", "Scale", "deliveries", "scales", "scales_and_servers"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a proof."""

    clients: int
    interfaces: int
    workers: int
    rounds: int
    """How many times every worker is replaced, or killed."""
    cycles: int
    """Connects and disconnects."""
    interval: float
    """Seconds between two frames of a client."""
    room_every: int
    """Frames between two broadcasts of a speaker."""
    speakers: int
    server: str = "uvicorn"
    """The ASGI server that holds the sockets."""


QUICK = Scale(
    clients=60, interfaces=1, workers=2, rounds=2, cycles=600, interval=0.2, room_every=3, speakers=4
)
SOAK = Scale(
    clients=500, interfaces=2, workers=3, rounds=10, cycles=10_000, interval=0.8, room_every=4, speakers=4
)


_LONG = [pytest.mark.soak, pytest.mark.timeout(900)]
_SCALES = [pytest.param(QUICK, id="quick"), pytest.param(SOAK, id="soak", marks=_LONG)]

scales = pytest.mark.parametrize("scale", _SCALES)
"""Runs a proof on both; the long one only when asked for."""

scales_and_servers = pytest.mark.parametrize(
    "scale",
    [
        *_SCALES,
        *(
            pytest.param(replace(QUICK, server=server), id=server, marks=_LONG)
            for server in ("daphne", "granian", "hypercorn")
        ),
    ],
)
"""The same, and when asked for it under the other ASGI servers too."""

deliveries = pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
