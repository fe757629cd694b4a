"""The regex router: what matches, what a consumer gets, and what is refused when a route is made."""

import copy
import functools
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from channels_core import ConfigurationError, InvalidRouteError, Message
from channels_core.plugins import PluginManager, get_plugin_manager
from channels_core.routing import is_async_consumer
from channels_router_regex import (
    Include,
    Route,
    RouteClass,
    Router,
    connect_consumer,
    include,
    null_consumer,
    route,
    route_class,
)
from channels_router_regex.plugin import channels_register_routers

HERE = __name__


def consumer(message: Message) -> None: ...


def other(message: Message) -> None: ...


async def aconsumer(message: Message) -> None: ...


def anything(message: Message, **kwargs: Any) -> None: ...


def in_room(message: Message, room: str) -> None: ...


def nobody() -> None: ...


def by_position(message, room, /): ...  # without annotations, which would be part of the error's text


def with_default(message: Message, room: str = "lobby") -> None: ...


class Chat:
    """A class-based consumer."""

    def __init__(self, message: Message, **kwargs: Any) -> None: ...

    @classmethod
    def channel_names(cls) -> Iterable[str]:
        return {"websocket.connect", "websocket.receive"}


class NoNames:
    def __init__(self, message: Message) -> None: ...


class InstanceNames:
    def __init__(self, message: Message) -> None: ...

    def channel_names(self) -> list[str]:
        return ["x"]


class Callables:
    def method(self, message: Message) -> None: ...

    async def amethod(self, message: Message) -> None: ...

    async def __call__(self, message: Message) -> None: ...


A_LIST = [route("chat", consumer)]
A_DICT = {"chat": consumer}


def message(channel: str | None = "chat", **content: Any) -> Message:
    return Message(content, channel, None)


def match(routing: object, asked: Message) -> Any:
    return Router(routing).match(asked)


# What matches


def test_the_channel_alone_decides_where_there_is_no_filter() -> None:
    router = Router([route("chat", consumer), route("news", other)])
    assert router.match(message("chat")) == (consumer, {})
    assert router.match(message("news")) == (other, {})
    assert router.match(message("else")) is None
    assert router.match(message(None)) is None


def test_a_route_may_name_several_channels_and_bytes_are_ascii() -> None:
    router = Router([route(["a", b"b", "a"], consumer)])
    assert router.channels == {"a", "b"}
    assert router.match(message("b")) == (consumer, {})


def test_the_first_matching_route_wins() -> None:
    router = Router(
        [
            route("chat", consumer, path="/a$"),
            route("chat", other, path="/"),
            route("chat", anything),
        ]
    )
    assert router.match(message(path="/a")) == (consumer, {})
    assert router.match(message(path="/ab")) == (other, {})
    assert router.match(message(path="-")) == (anything, {})


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("/chat", "/chat/lobby", True),  # anchored at the start ...
        ("/chat", "x/chat", False),  # ... and only there
        ("/chat$", "/chat/lobby", False),
        (b"/chat", "/chat", True),
        ("/chat", b"/chat", True),
        (b"/chat", b"/chat", True),
        (re.compile("/CHAT", re.IGNORECASE), "/chat", True),
        (re.compile(b"/CHAT", re.IGNORECASE), "/chat", True),
        (re.compile(rb"\w"), "é", False),  # what \w means in a bytes pattern
        (r"\w", "é", True),
        ("", "", True),
        ("/", b"\xff/", False),
        (".", None, False),
        (".", 5, False),
        (".", 5.5, False),
        (".", True, False),
        (".", {"a": 1}, False),
        (".", ["a"], False),
        (".", "\ud800", True),
    ],
)
def test_a_filter_is_a_match_at_the_start_of_text_b28(
    pattern: str | bytes | re.Pattern[Any], value: object, matches: bool
) -> None:
    found = match([route("chat", consumer, path=pattern)], message(path=value))
    assert found == ((consumer, {}) if matches else None)


def test_a_missing_key_is_no_match_b28() -> None:
    assert match([route("chat", consumer, path="")], message(method="GET")) is None


def test_every_filter_has_to_match() -> None:
    routing = [route("chat", consumer, path="/a", method="GET")]
    assert match(routing, message(path="/a", method="GET")) == (consumer, {})
    assert match(routing, message(path="/a", method="POST")) is None
    assert match(routing, message(path="/b", method="GET")) is None


