"""The layers of a configuration by alias: the handler that makes them, and the process-wide one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from channels_core.channel_layer.layer import ChannelLayer
from channels_core.config import Config, LayerConfig
from channels_core.exceptions import ConfigurationError, InvalidChannelLayerError
from channels_core.layers import LayerBackend
from channels_core.routing import Router
from channels_core.sessions import SessionStore

if TYPE_CHECKING:
    from channels_core.middleware import ConsumerMiddleware
    from channels_core.plugins import PluginManager
    from channels_core.transactions import CommitHook

__all__ = ["CONFIG_VARIABLE", "ChannelLayers", "channel_layers"]

CONFIG_VARIABLE: Final = "CHANNELS_CONFIG"
"""Environment variable with the import string of a configuration, for processes without Django."""


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
        self.commit_hook: CommitHook | None = None
        """What runs something after a commit, for ``send(..., on_commit=True)``. Installed by channels_django."""

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

    def make_middleware(self) -> list[ConsumerMiddleware]:
        """New objects of the consumer middleware that the configuration names, outermost first.

        Raises ``PluginError`` for a name that cannot be used.
        """
        return [self.plugins.load("consumer middleware", name)() for name in self.config.worker.middleware]

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

    def __iter__(self) -> Iterator[str]:
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
