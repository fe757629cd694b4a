"""The kits catch what they are there for: for each law a plugin that breaks it."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from channels_core import InvalidRouteError, Message
from channels_core.origins import OriginValidator
from channels_core.routing import Consumer, Match, Router, is_async_consumer
from channels_core.testing.conformance.origin_validators import OriginValidatorConformance
from channels_core.testing.conformance.routers import RouterConformance

pytest_plugins = ["pytester"]


class Table(Router):
    """Breaks no law, but does not look at its consumers."""

    def __init__(self, consumers: Mapping[str, Consumer]) -> None:
        self.consumers = dict(consumers)

    @property
    def channels(self) -> set[str]:
        return set(self.consumers)

    @property
    def async_channels(self) -> set[str]:
        return {channel for channel, consumer in self.consumers.items() if is_async_consumer(consumer)}

    def match(self, message: Message) -> Match | None:
        consumer = self.consumers.get(message.channel_name or "")
        return None if consumer is None else (consumer, {})


class ListOfChannels(Table):
    @property
    def channels(self) -> Any:
        return list(self.consumers)


class Greedy(Table):
    def match(self, message: Message) -> Match | None:
        return next(iter(self.consumers.values())), {}


class NoAsync(Table):
    @property
    def async_channels(self) -> set[str]:
        return set()


class SharedArguments(Table):
    def __init__(self, consumers: Mapping[str, Consumer]) -> None:
        super().__init__(consumers)
        self.kwargs: dict[str, Any] = {}

    def match(self, message: Message) -> Match | None:
        found = super().match(message)
        return None if found is None else (found[0], self.kwargs)


class Changing(Table):
    def match(self, message: Message) -> Match | None:
        message.content.pop("headers", None)
        return super().match(message)


class Raising(Table):
    def match(self, message: Message) -> Match | None:
        re.match("/", message.get("path", ""))
        return super().match(message)


class Alternating(Table):
    turn = 0

    def match(self, message: Message) -> Match | None:
        self.turn += 1
        return super().match(message) if self.turn % 2 else None


class LastAsked(Table):
    """Keeps the question on itself, so that threads get one another's answers."""

    asked: str | None = None

    def match(self, message: Message) -> Match | None:
        self.asked = message.channel_name
        time.sleep(0)  # lets another thread ask
        consumer = self.consumers.get(self.asked or "")
        return None if consumer is None else (consumer, {})


ALL: dict[str, Consumer] = {}


class Global(Table):
    def __init__(self, consumers: Mapping[str, Consumer]) -> None:
        super().__init__(consumers)
        ALL.update(consumers)
        self.consumers = ALL


class NoRouter:
    def __init__(self, consumers: Mapping[str, Consumer]) -> None: ...


ROUTER_LAWS = [
    ("test_it_is_a_router", NoRouter),
    ("test_channels_is_the_set_of_what_it_routes", ListOfChannels),
    ("test_each_channel_finds_its_consumer", Greedy),
    ("test_what_it_does_not_route_is_no_match", Greedy),
    ("test_async_channels_are_those_with_async_consumers", NoAsync),
    ("test_the_keyword_arguments_belong_to_the_asker", SharedArguments),
    ("test_no_content_makes_it_raise_or_is_changed", Changing),
    ("test_no_content_makes_it_raise_or_is_changed", Raising),
    ("test_the_same_question_has_the_same_answer", Alternating),
    ("test_many_threads_may_ask_at_once", LastAsked),
    ("test_routers_share_nothing", Global),
    ("test_what_cannot_be_called_is_refused_when_the_router_is_made", Table),
    ("test_what_takes_no_message_is_refused_when_the_router_is_made", Table),
]


def laws(kit: type) -> set[str]:
    return {name for name in dir(kit) if name.startswith("test_")}


def check_router(law: str, make: Callable[[Mapping[str, Consumer]], Any]) -> None:
    class Kit(RouterConformance):
        def make_router(self, consumers: Mapping[str, Consumer]) -> Router:
            router: Router = make(consumers)
            return router

    ALL.clear()
    getattr(Kit(), law)()


@pytest.mark.parametrize(("law", "broken"), ROUTER_LAWS, ids=lambda value: getattr(value, "__name__", value))
def test_a_router_that_breaks_a_law_fails_that_test(law: str, broken: type[Any]) -> None:
    with pytest.raises((AssertionError, TypeError, pytest.fail.Exception)):
        check_router(law, broken)