def test_named_groups_become_keyword_arguments() -> None:
    routing = [route("chat", anything, path=r"/(?P<room>\w+)", method="(?P<method>[A-Z]+)")]
    assert match(routing, message(path="/lobby", method="GET")) == (
        anything,
        {"room": "lobby", "method": "GET"},
    )


def test_a_group_that_took_no_part_arrives_as_none_b29() -> None:
    routing = [route("chat", anything, path=r"/(?P<room>\w+)?")]
    assert match(routing, message(path="/")) == (anything, {"room": None})


def test_each_match_has_a_dict_of_its_own() -> None:
    for routing in ([route("chat", anything)], [route("chat", anything, path="(?P<path>.)")]):
        router = Router(routing)
        asked = message(path="/")
        first, second = router.match(asked), router.match(asked)
        assert first is not None
        assert second is not None
        first[1]["left"] = "behind"
        assert "left" not in second[1]


def test_process_specific_messages_are_found_under_their_prefix() -> None:
    router = Router([route("inbox.here!", consumer)])
    assert router.channels == {"inbox.here!"}
    assert router.match(message("inbox.here!abc")) == (consumer, {})
    assert router.match(message("inbox.there!abc")) is None
    assert route("inbox.here!", consumer).match(message("inbox.here!abc")) == (consumer, {})


# Includes


def test_include_cuts_off_what_it_matched_and_the_message_stays_whole_b30() -> None:
    inner = [route("chat", anything, path=r"^/(?P<room>\w+)$")]
    asked = message(path="/site/chat/lobby", text="hi", nested={"list": [1, 2]})
    before = copy.deepcopy(asked.content)
    routing = [include([include(inner, path="^/chat")], path="^/site")]
    assert match(routing, asked) == (anything, {"room": "lobby"})
    assert asked.content == before
    assert match(routing, message(path="/chat/site/lobby")) is None
    assert match(routing, message(path="/site/lobby")) is None
    assert match(routing, message()) is None


def test_include_cuts_bytes_too() -> None:
    routing = [include([route("chat", anything, path="(?P<rest>.*)")], path="/a")]
    assert match(routing, message(path=b"/a/b")) == (anything, {"rest": "/b"})


def test_an_inner_route_without_that_filter_needs_nothing_of_the_rest() -> None:
    assert match([include([route("chat", consumer)], path="/a")], message(path="/abc")) == (consumer, {})
    assert match([include([route("chat", consumer)], path="/a")], message(path="/b")) is None


def test_include_without_filters_is_just_a_table() -> None:
    assert match([include(A_LIST)], message()) == (consumer, {})


def test_keyword_arguments_of_all_levels_are_merged_and_the_inner_one_wins_b31() -> None:
    inner = route("chat", anything, path="/(?P<name>[a-z]+)", method="(?P<method>.+)")
    routing = [include([inner], path="/(?P<name>[0-9]+)", user="(?P<user>.+)")]
    asked = message(path="/12/ab", method="GET", user="ann")
    assert match(routing, asked) == (anything, {"name": "ab", "method": "GET", "user": "ann"})


def test_the_inner_name_wins_across_keys_whatever_their_order_b31() -> None:
    inner = route("chat", anything, path="/(?P<name>.+)")
    routing = [include([inner], path="(?P<x>)", method="(?P<name>.+)")]
    assert match(routing, message(path="/inner", method="OUTER")) == (anything, {"x": "", "name": "inner"})


def test_an_include_does_not_end_the_search() -> None:
    routing = [include([route("chat", consumer, path="/b")], path="/a"), route("chat", other)]
    assert match(routing, message(path="/a/c")) == (other, {})


def test_one_table_may_be_included_in_several_places() -> None:
    shared = [route("chat", anything, path="/(?P<room>.+)")]
    routing = [include(shared, path="/a"), include(shared, path="/b")]
    assert match(routing, message(path="/b/x")) == (anything, {"room": "x"})


def test_a_consumer_may_take_what_the_include_captures() -> None:
    routing = [include([route("chat", in_room)], path=r"/(?P<room>\w+)")]
    assert match(routing, message(path="/lobby")) == (in_room, {"room": "lobby"})


# Forms of routing


