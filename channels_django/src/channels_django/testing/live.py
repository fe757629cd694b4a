"""A test case with the whole site running: a real server on a port of its own, and workers, for browsers and
clients."""

from __future__ import annotations

import inspect
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import TransactionTestCase
from django.test.utils import modify_settings

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer, ChannelLayers, channel_layers
from channels_core.interface import make_interface
from channels_core.names import new_id
from channels_core.worker import Worker
from channels_django import conf
from channels_django.development import bind, finish, make_uvicorn_server
from channels_django.testing.cases import InSurroundings, fresh_layer, replaced_layers
from channels_django.workers import make_worker

__all__ = ["ChannelLiveServerTestCase"]

_PATIENCE = 20.0
"""Seconds for the server to stop: it closes its sockets first."""


class ChannelLiveServerTestCase(InSurroundings, TransactionTestCase):
    """Django's ``TransactionTestCase`` with a server and workers, in threads of this process, for each test.

    :attr:`live_server_url` and :attr:`live_server_ws_url` say where. Everything is new for each test and gone after it,
    on a free port, so test processes may run side by side. The layers of ``test_channel_aliases`` are made of their
    TEST_CONFIG where CHANNEL_LAYERS has one, else they are in memory; on a layer that others share they have a prefix
    of their own. Each has the default routes, and ``worker_threads`` threads. An SQLite database in memory, which
    threads cannot share, is a file for the length of a test.
    """

    test_channel_aliases: ClassVar[list[str]] = [DEFAULT_CHANNEL_LAYER]
    host: ClassVar[str] = "localhost"
    """Name or address that the server listens on; allowed in ALLOWED_HOSTS during the test."""
    worker_threads: ClassVar[int] = 1
    serve_static: ClassVar[bool] = True
    """Whether static files are served, where ``django.contrib.staticfiles`` is installed."""

    _port: int | None = None

    @property
    def live_server_url(self) -> str:
        """The site's address, such as ``http://localhost:40123``."""
        return f"http://{self._address}"

    @property
    def live_server_ws_url(self) -> str:
        """The same for WebSockets: ``ws://localhost:40123``."""
        return f"ws://{self._address}"

    @property
    def _address(self) -> str:
        if self._port is None:
            raise RuntimeError(
                f"The server of {type(self).__qualname__} runs during a test only, so it has no address now: ask for it"
                " in setUp() or in the test."
            )
        return f"{self.host}:{self._port}"

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        if find_spec("uvicorn") is None:
            raise ImproperlyConfigured(
                f"{type(self).__qualname__} needs the server uvicorn, which is not installed:"
                " pip install 'channels-django[server]'."
            )
        with ExitStack() as stack:
            stack.enter_context(_databases_on_disk(self.databases))
            stack.enter_context(modify_settings(ALLOWED_HOSTS={"append": self.host}))
            makers = {alias: _maker(alias) for alias in self.test_channel_aliases}
            layers = {
                alias: fresh_layer(alias) if maker is None else maker.make(alias)
                for alias, maker in makers.items()
            }
            stack.enter_context(replaced_layers(layers))
            listener = stack.enter_context(bind(self.host, 0, use_ipv6=False))
            self._port = listener.getsockname()[1]
            stack.callback(setattr, self, "_port", None)
            for layer in layers.values():
                stack.enter_context(self._working(layer))
            server = make_uvicorn_server(_interface(makers))
            thread = threading.Thread(
                target=server.run, kwargs={"sockets": [listener]}, name="channels-live-server", daemon=True
            )
            thread.start()
            try:
                yield
            finally:
                server.should_exit = True
                thread.join(_PATIENCE)

    @contextmanager
    def _working(self, layer: ChannelLayer) -> Iterator[None]:
        make = partial(_make_worker, layer, self.worker_threads, self.serve_static)
        worker = make()
        worker.start()
        try:
            yield
        finally:
            finish(worker, make)
            if not layer.backend.local_only:
                layer.flush()


def _make_worker(layer: ChannelLayer, threads: int, is_static_served: bool) -> Worker:
    return make_worker(layer, threads=threads, is_static_served=is_static_served)


def _interface(makers: Mapping[str, ChannelLayers | None]) -> Any:
    """The interface application; on a layer that processes share, with connections of its own, as when deployed."""
    alias = channel_layers.config.interface.layer
    own = None if channel_layers[alias].backend.local_only else makers.get(alias)
    application = make_interface(own, http=_in_process_http())

    async def closing(scope: Any, receive: Any, send: Any) -> None:
        async def sent(event: Any) -> None:
            if event["type"] == "lifespan.shutdown.complete" and own is not None:
                await application.layer.aclose()
            await send(event)

        await application(scope, receive, sent if scope["type"] == "lifespan" else send)

    return closing


def _in_process_http() -> Any:
    if conf.http_mode() != "in-process":
        return None
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()


def _maker(alias: str) -> ChannelLayers | None:
    """What makes the layers of ``alias`` from its TEST_CONFIG; ``None`` where it has none."""
    entry = channel_layers.config.layers.get(alias)
    if entry is None or entry.test_config is None:
        return None
    options = dict(entry.test_config)
    known = inspect.signature(channel_layers.plugins.load("layer", entry.backend)).parameters
    if (
        "prefix" in known and "using" not in known
    ):  # with "using" it is in the test database, of this process alone
        options["prefix"] = f"{options.get('prefix', 'test')}-{new_id()}"
    config = replace(channel_layers.config, layers={alias: replace(entry, config=options)})
    return ChannelLayers(config, channel_layers.plugins)


@contextmanager
def _databases_on_disk(aliases: Iterable[str]) -> Iterator[None]:
    """SQLite databases in memory as files, with what is in them, for threads with connections of their own."""
    with ExitStack() as stack:
        for alias in aliases:
            connection: Any = connections[alias]
            if connection.vendor == "sqlite" and connection.is_in_memory_db():
                stack.enter_context(_on_disk(connection))
        yield


@contextmanager
def _on_disk(connection: Any) -> Iterator[None]:
    connection.ensure_connection()
    in_memory = connection.connection
    options = connection.settings_dict
    before = {"NAME": options["NAME"], "OPTIONS": options["OPTIONS"]}
    with TemporaryDirectory(prefix="channels-live-") as folder:
        path = Path(folder) / "live.sqlite3"
        copy = sqlite3.connect(path)
        in_memory.backup(copy)
        copy.execute("PRAGMA journal_mode=WAL")
        copy.close()
        connection.connection = None
        # Writers wait for each other from the beginning of a transaction, instead of failing in the middle.
        options["NAME"] = str(path)
        options["OPTIONS"] = {"timeout": _PATIENCE, **before["OPTIONS"], "transaction_mode": "IMMEDIATE"}
        try:
            yield
        finally:
            connection.close()
            options.update(before)
            connection.connection = in_memory
