"""The records that cross a process border or reach the report.

The load generator, the server and the layer scripts run in processes of their own and answer with one line of JSON;
these are the types of those lines.  Times are seconds, rates are per second, shares are between 0 and 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "BroadcastLoad",
    "ConnectLoad",
    "EchoLoad",
    "EngineLayerLoad",
    "ExpiredLoad",
    "HttpLoad",
    "IdleLoad",
    "LayerLoad",
    "Percentiles",
    "ServerInfo",
]


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What a server process says about itself once it answers: read from the running objects, not from settings."""

    port: int
    python: str
    server: str
    loop: str
    http: str
    websocket: str
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """The spread of a set of latencies, in seconds."""

    p50: float
    p90: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Percentiles":
        """Nearest-rank percentiles; raises ValueError when there are no values."""
        ranked = sorted(values)
        if not ranked:
            raise ValueError("No latencies to rank: the load made no round trip")
        return cls(
            p50=_nearest_rank(ranked, 0.50),
            p90=_nearest_rank(ranked, 0.90),
            p99=_nearest_rank(ranked, 0.99),
            worst=ranked[-1],
        )


def _nearest_rank(ranked: Sequence[float], share: float) -> float:
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


@dataclass(frozen=True, kw_only=True)
class EchoLoad:
    """Closed loop (each connection waits for its answer), then an open loop at half of the rate reached.

    `round_trips` counts all echoes, those of the warm-up too.
    """

    round_trips: int
    rate: float
    latency: Percentiles
    half_load_rate: float
    half_load_latency: Percentiles
    client_cpu: float


@dataclass(frozen=True, kw_only=True)
class BroadcastLoad:
    """Seconds from the sending of one frame until the last of all members has it, one figure for each round."""

    to_last: tuple[float, ...]
    client_cpu: float


@dataclass(frozen=True, kw_only=True)
class ConnectLoad:
    """Sockets opened side by side: TCP connect, WebSocket handshake, answer read."""

    rate: float
    latency: Percentiles
    client_cpu: float


@dataclass(frozen=True, kw_only=True)
class IdleLoad:
    """Sockets that are open and silent; sent when all of them are."""

    open: int


@dataclass(frozen=True, kw_only=True)
class HttpLoad:
    """GET requests on kept connections, closed loop; `round_trips` counts those of the warm-up too."""

    round_trips: int
    rate: float
    latency: Percentiles
    client_cpu: float


@dataclass(frozen=True, kw_only=True)
class LayerLoad:
    """Messages sent to and taken from a channel layer in one process, one at a time."""

    pairs: float


@dataclass(frozen=True, kw_only=True)
class EngineLayerLoad:
    """A layer between two processes: request from one, answer from the other, alone and with many under way."""

    pairs: float
    """Send and receive in one process, one after the other."""
    across: float
    """Sends in one process, one after the other, and receives in another."""
    alone: tuple[float, ...]
    """What each round trip took; likewise ``in_flight``."""
    in_flight: tuple[float, ...]
    in_flight_rate: float


@dataclass(frozen=True, kw_only=True)
class ExpiredLoad:
    """A layer that holds a million expired messages, ``"default"``, beside one that holds none, ``"empty"``."""

    rates: dict[str, dict[str, tuple[float, ...]]]
    """By the size of a batch, then by layer: messages sent and received, a figure for each turn."""
    waits: tuple[float, ...]
    """What each send with its receive took while another process cleaned."""
    cleaned: float
    """Messages that it deleted meanwhile, a second."""