@pytest.mark.parametrize(
    "routing",
    [
        A_LIST,
        tuple(A_LIST),
        A_DICT,
        {"chat": f"{HERE}.consumer"},
        [route("chat", f"{HERE}.consumer")],
        [route("chat", f"{HERE}:consumer")],
        f"{HERE}.A_LIST",
        f"{HERE}:A_DICT",
        [include(f"{HERE}.A_LIST")],
        [include(f"{HERE}.A_DICT")],
        [include(A_DICT)],
    ],
    ids=lambda routing: f"{routing}"[:60],
)
def test_routing_is_a_list_a_dict_or_a_dotted_string_b32(routing: object) -> None:
    router = Router(routing)
    assert router.channels == {"chat"}
    assert router.match(message()) == (consumer, {})


def test_resolve_routing_gives_the_entries_in_a_new_list() -> None:
    assert Router.resolve_routing(A_LIST) == A_LIST
    assert Router.resolve_routing(A_LIST) is not A_LIST
    (made,) = Router.resolve_routing(A_DICT)
    assert (made.channel_names(), made.match(message())) == ({"chat"}, (consumer, {}))


def test_the_projects_own_list_is_left_alone() -> None:
    mine = [route("chat", consumer)]
    router = Router(mine)
    router.add_route(route("news", other))
    router.check_default()
    assert len(mine) == 1


def test_route_class_takes_its_channels_from_the_class_b35() -> None:
    made = route_class(Chat, path="/(?P<room>.+)")
    assert made.channel_names() == {"websocket.connect", "websocket.receive"}
    assert Router([made]).match(message("websocket.receive", path="/a")) == (Chat, {"room": "a"})
    assert route_class(f"{HERE}.Chat").consumer is Chat


def test_the_old_names_are_the_same_classes() -> None:
    assert (route, route_class, include) == (Route, RouteClass, Include)


def test_routes_and_includes_can_be_asked_by_themselves() -> None:
    inner = route("chat", anything, path="/(?P<room>.+)")
    outer = include([inner, route("news", other)], path="/a")
    assert inner.match(message(path="/x")) == (anything, {"room": "x"})
    assert inner.match(message("news", path="/x")) is None
    assert outer.match(message(path="/a/x")) == (anything, {"room": "x"})
    assert outer.match(message(path="/x")) is None
    assert outer.channel_names() == {"chat", "news"}
    assert inner.consumer is anything
    assert repr(inner) == f"<route('chat', {HERE}.anything, path='/(?P<room>.+)')>"
    assert repr(outer) == "<include(..., path='/a')>"
    assert repr(include(f"{HERE}.A_LIST")) == f"<include('{HERE}.A_LIST')>"
    assert repr(route_class(Chat)) == f"<route_class({HERE}.Chat)>"


# add_route and the defaults


def test_add_route_goes_behind_the_others() -> None:
    router = Router(A_LIST)
    router.add_route(route(["chat", "news"], other))
    assert router.channels == {"chat", "news"}
    assert router.match(message("chat")) == (consumer, {})
    assert router.match(message("news")) == (other, {})


def test_a_route_that_cannot_be_added_changes_nothing() -> None:
    router = Router(A_LIST)
    with pytest.raises(InvalidRouteError):
        router.add_route(route("news", in_room))
    router.add_route(route("more", other))
    assert router.channels == {"chat", "more"}
    with pytest.raises(InvalidRouteError) as caught:
        router.add_route("news")  # type: ignore[arg-type]  # what is tested
    assert str(caught.value) == (
        "add_route('news'): it takes a route(...), route_class(...) or include(...), not str."
    )


def test_the_defaults_go_last_b33_b34() -> None:
    router = Router([route("websocket.connect", other, path="/mine")])
    assert router.channels == {"websocket.connect"}
    router.check_default(http_consumer=consumer)
    assert router.channels == {
        "http.request",
        "websocket.connect",
        "websocket.receive",
        "websocket.disconnect",
    }
    assert router.match(message("websocket.connect", path="/mine")) == (other, {})
    assert router.match(message("websocket.connect", path="/else")) == (connect_consumer, {})
    assert router.match(message("websocket.receive")) == (null_consumer, {})
    assert router.match(message("websocket.disconnect")) == (null_consumer, {})
    assert router.match(message("http.request")) == (consumer, {})
    assert router.match(message("http.disconnect")) is None


def test_the_defaults_stay_last_and_there_is_no_http_default_unless_given() -> None:
    router = Router([])
    router.check_default()
    router.check_default()
    assert router.channels == {"websocket.connect", "websocket.receive", "websocket.disconnect"}
    router.add_route(route("websocket.connect", other))
    assert router.match(message("websocket.connect")) == (other, {})


