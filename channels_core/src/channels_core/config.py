"""The one configuration record. Without Django it is written by hand; channels_django builds it from settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Literal

from channels_core.exceptions import ConfigurationError

__all__ = ["MAY_BE_ZERO", "Config", "InterfaceConfig", "LayerConfig", "WorkerConfig"]

MAY_BE_ZERO: Final = frozenset(
    {"websocket_send_timeout", "worker_grace", "message_retries", "send_retry_time", "prefetch_time"}
)
"""The numbers among the options for which 0 has a meaning; all others are above it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerConfig:
    """One entry of ``CHANNEL_LAYERS``."""

    backend: str
    """A registered name ("memory") or a dotted path to a backend class."""
    routing: Any = None
    """What the router takes; for the regex router a list, a dict, or a dotted path to one."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the backend."""
    test_config: Mapping[str, Any] | None = None
    """The same, for tests."""
    router: str = "regex"
    """A registered name or a dotted path to a router factory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterfaceConfig:
    """Limits and timeouts of the interface application. Times are seconds, sizes bytes.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for a number out of range, naming it.
    """

    layer: str = "default"
    http_timeout: float = 120.0
    """Until a response begins; then 503."""
    websocket_handshake_timeout: float = 5.0
    """Until a consumer accepts or refuses; then 503."""
    websocket_send_timeout: float = 30.0
    """How long a client's frame may wait for room on the layer, its connection slowed; then close 1013. 0: at once."""
    websocket_max_age: float | None = None
    """Age at which a socket is closed with 1000."""
    websocket_protocols: tuple[str, ...] = ()
    """Subprotocols that the server speaks; the client's first choice among them is taken."""
    credit_window: int = 1
    """Messages of one connection that may be under way at once. 1 keeps frames in order."""
    credit_timeout: float = 60.0
    """After which a message whose worker never answered is counted as lost and the connection goes on."""
    max_frame_size: int = 2**20
    """A larger frame from a client closes its socket with 1009."""
    max_body_size: int | None = None
    """A larger request body is refused with 413."""
    body_inline: int = 64 * 2**10
    """Bodies up to this size travel in the request message; larger ones in chunks on a channel of their own."""
    body_chunk: int = 256 * 2**10
    body_window: int = 4
    """Body chunks sent ahead of the consumer."""
    response_window: int = 4
    """Chunks of 256 KiB of a response that a worker may send ahead of the client; 16 small parts count as one."""
    outbound_bytes: int = 4 * 2**20
    """Bytes waiting for one slow client (at least four times the layer's message limit); beyond: close 1013."""
    outbound_timeout: float = 30.0
    """A client that takes nothing for this long is closed with 1013."""
    max_headers: int = 100
    max_header_bytes: int = 64 * 2**10
    http_disconnect: Literal["unfinished", "always"] = "unfinished"
    """When http.disconnect is sent: for requests that were broken off, or after every request."""
    worker_grace: float = 10.0
    """How long the layer may be without a live worker (a redeploy) before requests are answered 503 at once."""
    shutdown_timeout: float = 10.0
    origin_validator: str | None = "allowed-hosts"
    """A registered name or a dotted path; ``None`` lets every origin through."""

    def __post_init__(self) -> None:
        _check_numbers("interface", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """How workers run consumers. Times are seconds.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for a number out of range, naming it.
    """

    threads: int = 1
    async_slots: int = 100
    """Consumers of async-only channels that may run at once."""
    event_loop: str = "auto"
    """What ``async def`` consumers run on: "auto" (uvloop where it is installed), "asyncio", or the dotted path of a
    callable that returns a new loop."""
    prefetch_time: float = 0.002
    """A thread takes no more messages than it can begin within this time, by its recent handler times."""
    release_after: float = 0.05
    """When a handler takes longer, what was prefetched behind it is given back."""
    message_retries: int = 10
    """ConsumeLater is honoured so many times for one message."""
    send_retry_time: float = 2.0
    """How long a consumer's refused sends are tried again before they are given up."""
    send_retry_interval: float = 0.05
    """The first pause between tries; it doubles up to half a second."""
    stop_timeout: float = 30.0
    """How long a graceful stop waits for consumers in hand."""
    middleware: tuple[str, ...] = ()
    """Consumer middleware, outermost first."""

    def __post_init__(self) -> None:
        _check_numbers("worker", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that is configured. Usage without Django::

        # chat_config.py, run by: channels worker --config chat_config:config
        config = Config(layers={"default": LayerConfig(backend="memory", routing="chat_routing.routes")})

    Raises :class:`~channels_core.exceptions.ConfigurationError` for what is no record of its kind, naming it.
    """

    layers: Mapping[str, LayerConfig] = field(default_factory=dict)
    blocked_plugins: tuple[str, ...] = ()
    """Plugins left out, by entry-point name or distribution name."""
    session_store: str = "django"
    interface: InterfaceConfig = field(default_factory=InterfaceConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)

    def __post_init__(self) -> None:
        for alias, layer in self.layers.items():
            if not isinstance(layer, LayerConfig):
                raise ConfigurationError(
                    f"Config(layers={{{alias!r}: ...}}) holds {type(layer).__name__}: make it LayerConfig(backend=...)."
                )
        for name, kind in (("interface", InterfaceConfig), ("worker", WorkerConfig)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigurationError(
                    f"Config({name}=...) holds {type(value).__name__}: make it {kind.__name__}(...)."
                )


def _check_numbers(section: str, record: InterfaceConfig | WorkerConfig) -> None:
    for name in record.__dataclass_fields__:
        value = getattr(record, name)
        default = record.__dataclass_fields__[name].default
        if isinstance(default, int | float) or (
            value is not None and name in ("websocket_max_age", "max_body_size")
        ):
            kinds = int | float if isinstance(default, float) or name == "websocket_max_age" else int
            low_enough = value == 0 and name in MAY_BE_ZERO
            if isinstance(value, bool) or not isinstance(value, kinds) or not (0 < value < inf or low_enough):
                kind = "a whole number" if kinds is int else "a number"
                bound = "of at least 0" if name in MAY_BE_ZERO else "above 0"
                raise ConfigurationError(
                    f"Option {name} of the {section} is {value!r}: it must be {kind} {bound}."
                )
