"""The regex router keeps the laws of routers."""

from collections.abc import Mapping
from typing import Any

from channels_core import Message
from channels_core.routing import Consumer, Router
from channels_core.testing.conformance.routers import RouterConformance
from channels_router_regex import Router as RegexRouter
from channels_router_regex import include, route


def anything(message: Message, **kwargs: Any) -> None: ...


class TestRegexRouter(RouterConformance):
    def make_router(self, consumers: Mapping[str, Consumer]) -> Router:
        return RegexRouter(consumers)

    def make_demanding_router(self) -> Router:
        inner = [
            route("websocket.connect", anything, path=r"^(?P<rest>.*)$", method=b"GET"),
            route(["websocket.receive", "http.request"], anything, text=r"(?P<text>\S+)?", bytes="."),
            route("websocket.receive", anything, headers=".", reply_channel="(?P<reply>[a-z]+)!"),
        ]
        router = RegexRouter(
            [
                include([include(inner, path="/"), *inner], path=r"(?P<first>[^/]*)", method=r"\w"),
                route("websocket.connect", anything, path=r"\w"),
            ]
        )
        router.check_default()
        return router


class TestDefaultsAlone(RouterConformance):
    def make_router(self, consumers: Mapping[str, Consumer]) -> Router:
        return RegexRouter([route(channel, consumer) for channel, consumer in consumers.items()])

    def make_demanding_router(self) -> Router:
        router = RegexRouter([])
        router.check_default(http_consumer=anything)
        return router