class Reply:
    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []

    def send(self, content: dict[str, object]) -> None:
        self.sent.append(content)

    async def asend(self, content: dict[str, object]) -> None:
        self.sent.append(content)


def test_the_default_consumers_accept_and_ignore() -> None:
    asked = message("websocket.connect")
    connect_consumer(asked)
    asked.reply_channel = reply = Reply()  # type: ignore[assignment]  # keeps what is sent
    connect_consumer(asked)
    null_consumer(asked)
    assert reply.sent == [{"accept": True}]


# Asynchronous channels


@pytest.mark.parametrize(
    ("candidate", "is_async"),
    [
        (consumer, False),
        (aconsumer, True),
        (Callables().method, False),
        (Callables().amethod, True),
        (Callables(), True),
        (functools.partial(aconsumer), True),
        (functools.partial(Callables()), True),
        (functools.partial(Callables().amethod), True),
        (functools.partial(consumer), False),
        (Chat, False),
        (lambda message: None, False),
    ],
)
def test_what_counts_as_an_async_consumer(candidate: Callable[..., Any], is_async: bool) -> None:
    assert is_async_consumer(candidate) is is_async
    assert Router([route("chat", candidate)]).async_channels == ({"chat"} if is_async else set())


def test_a_channel_is_async_if_all_its_consumers_are() -> None:
    router = Router(
        [
            route("a", aconsumer, path="/x"),
            route("a", aconsumer),
            route("b", aconsumer, path="/x"),
            include([route("b", consumer)], path="/y"),
            route("c", consumer),
        ]
    )
    assert router.async_channels == {"a"}


async def test_the_defaults_keep_an_async_channel_async() -> None:
    router = Router([route("websocket.connect", aconsumer, path="/mine"), route("http.request", aconsumer)])
    router.check_default(http_consumer=consumer)
    assert router.async_channels == {"websocket.connect"}
    asked = message("websocket.connect", path="/else")
    found = router.match(asked)
    assert found is not None
    assert is_async_consumer(found[0])
    await found[0](asked)
    asked.reply_channel = reply = Reply()  # type: ignore[assignment]  # keeps what is sent
    await found[0](asked)
    assert reply.sent == [{"accept": True}]

    router.add_route(route("websocket.receive", aconsumer))
    assert router.async_channels == {"websocket.connect", "websocket.receive"}
    router.add_route(route("websocket.connect", consumer))
    assert router.async_channels == {"websocket.receive"}


async def test_the_async_default_for_frames_does_nothing() -> None:
    router = Router([route("websocket.receive", aconsumer, path="/mine")])
    router.check_default(http_consumer=aconsumer)
    assert router.async_channels == {"websocket.receive", "http.request"}
    found = router.match(message("websocket.receive"))
    assert found is not None
    assert await found[0](message()) is None


# Threads


def test_threads_match_while_routes_are_added() -> None:
    router = Router([route("chat", in_room, path=r"/(?P<room>\w+)")])
    wrong: list[object] = []
    begun = threading.Barrier(5)

    def ask(number: int) -> None:
        asked = message(path=f"/room{number}")
        begun.wait()
        for _ in range(2_000):
            found = router.match(asked)
            if found != (in_room, {"room": f"room{number}"}):
                wrong.append(found)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    for number in range(50):
        router.add_route(route(f"more.{number}", consumer))
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(router.channels) == 51


# Errors


def attempt(make: Callable[[], object]) -> str:
    with pytest.raises(InvalidRouteError) as caught:
        make()
    assert isinstance(caught.value, ConfigurationError)
    return str(caught.value).replace(f"{HERE}.", "")


CALLED = (
    "A consumer is called with the message and, by name, with every group that its filters and those of the includes"
    " around it capture. Change its arguments or the filters."
)