@pytest.mark.parametrize("law", sorted(laws(RouterConformance)))
def test_every_law_of_routers_can_be_broken_and_kept(law: str) -> None:
    assert law in [name for name, _ in ROUTER_LAWS]

    def strict(consumers: Mapping[str, Any]) -> Table:
        for consumer in consumers.values():
            if not callable(consumer) or consumer.__qualname__.rpartition(".")[2].startswith("takes_"):
                raise InvalidRouteError("unfit")
        return Table(consumers)

    lenient = law.startswith(("test_async", "test_many"))  # instances and partials have no name
    check_router(law, Table if lenient else strict)


class Pages(OriginValidator):
    """Breaks no law: exactly what the kits below list as allowed."""

    def is_allowed(self, origin: str, host: str | None) -> bool:
        return origin == "https://example.com:8443"


class Prefix(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return origin.startswith("https://example.com")


class Everything(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return True


class Nothing(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return False


class Truthy(Pages):
    def is_allowed(self, origin: str, host: str | None) -> Any:
        return re.match(r"https://example\.com:8443\Z", origin)


class Splitting(Pages):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return origin.split("://", 1)[1] == "example.com:8443" and origin.startswith("https")


class Remembering(Pages):
    asked = ""

    def is_allowed(self, origin: str, host: str | None) -> bool:
        self.asked = origin
        time.sleep(0)  # lets another thread ask
        return super().is_allowed(self.asked, host)


class LoopAware(Pages):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return super().is_allowed(origin, host)
        return False


class NoValidator:
    pass


ORIGIN_LAWS = [
    ("test_it_is_an_origin_validator", NoValidator),
    ("test_it_lets_in_what_it_should", Nothing),
    ("test_it_lets_in_what_it_should", Truthy),
    ("test_it_refuses_what_it_should", Everything),
    ("test_what_is_no_page_is_refused", Everything),
    ("test_lookalikes_of_what_is_allowed_are_refused", Prefix),
    ("test_nothing_makes_it_raise_or_hesitate", Splitting),
    ("test_many_threads_get_the_same_answers", Remembering),
    ("test_it_answers_where_an_event_loop_runs", LoopAware),
]


def check_origin(law: str, validator: Any) -> None:
    class Kit(OriginValidatorConformance):
        allowed = ("https://example.com:8443",)
        refused = ("https://example.com", "http://example.com:8443")

    getattr(Kit(), law)(validator)


@pytest.mark.parametrize(("law", "broken"), ORIGIN_LAWS, ids=lambda value: getattr(value, "__name__", value))
def test_a_validator_that_breaks_a_law_fails_that_test(law: str, broken: type[Any]) -> None:
    with pytest.raises((AssertionError, IndexError)):
        check_origin(law, broken())


@pytest.mark.parametrize("law", sorted(laws(OriginValidatorConformance)))
def test_every_law_of_validators_can_be_broken_and_kept(law: str) -> None:
    assert law in [name for name, _ in ORIGIN_LAWS]
    check_origin(law, Pages())


class Empty(OriginValidatorConformance):
    pass


def test_a_kit_without_its_plugin_says_what_to_write() -> None:
    class Bare(RouterConformance):
        pass

    with pytest.raises(NotImplementedError) as caught:
        Bare().test_it_is_a_router()
    assert str(caught.value) == (
        "Bare does not say how a router is made: define make_router(self, consumers) in it, returning a router for that"
        " mapping of channel name to consumer."
    )
    for law, text in (
        ("test_it_lets_in_what_it_should", "list some origins that it lets in as `allowed`"),
        ("test_it_refuses_what_it_should", "list some origins that it refuses as `refused`"),
    ):
        with pytest.raises(AssertionError, match=text):
            getattr(Empty(), law)(Pages())


def test_a_kit_without_its_fixture_says_what_to_write(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_own="""
        from channels_core.testing.conformance.origin_validators import OriginValidatorConformance

        class TestOwn(OriginValidatorConformance):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-k", "test_it_is", "-p", "no:asyncio", "-p", "no:django")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*NotImplementedError: TestOwn does not say how a validator is made: define the fixture validator(self) in"
            " it, and list some origins that it lets in as allowed, and some others as refused."
        ]
    )
