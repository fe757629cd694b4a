"""Test cases whose channel layers are new for each test."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from django.test import TestCase, TransactionTestCase

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, ChannelLayer, channel_layers
from channels_core.message import Message
from channels_django.testing.inbox import next_message

__all__ = ["ChannelTestCase", "TransactionChannelTestCase"]

_CAPACITY = 10
"""Small, so that a test notices what it forgets to read."""


class ChannelTestCaseMixin(unittest.TestCase):
    """Puts a fresh layer in memory, of capacity 10, under each of ``test_channel_aliases`` for every test.

    The layer has the project's routing, without the default routes.
    """

    test_channel_aliases: ClassVar[list[str]] = [DEFAULT_CHANNEL_LAYER]

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        with _fresh_layers(self.test_channel_aliases):
            return super().run(result)

    def debug(self) -> None:
        with _fresh_layers(self.test_channel_aliases):
            super().debug()

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
def _fresh_layers(aliases: list[str]) -> Iterator[None]:
    before = {alias: channel_layers.set(alias, _fresh_layer(alias)) for alias in aliases}
    try:
        yield
    finally:
        for alias, layer in before.items():
            fresh = channel_layers.set(alias, layer)
            if fresh is not None:
                fresh.close()


def _fresh_layer(alias: str) -> ChannelLayer:
    entry = channel_layers.config.layers.get(alias)
    if entry is None:
        raise KeyError(
            f"test_channel_aliases names {alias!r}, which CHANNEL_LAYERS does not have. It has:"
            f" {', '.join(sorted(channel_layers.config.layers)) or 'nothing'}."
        )
    plugins = channel_layers.plugins
    return ChannelLayer(
        plugins.load("layer", "memory")(capacity=_CAPACITY),
        alias=alias,
        routing=entry.routing,
        make_router=plugins.load("router", entry.router),
    )