REFUSED: list[tuple[str, Callable[[], object], str]] = [
    (
        "no-callable",
        lambda: route("chat", 5),  # type: ignore[arg-type]  # what is tested
        "route('chat', 5): the consumer is 5 (int), which cannot be called. A consumer is a callable taking the"
        " message, or the import string of one.",
    ),
    (
        "dotted-missing-module",
        lambda: route("chat", "no_such_module.consumer"),
        "route('chat', 'no_such_module.consumer'): the consumer names 'no_such_module.consumer', but there is no"
        " module 'no_such_module'. Correct the path.",
    ),
    (
        "dotted-missing-attribute",
        lambda: route("chat", f"{HERE}.consumr"),
        "route('chat', 'consumr'): the consumer names 'consumr', but '{HERE}' has no attribute 'consumr' (did you mean"
        " 'consumer'?). Correct the path.",
    ),
    (
        "not-dotted",
        lambda: route("chat", "consumer"),
        "route('chat', 'consumer'): the consumer is 'consumer', which is no import string: write"
        " 'package.module:attribute'.",
    ),
    (
        "takes-nothing",
        lambda: route("chat", nobody),
        "route('chat', nobody): the consumer nobody() -> None cannot be called as consumer(message): too many"
        f" positional arguments. {CALLED}",
    ),
    (
        "does-not-take-the-group",
        lambda: route("chat", consumer, path=r"/(?P<room>\w+)"),
        r"route('chat', consumer, path='/(?P<room>\\w+)'): the consumer consumer(message:"
        " channels_core.message.Message) -> None cannot be called as consumer(message, room=...): got an unexpected"
        f" keyword argument 'room'. {CALLED}",
    ),
    (
        "takes-it-by-position-only",
        lambda: route("chat", by_position),
        "route('chat', by_position): the consumer by_position(message, room, /) cannot be called as consumer(message):"
        f" missing a required argument: 'room'. {CALLED}",
    ),
    (
        "group-named-message",
        lambda: route("chat", consumer, path="(?P<message>.)"),
        "route('chat', consumer, path='(?P<message>.)'): the consumer consumer(message:"
        " channels_core.message.Message) -> None cannot be called as consumer(message, message=...): multiple values"
        f" for argument 'message'. {CALLED}",
    ),
    (
        "include-adds-a-group",
        lambda: include([route("chat", consumer)], path="/(?P<room>.)"),
        "route('chat', consumer) in include(..., path='/(?P<room>.)'): the consumer consumer(message:"
        " channels_core.message.Message) -> None cannot be called as consumer(message, room=...): got an unexpected"
        f" keyword argument 'room'. {CALLED}",
    ),
    (
        "nobody-captures-it",
        lambda: Router([route("chat", in_room)]),
        "route('chat', in_room): the consumer in_room(message: channels_core.message.Message, room: str) -> None cannot"
        f" be called as consumer(message): missing a required argument: 'room'. {CALLED}",
    ),
    (
        "nobody-captures-it-inside",
        lambda: Router([include([route("chat", in_room)], path="/x")]),
        "route('chat', in_room) in include(..., path='/x'): the consumer in_room(message:"
        " channels_core.message.Message, room: str) -> None cannot be called as consumer(message): missing a required"
        f" argument: 'room'. {CALLED}",
    ),
    (
        "positional-group",
        lambda: route("chat", consumer, path="/(.)"),
        "route('chat', consumer, path='/(.)'): the filter path='/(.)' has a group without a name, and consumers take"
        " what is captured by name only. Write (?P<name>...) to capture, or (?:...) to group.",
    ),
    (
        "positional-group-in-include",
        lambda: include(A_LIST, path=re.compile("/(.)")),
        "include(..., path='/(.)'): the filter path='/(.)' has a group without a name, and consumers take what is"
        " captured by name only. Write (?P<name>...) to capture, or (?:...) to group.",
    ),
    (
        "no-regular-expression",
        lambda: route("chat", consumer, path="("),
        "route('chat', consumer, path='('): the filter path='(' is no regular expression: missing ), unterminated"
        " subpattern at position 0. Correct it.",
    ),
    (
        "too-large-a-repetition",
        lambda: route("chat", consumer, path="a{99999999999999999999}"),
        "route('chat', consumer, path='a{99999999999999999999}'): the filter path='a{99999999999999999999}' is no"
        " regular expression: the repetition number is too large. Correct it.",
    ),
    (
        "filter-of-another-type",
        lambda: route("chat", consumer, order=0),
        "route('chat', consumer, order=0): the filter order=0 is int. A filter is a regular expression, as text, bytes"
        " or re.compile(...), for the message's value under that key.",
    ),
    (
        "bytes-that-are-not-ascii",
        lambda: route("chat", consumer, path=b"\xff"),
        r"route('chat', consumer, path=b'\xff'): the filter path=b'\xff' is bytes that are not ASCII. Message values"
        " are compared as text: write the pattern as text.",
    ),
    (
        "no-channel-name",
        lambda: route("not a channel", consumer),
        "route('not a channel', consumer): no message can come from channel 'not a channel'. 'not a channel' is not a"
        " name to receive from. Use 1 to 99 ASCII letters, digits, '.', '-' and '_', then nothing, '!' or"
        " '?something'.",
    ),
    (
        "bytes-channel",
        lambda: route(b"\xff", consumer),
        r"route(b'\xff', consumer): no message can come from channel b'\xff'. 'ascii' codec can't decode byte 0xff in"
        " position 0: ordinal not in range(128)",
    ),
    (
        "no-channel",
        lambda: route([], consumer),
        "route([], consumer) names no channel, so it can never match. Name at least one.",
    ),
    (
        "channel-of-another-type",
        lambda: route(5, consumer),  # type: ignore[arg-type]  # what is tested
        "route(5, consumer): the channels are 5 (int). Give a channel name or several.",
    ),
    (
        "route-class-without-names",
        lambda: route_class(NoNames),
        "route_class(NoNames): NoNames has no channel_names(), so nobody knows which channels it takes. Give it that"
        " class method, or name the channels with route(channels, consumer).",
    ),
    (
        "route-class-with-an-instance-method",
        lambda: route_class(InstanceNames),
        "route_class(InstanceNames): InstanceNames.channel_names() cannot be called on the class:"
        " InstanceNames.channel_names() missing 1 required positional argument: 'self'. Make it a class method without"
        " arguments.",
    ),
    (
        "routing-of-another-type",
        lambda: Router(5),
        "ROUTING is 5 (int): it is a list of routes, a dict of channel names and consumers, or the import string of"
        " one.",
    ),
    (
        "routing-names-something-else",
        lambda: Router(f"{HERE}.consumer"),
        "ROUTING, 'consumer', is <function consumer at 0x...> (function): it is a list of routes, a dict of channel"
        " names and consumers, or the import string of one.",
    ),
    (
        "routing-nowhere",
        lambda: Router("no_such_module.routes"),
        "ROUTING names 'no_such_module.routes', but there is no module 'no_such_module'. Correct the path.",
    ),
    (
        "entry-of-another-type",
        lambda: Router([route("chat", consumer), "chat"]),
        "ROUTING has 'chat' (str) at index 1: every entry is a route(...), route_class(...) or include(...).",
    ),
    (
        "include-of-another-type",
        lambda: include([5], path="/a"),
        "include(..., path='/a') has 5 (int) at index 0: every entry is a route(...), route_class(...) or"
        " include(...).",
    ),
]


