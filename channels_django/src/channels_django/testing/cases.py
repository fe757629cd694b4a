"""Test cases whose channel layers are new for each test."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

from django.db import DEFAULT_DB_ALIAS
from django.test import TestCase, TransactionTestCase

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer, channel_layers
from channels_core.config import LayerConfig
from channels_core.exceptions import PluginError
from channels_core.layers import LayerBackend
from channels_core.message import Message
from channels_django.testing.inbox import next_message
from channels_django.testing.transactions import TransactionalMemory

__all__ = ["ChannelTestCase", "TransactionChannelTestCase"]

_CAPACITY = 10
"""Small, so that a test notices what it forgets to read."""


class InSurroundings(unittest.TestCase):
    """Runs each test, with ``setUp`` and ``tearDown``, inside :meth:`surroundings`. What these raise is the test's
    error."""

    def surroundings(self) -> AbstractContextManager[None]:
        """Entered before each test, and left after it."""
        raise NotImplementedError

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        try:
            surroundings = self.surroundings()
            surroundings.__enter__()
        except Exception:  # noqa: BLE001 - whatever it is, it is why the test could not run
            found = self.defaultTestResult() if result is None else result
            found.startTest(self)
            found.addError(self, sys.exc_info())
            found.stopTest(self)
            return found
        try:
            return super().run(result)
        finally:
            surroundings.__exit__(None, None, None)

    def debug(self) -> None:
        with self.surroundings():
            super().debug()


class ChannelTestCaseMixin(InSurroundings):
    """Puts a fresh layer in memory, of capacity 10, under each of ``test_channel_aliases`` for every test.

    The layer has the project's routing, without the default routes.
    """

    test_channel_aliases: ClassVar[list[str]] = [DEFAULT_CHANNEL_LAYER]

    def surroundings(self) -> AbstractContextManager[None]:
        return replaced_layers(
            {alias: fresh_layer(alias, capacity=_CAPACITY) for alias in self.test_channel_aliases}
        )

    def get_next_message(
        self, channel: str, alias: str = DEFAULT_CHANNEL_LAYER, require: bool = False
    ) -> Message | None:
        """The oldest message on ``channel``, or ``None``; with ``require``, the test fails where there is none."""
        message = next_message(alias, channel)
        if message is None and require:
            self.fail(f"A message was expected on channel {channel!r} of layer {alias!r}, and there is none.")
        return message


class ChannelTestCase(ChannelTestCaseMixin, TestCase):
    """Django's ``TestCase`` with fresh channel layers."""


class TransactionChannelTestCase(ChannelTestCaseMixin, TransactionTestCase):
    """Django's ``TransactionTestCase`` with fresh channel layers."""


@contextmanager
def replaced_layers(layers: Mapping[str, ChannelLayer]) -> Iterator[None]:
    """Have ``channel_layers`` give these layers under their aliases, and close them at the end."""
    before = {alias: channel_layers.set(alias, layer) for alias, layer in layers.items()}
    try:
        yield
    finally:
        for alias, old in before.items():
            used = channel_layers.set(alias, old)
            if used is not None:
                used.close()


def _is_transactional(entry: LayerConfig) -> bool:
    """Whether the layer that a test's one stands for is. One that is not installed does not keep tests from running."""
    with suppress(PluginError):
        return bool(getattr(channel_layers.plugins.load("layer", entry.backend), "is_transactional", False))
    return False


def fresh_layer(alias: str, **options: Any) -> ChannelLayer:
    """A layer in memory with the routing of ``alias``, that is transactional where that layer is."""
    entry = channel_layers.config.layers.get(alias)
    if entry is None:
        raise KeyError(
            f"test_channel_aliases names {alias!r}, which CHANNEL_LAYERS does not have. It has:"
            f" {', '.join(sorted(channel_layers.config.layers)) or 'nothing'}."
        )
    plugins = channel_layers.plugins
    backend: Callable[..., LayerBackend] = plugins.load("layer", "memory")
    if _is_transactional(entry):
        backend = partial(
            TransactionalMemory,
            using=entry.config.get("using", DEFAULT_DB_ALIAS),
            transactional=entry.config.get("transactional", False),
        )
    return ChannelLayer(
        backend(**options),
        alias=alias,
        routing=entry.routing,
        make_router=plugins.load("router", entry.router),
    )
