"""What every project answers without routes of its own."""

from typing import Any

from channels_core import Channel, ChannelLayer, Message
from channels_core.default_consumers import connect_consumer, null_consumer
from channels_core.held import current_held
from channels_core.routing import Router
from channels_core.worker import Worker
from channels_django.default_routes import with_default_routes
from channels_router_regex import route
from channels_router_regex.router import Router as RegexRouter


def http(message: Message) -> None:
    """The consumer that stands for the views."""


def mine(message: Message) -> None:
    """A project's own consumer."""


async def amine(message: Message) -> None:
    """A project's own asynchronous consumer."""


def make(*routes: Any) -> Router:
    return with_default_routes(RegexRouter(list(routes)), http)


def consumer_for(router: Router, channel: str, **content: Any) -> Any:
    found = router.match(Message(content, channel, None))
    return None if found is None else found[0]


def test_b33_requests_go_to_views_sockets_are_accepted_and_the_rest_is_taken() -> None:
    router = make()
    assert router.channels == {
        "http.request",
        "websocket.connect",
        "websocket.receive",
        "websocket.disconnect",
    }
    assert router.async_channels == set()
    assert consumer_for(router, "http.request") is http
    assert consumer_for(router, "websocket.connect") is connect_consumer
    assert consumer_for(router, "websocket.receive") is null_consumer
    assert consumer_for(router, "websocket.disconnect") is null_consumer
    assert consumer_for(router, "http.disconnect") is None


def test_b34_a_projects_own_route_wins() -> None:
    router = make(route("websocket.connect", mine, path="^/chat$"), route("jobs", mine))
    assert consumer_for(router, "websocket.connect", path="/chat") is mine
    assert consumer_for(router, "websocket.connect", path="/other") is connect_consumer
    assert consumer_for(router, "jobs") is mine
    assert consumer_for(router, "elsewhere") is None


def test_the_projects_list_is_never_touched() -> None:
    routes = [route("jobs", mine)]
    with_default_routes(RegexRouter(routes), http)
    assert len(routes) == 1


def test_defaults_are_added_once() -> None:
    router = make()
    assert with_default_routes(router, mine) is router


def test_a_channel_of_asynchronous_consumers_stays_with_the_event_loop() -> None:
    router = make(
        route("websocket.connect", amine, path="^/chat$"),
        route("http.request", amine, path="^/events$"),
        route("jobs", amine),
    )
    assert router.async_channels == {"websocket.connect", "jobs"}
    default = consumer_for(router, "websocket.connect", path="/other")
    assert default is not connect_consumer
    assert consumer_for(router, "http.request", path="/") is http


def test_the_default_accepts_in_a_thread_and_on_the_loop(layer: ChannelLayer) -> None:
    for routes in ([], [route("websocket.connect", amine, path="^/chat$")]):
        layer.router = make(*routes)
        worker = Worker(layer)
        worker.start()
        try:
            Channel("websocket.connect", channel_layer=layer).send(
                {"reply_channel": "websocket.send.test!1", "path": "/other"}
            )
            assert layer.receive(["websocket.send.test!"], True, timeout=5)[1] == {"accept": True}
        finally:
            worker.stop()
    assert current_held.get() is None