@pytest.mark.parametrize(("make", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_could_never_run_is_refused_when_it_is_made(make: Callable[[], object], text: str) -> None:
    assert re.sub("0x[0-9a-f]{3,}", "0x...", attempt(make)) == text.replace("{HERE}", HERE)


def test_an_import_that_fails_is_named_and_chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_on_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidRouteError) as caught:
        route("chat", "breaks_on_import.consumer")
    assert str(caught.value) == (
        "route('chat', 'breaks_on_import.consumer'): the consumer names 'breaks_on_import.consumer', and importing it"
        " failed: ZeroDivisionError: division by zero. Correct the path."
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def decorated(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def inner(message: Message) -> Any:
        return func(message, "injected")

    return inner


@decorated
def takes_an_injected_argument(message: Message, extra: str) -> None: ...


def test_a_decorator_may_change_the_signature() -> None:
    assert match([route("chat", takes_an_injected_argument)], message()) == (takes_an_injected_argument, {})
    with pytest.raises(InvalidRouteError, match="unexpected keyword argument 'room'"):
        route("chat", takes_an_injected_argument, path="(?P<room>.)")


def test_callables_that_keep_their_signature_to_themselves_pass() -> None:
    with pytest.raises(ValueError, match="no signature"):
        __import__("inspect").signature(dict)
    assert match([route("chat", dict)], message()) == (dict, {})


def test_a_default_makes_a_group_optional() -> None:
    assert match([route("chat", with_default)], message()) == (with_default, {})


# The plugin


def test_the_plugin_registers_one_router_named_regex() -> None:
    (registration,) = channels_register_routers()
    assert (registration.name, registration.target) == ("regex", "channels_router_regex.router:Router")
    manager = get_plugin_manager()
    assert manager.load("router", "regex") is Router
    owner = manager.find("router", "regex").plugin
    assert (owner.distribution, owner.name) == ("channels-router-regex", "regex")


def test_it_can_be_blocked() -> None:
    manager = PluginManager(blocked=["channels-router-regex"])
    assert "regex" not in [entry.name for entry in manager.registered("router")]
