"""What users hold of a layer, and the handler that makes layers from configuration.

:class:`ChannelLayer` is one concrete class over every backend: it checks names and values, turns outcomes into
exceptions, and offers each operation synchronously and, with the prefix ``a``, asynchronously.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from channels_core import exceptions
from channels_core.config import Config, LayerConfig
from channels_core.credit import credit_of, credit_send
from channels_core.exceptions import (
    BlockingCallError,
    ConfigurationError,
    InvalidChannelLayerError,
    InvalidNameError,
    LayerUnavailable,
    SendUncertain,
)
from channels_core.headers import SENT_AT
from channels_core.layer_views import in_running_loop
from channels_core.layers import ChannelFigures, Delivery, LayerBackend, Outcome, Send, Settlement, Verdict
from channels_core.message import check_headers, normalise
from channels_core.names import check_channel, check_group, check_receivable, known_channels, redact
from channels_core.routing import Router
from channels_core.sessions import SessionStore

if TYPE_CHECKING:
    from channels_core.plugins import PluginManager

__all__ = ["DEFAULT_CHANNEL_LAYER", "ChannelLayer", "ChannelLayers", "channel_layers"]

DEFAULT_CHANNEL_LAYER: Final = "default"
CONFIG_VARIABLE: Final = "CHANNELS_CONFIG"

_SENT: Final = Outcome.SENT  # looking a member up in its enum costs as much as making a Send

Received = tuple[str, dict[str, Any]] | tuple[None, None]


class ChannelLayer:
    """A channel layer under an alias; get it from ``channel_layers[alias]``.

    Attributes: ``alias``, ``backend`` (the plugin's :class:`~channels_core.layers.LayerBackend`), ``router``.
    Synchronous methods may be called from any thread. One that would wait raises
    :class:`~channels_core.exceptions.BlockingCallError` in a thread whose event loop runs, and names its twin.
    """

    ChannelFull = exceptions.ChannelFull
    MessageTooLarge = exceptions.MessageTooLarge
    extensions: tuple[str, ...] = ("groups", "flush", "statistics", "async")

    def __init__(
        self,
        backend: LayerBackend,
        *,
        alias: str = DEFAULT_CHANNEL_LAYER,
        routing: Any = None,
        make_router: Callable[[Any], Router] | None = None,
    ) -> None:
        self.backend = backend
        self.alias = alias
        self.routing = routing
        self._make_router = make_router
        self._router: Router | None = None
        self._lock = threading.Lock()
        self._fanned_out: dict[str, deque[tuple[str, dict[str, Any]]]] = {}
        self._returning: set[asyncio.Task[None]] = set()
        self.counters = backend.counters
        backend.on_expired = self._return_credit

    @property
    def router(self) -> Router:
        """The router, made from ``ROUTING`` at first access: only workers ask for it.

        Raises :class:`~channels_core.exceptions.ConfigurationError` where there is no routing, or a bad one.
        """
        if self._router is None:
            with self._lock:
                if self._router is None:
                    self._router = self._resolve_router()
        return self._router

    @router.setter
    def router(self, router: Router) -> None:
        self._router = router

    def _resolve_router(self) -> Router:
        if self._make_router is None or self.routing is None:
            raise InvalidChannelLayerError(
                f"The channel layer {self.alias!r} has no routing, so no worker can serve it. Give it ROUTING: a list"
                " of routes, or the dotted path to one, such as 'mysite.routing.routes'."
            )
        return self._make_router(self.routing)

    @property
    def expiry(self) -> float:
        return self.backend.expiry

    @property
    def group_expiry(self) -> float:
        return self.backend.group_expiry

    @property
    def capacity(self) -> int:
        return self.backend.capacity

    @property
    def channel_capacity(self) -> Mapping[Any, int]:
        return self.backend.channel_capacity

    # Sending. prepare() and deliver() are the two halves, for callers that hold or batch what they send.

    def prepare(
        self, channel: str, content: dict[str, Any], headers: Mapping[str, str | int] | None = None
    ) -> Send:
        """Check one send to a channel and return it, values copied; nothing is sent.

        Raises ``InvalidNameError``, ``InvalidMessageError``, ``MessageTooLarge``.
        """
        if channel not in known_channels:
            check_channel(channel)
        plain, size = normalise(content)
        if size > self.backend.max_message_size:
            raise self._too_large(channel, size)
        stamp: dict[str, str | int] = {SENT_AT: time_ns() // 1_000_000}
        if headers:
            stamp.update(check_headers(headers))
        return Send(channel, plain, stamp, size)

    def prepare_group(
        self, group: str, content: dict[str, Any], headers: Mapping[str, str | int] | None = None
    ) -> Send:
        """:meth:`prepare` for a send to a group."""
        check_group(group)
        plain, size = normalise(content)
        if size > self.backend.max_message_size:
            raise self._too_large(group, size)
        stamp: dict[str, str | int] = {SENT_AT: time_ns() // 1_000_000}
        if headers:
            stamp.update(check_headers(headers))
        return Send(group, plain, stamp, size, True)

    def deliver(self, send: Send) -> None:
        """Send what :meth:`prepare` returned, at once.

        Raises ``ChannelFull``, ``MessageTooLarge``, ``LayerUnavailable`` or ``SendUncertain``. A send whose owner is
        dead is dropped and counted.
        """
        if self.backend.is_waiting:
            self._refuse_in_loop("send")
        outcome = self.backend.send_one(send)
        if outcome is not _SENT:
            self._raise_for(outcome, send)

    async def adeliver(self, send: Send) -> None:
        """:meth:`deliver`."""
        outcome = await self.backend.asend_one(send)
        if outcome is not _SENT:
            self._raise_for(outcome, send)

    def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send ``message`` to ``channel``, at once, also inside a consumer. Never waits for room.

        Raises what :meth:`prepare` and :meth:`deliver` raise.
        """
        send = self.prepare(channel, message)
        backend = self.backend
        if backend.is_waiting:
            self._refuse_in_loop("send")
        outcome = backend.send_one(send)
        if outcome is not _SENT:
            self._raise_for(outcome, send)

    async def asend(self, channel: str, message: dict[str, Any]) -> None:
        """:meth:`send`."""
        await self.adeliver(self.prepare(channel, message))

    def send_group(self, group: str, message: dict[str, Any]) -> None:
        """Send ``message`` to every member of ``group``, at once. Skips members that are full; never ChannelFull."""
        self.deliver(self.prepare_group(group, message))

    async def asend_group(self, group: str, message: dict[str, Any]) -> None:
        """:meth:`send_group`."""
        await self.adeliver(self.prepare_group(group, message))

    def _raise_for(self, outcome: Outcome, send: Send) -> None:
        if outcome is Outcome.FULL:
            raise exceptions.ChannelFull(
                f"The channel {redact(send.channel)!r} on layer {self.alias!r} holds its capacity of"
                f" {self.backend.capacity_of(send.channel)} messages; nothing was sent. Start more workers for it, send"
                " less, or raise capacity or channel_capacity in the layer's CONFIG."
            )
        if outcome is Outcome.TOO_LARGE:
            raise self._too_large(send.channel, send.size)
        if outcome is Outcome.UNCERTAIN:
            raise SendUncertain(
                f"The engine of layer {self.alias!r} did not answer: the message to {redact(send.channel)!r} may or may"
                " not have arrived. Send it again only if its consumer bears a repeat."
            )

    def _too_large(self, name: str, size: int) -> exceptions.MessageTooLarge:
        return exceptions.MessageTooLarge(
            f"The message to {redact(name)!r} has about {size} bytes; layer {self.alias!r} carries at most"
            f" {self.backend.max_message_size}. Send a reference to the data, or raise max_message_size in the layer's"
            " CONFIG."
        )

    def _refuse_in_loop(self, name: str) -> None:
        if in_running_loop():
            raise BlockingCallError(
                f"{name}() on layer {self.alias!r} would wait in a thread whose event loop is running, and stall"
                f" everything on it. Await a{name}() instead."
            )

    def _return_credit(self, expired: Sequence[Mapping[str, str | int]]) -> None:
        returns = [credit_send(channel) for headers in expired if (channel := credit_of(headers)) is not None]
        if not returns:
            return
        if self.backend.is_waiting and in_running_loop():
            task = asyncio.get_running_loop().create_task(self._areturn(returns))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
        else:
            with suppress(LayerUnavailable):  # the interface's credit_timeout makes up for it
                self.backend.send_batch(returns)

    async def _areturn(self, returns: Sequence[Send]) -> None:
        with suppress(LayerUnavailable):  # as above
            await self.backend.asend_batch(returns)

    # Receiving, the 1.x way: for scripts and tests. Workers use the backend's receive_batch.

    def receive(
        self, channels: Sequence[str], block: bool = False, *, timeout: float | None = None
    ) -> Received:
        """Take one message off ``channels``: ``(full channel name, content)``, or ``(None, None)``.

        With ``block`` it waits, at most ``timeout`` seconds where given; it may return empty-handed earlier. The
        message is settled at once, on at-least-once channels too.
        """
        for channel in channels:
            check_receivable(channel)
        if self._fanned_out:
            waiting = self._next_fanned_out(channels)
            if waiting is not None:
                return waiting
        if block:
            self._refuse_in_loop("receive")
        deliveries = self.backend.receive_batch(channels, limit=1, timeout=timeout if block else 0)
        if not deliveries:
            return None, None
        if deliveries[0].is_leased:
            self.backend.settle([Settlement(deliveries[0], Verdict.DONE)])
        return self._unpack(deliveries[0])

    receive_many = receive

    async def areceive(
        self, channels: Sequence[str], block: bool = True, *, timeout: float | None = None
    ) -> Received:
        """:meth:`receive`, which waits by default."""
        for channel in channels:
            check_receivable(channel)
        if self._fanned_out:
            waiting = self._next_fanned_out(channels)
            if waiting is not None:
                return waiting
        deliveries = await self.backend.areceive_batch(channels, limit=1, timeout=timeout if block else 0)
        if not deliveries:
            return None, None
        if deliveries[0].is_leased:
            await self.backend.asettle([Settlement(deliveries[0], Verdict.DONE)])
        return self._unpack(deliveries[0])

    async def receive_async(self, channels: Sequence[str]) -> Received:
        """:meth:`areceive` under its 1.x name."""
        return await self.areceive(channels)

    def _unpack(self, delivery: Delivery) -> Received:
        """A broadcast comes once for all its locals; this interface hands it out one by one, each with its copy."""
        if not delivery.locals:
            return delivery.channel, delivery.content
        first, *others = delivery.locals
        if others:
            with self._lock:
                queue = self._fanned_out.setdefault(delivery.channel, deque())
                queue.extend((delivery.channel + local, normalise(delivery.content)[0]) for local in others)
        return delivery.channel + first, delivery.content

    def _next_fanned_out(self, channels: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
        with self._lock:
            for channel in channels:
                queue = self._fanned_out.get(channel)
                if queue:
                    message = queue.popleft()
                    if not queue:
                        del self._fanned_out[channel]
                    return message
        return None

    def new_channel(self, pattern: str) -> str:
        """A new name that nobody else has: ``pattern``, ending in ``?`` or ``!``, and 128 random bits."""
        if not isinstance(pattern, str) or pattern[-1:] not in ("?", "!"):
            raise InvalidNameError(
                f"{pattern!r} is not a pattern for a new channel: end it in '?' (one reader) or '!' (process-specific)."
            )
        return check_channel(self.backend.new_channel(pattern))

    # Groups.

    def group_add(self, group: str, channel: str) -> None:
        """Make ``channel`` a member of ``group``; adding again only starts its time anew."""
        self._before_group_call("group_add", group, channel)
        self.backend.group_add(group, channel)

    async def agroup_add(self, group: str, channel: str) -> None:
        """:meth:`group_add`."""
        await self.backend.agroup_add(check_group(group), check_channel(channel))

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of ``channel`` in ``group``; a stranger is nothing."""
        self._before_group_call("group_discard", group, channel)
        self.backend.group_discard(group, channel)

    async def agroup_discard(self, group: str, channel: str) -> None:
        """:meth:`group_discard`."""
        await self.backend.agroup_discard(check_group(group), check_channel(channel))

    def group_channels(self, group: str) -> list[str]:
        """The members of ``group``, in no order."""
        self._before_group_call("group_channels", group)
        return self.backend.group_channels(group)

    async def agroup_channels(self, group: str) -> list[str]:
        """:meth:`group_channels`."""
        return await self.backend.agroup_channels(check_group(group))

    def group_count(self, group: str) -> int:
        """How many members ``group`` has."""
        self._before_group_call("group_count", group)
        return self.backend.group_count(group)

    async def agroup_count(self, group: str) -> int:
        """:meth:`group_count`."""
        return await self.backend.agroup_count(check_group(group))

    def _before_group_call(self, name: str, group: str, channel: str | None = None) -> None:
        check_group(group)
        if channel is not None:
            check_channel(channel)
        if self.backend.is_waiting:
            self._refuse_in_loop(name)

    # The rest.

    def flush(self) -> None:
        """Delete every message, group and dead letter of this layer."""
        self._fanned_out.clear()
        if self.backend.is_waiting:
            self._refuse_in_loop("flush")
        self.backend.flush()

    async def aflush(self) -> None:
        """:meth:`flush`."""
        self._fanned_out.clear()
        await self.backend.aflush()

    def global_statistics(self) -> dict[str, Any]:
        """``messages_count``, ``messages_pending``, ``messages_max_age`` (seconds) and ``channel_full_count``, with the
        counters of this process and those that other processes reported."""
        if self.backend.is_waiting:
            self._refuse_in_loop("global_statistics")
        return self._totals(self.backend.statistics(), self.counters.as_dict())

    def channel_statistics(self, channel: str) -> dict[str, Any]:
        """``messages_pending``, ``messages_leased`` and ``messages_max_age`` (seconds) of one channel."""
        if self.backend.is_waiting:
            self._refuse_in_loop("channel_statistics")
        figures = self.backend.statistics([check_receivable(channel)])
        return {
            "messages_pending": sum(one.pending for one in figures),
            "messages_leased": sum(one.leased for one in figures),
            "messages_max_age": max((one.oldest_age for one in figures), default=0.0),
        }

    @staticmethod
    def _totals(figures: Sequence[ChannelFigures], counters: Mapping[str, int]) -> dict[str, Any]:
        return {
            "messages_count": counters.get("sent", 0),
            "messages_pending": sum(one.pending for one in figures),
            "messages_max_age": max((one.oldest_age for one in figures), default=0.0),
            "channel_full_count": counters.get("full", 0),
            **counters,
        }

    def close(self) -> None:
        """Give up the backend's connections and threads."""
        self.backend.close()

    def __repr__(self) -> str:
        return f"<ChannelLayer {self.alias!r} on {type(self.backend).__name__}>"


class ChannelLayers:
    """The layers by alias, made at first use. The process-wide one is :data:`channel_layers`.

    Thread-safe. After a fork, layers stay and renew their connections themselves.
    """

    def __init__(
        self, config: Config | Callable[[], Config] | None = None, plugins: PluginManager | None = None
    ) -> None:
        self._source = config
        self._config = config if isinstance(config, Config) else None
        self._given_plugins = self._plugins = plugins
        self._layers: dict[str, ChannelLayer] = {}
        self._session_store: SessionStore | None = None
        self._lock = threading.RLock()

    def configure(self, config: Config | Callable[[], Config] | None) -> None:
        """Use ``config`` (or what it returns, when first needed) from now on; layers made before are closed."""
        with self._lock:
            self._source = config
            self._config = config if isinstance(config, Config) else None
            self._plugins = self._given_plugins
            self._session_store = None
            layers, self._layers = self._layers, {}
        for layer in layers.values():
            layer.close()

    @property
    def source(self) -> Config | Callable[[], Config] | None:
        """What :meth:`configure` was given."""
        return self._source

    @property
    def is_configured(self) -> bool:
        """Whether there is anything to make layers from."""
        return self._source is not None or CONFIG_VARIABLE in os.environ

    @property
    def config(self) -> Config:
        """The configuration. Raises :class:`~channels_core.exceptions.ConfigurationError` where there is none."""
        if self._config is None:
            with self._lock:
                if self._config is None:
                    self._config = self._load_config()
        return self._config

    def _load_config(self) -> Config:
        source: Any = self._source
        if source is None:
            path = os.environ.get(CONFIG_VARIABLE)
            if not path:
                raise ConfigurationError(
                    "Channel layers are not configured. With Django, put 'channels_django' into INSTALLED_APPS and call"
                    f" django.setup(); without, set {CONFIG_VARIABLE} to 'module:attribute' of a channels_core.Config."
                )
            from channels_core.import_strings import import_target

            source = import_target(path, what=f"The environment variable {CONFIG_VARIABLE}")
        config = source() if callable(source) else source
        if not isinstance(config, Config):
            raise ConfigurationError(
                f"The configuration of the channel layers is {type(config).__name__}: make it a channels_core.Config."
            )
        return config

    @property
    def plugins(self) -> PluginManager:
        """The plugin manager that names in the configuration are looked up in."""
        if self._plugins is None:
            from channels_core.plugins import get_plugin_manager

            self._plugins = get_plugin_manager(blocked=tuple(self.config.blocked_plugins))
        return self._plugins

    @property
    def session_store(self) -> SessionStore:
        """The store that channel sessions are kept in, made at first use.

        Raises :class:`~channels_core.exceptions.ConfigurationError` where what is configured is no session store.
        """
        store = self._session_store
        if store is None:
            with self._lock:
                store = self._session_store
                if store is None:
                    store = self._session_store = self._make_session_store()
        return store

    def _make_session_store(self) -> SessionStore:
        name = self.config.session_store
        store = self.plugins.load("session store", name)()
        if not isinstance(store, SessionStore):
            raise ConfigurationError(
                f"The session store {name!r} is {store!r}: it must be a channels_core.sessions.SessionStore. Correct"
                " CHANNELS['SESSION_STORE'], or session_store in channels_core.Config."
            )
        return store

    def __getitem__(self, alias: str) -> ChannelLayer:
        layer = self._layers.get(alias)
        if layer is None:
            with self._lock:
                layer = self._layers.get(alias)
                if layer is None:
                    layer = self._layers[alias] = self.make(alias)
        return layer

    def __contains__(self, alias: object) -> bool:
        return alias in self.config.layers or alias in self._layers

    def __iter__(self) -> Any:
        return iter(sorted({*self.config.layers, *self._layers}))

    def set(self, alias: str, layer: ChannelLayer | None) -> ChannelLayer | None:
        """Put ``layer`` under ``alias`` (``None``: make it anew when next asked for); returns the one it replaces."""
        with self._lock:
            old = self._layers.pop(alias, None)
            if layer is not None:
                self._layers[alias] = layer
            return old

    def make(self, alias: str, *, for_test: bool = False) -> ChannelLayer:
        """A new layer from the entry ``alias``, kept nowhere; with ``for_test``, from its TEST_CONFIG.

        Raises ``KeyError`` for an unknown alias, ``InvalidChannelLayerError`` or ``PluginError`` for a bad entry.
        """
        layers = self.config.layers
        if alias not in layers:
            known = ", ".join(sorted(layers)) or "none"
            raise KeyError(
                f"No channel layer has the alias {alias!r}. Configured: {known}. Add it to CHANNEL_LAYERS."
            )
        entry = layers[alias]
        options = dict(entry.config)
        if for_test:
            if entry.test_config is None:
                raise InvalidChannelLayerError(
                    f"The channel layer {alias!r} has no TEST_CONFIG; add it, so that tests cannot touch real data."
                )
            options = dict(entry.test_config)
        return ChannelLayer(
            self._make_backend(alias, entry, options),
            alias=alias,
            routing=entry.routing,
            make_router=partial(self._make_router, entry.router),
        )

    def _make_router(self, name: str, routing: Any) -> Router:
        router: Router = self.plugins.load("router", name)(routing)
        return router

    def _make_backend(self, alias: str, entry: LayerConfig, options: dict[str, Any]) -> LayerBackend:
        backend = self.plugins.load("layer", entry.backend)
        if not (isinstance(backend, type) and issubclass(backend, LayerBackend)):
            raise InvalidChannelLayerError(
                f"The channel layer {alias!r} has BACKEND {entry.backend!r}, which is {backend!r}: it must be a"
                " subclass of channels_core.layers.LayerBackend."
            )
        try:
            return backend(**options)
        except TypeError as error:
            raise InvalidChannelLayerError(
                f"The channel layer {alias!r} ({backend.__name__}) does not take its CONFIG {sorted(options)}: {error}."
            ) from error
        except InvalidChannelLayerError as error:
            raise InvalidChannelLayerError(
                f"The channel layer {alias!r} ({backend.__name__}): {error}"
            ) from error


channel_layers = ChannelLayers()
"""The process-wide handler, as Django's ``caches``: configured by channels_django, or by CHANNELS_CONFIG."""
