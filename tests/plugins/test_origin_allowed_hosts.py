"""Which origins are let in: one table of cases, put to the validator and to the decorator in all its forms."""

import asyncio
import functools
import inspect
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from channels_core import ConfigurationError, DenyConnection, Message
from channels_core.plugins import get_plugin_manager
from channels_core.routing import is_async_consumer
from channels_origin_allowed_hosts import (
    AllowedHosts,
    AllowedHostsOnlyOriginValidator,
    BaseOriginValidator,
    allowed_hosts_only,
)
from channels_origin_allowed_hosts.plugin import channels_register_origin_validators
from channels_router_regex import Router, route


@pytest.fixture(autouse=True, scope="module")
def _settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_SETTINGS_MODULE", "testsite.settings")
        assert settings.ALLOWED_HOSTS
        yield


EXAMPLE = ["example.com"]
DOTTED = [".example.com"]
ANY = ["*"]
IPV6 = ["[2001:db8::1]", "[::1]"]
YES, NO = True, False

CASES: list[tuple[list[str], str, bool]] = [
    # the plain case
    (EXAMPLE, "http://example.com", YES),
    (EXAMPLE, "https://example.com", YES),
    (EXAMPLE, "https://other.com", NO),
    (["a.com", "b.com"], "https://b.com", YES),
    ([], "http://example.com", NO),
    # lookalikes
    (EXAMPLE, "http://www.example.com", NO),
    (EXAMPLE, "http://example.com.evil.com", NO),
    (["www.example.com"], "http://www.example.com.evil.com", NO),
    (EXAMPLE, "http://evilexample.com", NO),
    (EXAMPLE, "http://example.co", NO),
    (EXAMPLE, "http://example.community", NO),
    (EXAMPLE, "http://exampleXcom", NO),
    (EXAMPLE, "http://example-com", NO),
    (EXAMPLE, "http://evil.com/example.com", NO),
    (EXAMPLE, "http://evil.com?example.com", NO),
    (EXAMPLE, "http://evil.com#example.com", NO),
    (EXAMPLE, "http://evil.com;example.com", NO),
    (EXAMPLE, "http://evil.com\\example.com", NO),
    (EXAMPLE, "http://example.com\\.evil.com", NO),
    (EXAMPLE, "http://example.com%2eevil.com", NO),
    (EXAMPLE, "http://example.com%00.evil.com", NO),
    # subdomains
    (DOTTED, "http://example.com", YES),
    (DOTTED, "http://www.example.com", YES),
    (DOTTED, "http://a.b.example.com", YES),
    (DOTTED, "http://evilexample.com", NO),
    (DOTTED, "http://example.com.evil.com", NO),
    (DOTTED, "http://www.example.com.evil.com", NO),
    (DOTTED, "http://.example.com", NO),
    (DOTTED, "http://a..example.com", NO),
    (["."], "http://example.com", NO),
    (["*.example.com"], "http://www.example.com", NO),  # no wildcard of Django's
    ([""], "http://", NO),
    ([""], "http://example.com", NO),
    # the wildcard lets every page in, and still nothing that is no page
    (ANY, "http://example.com", YES),
    (ANY, "https://[::1]:8000", YES),
    (ANY, "", NO),
    (ANY, "null", NO),
    (ANY, "*", NO),
    (ANY, "http://*", NO),
    # schemes
    (EXAMPLE, "HTTP://example.com", YES),
    (EXAMPLE, "ws://example.com", NO),
    (EXAMPLE, "wss://example.com", NO),
    (EXAMPLE, "ftp://example.com", NO),
    (EXAMPLE, "file://example.com", NO),
    (EXAMPLE, "httpx://example.com", NO),
    (EXAMPLE, "xhttp://example.com", NO),
    (EXAMPLE, "chrome-extension://example.com", NO),
    (EXAMPLE, "javascript://example.com", NO),
    (EXAMPLE, "blob:https://example.com", NO),
    (EXAMPLE, "example.com", NO),
    (EXAMPLE, "//example.com", NO),
    (EXAMPLE, "http:example.com", NO),
    (EXAMPLE, "http:/example.com", NO),
    (EXAMPLE, "http:///example.com", NO),
    (EXAMPLE, "://example.com", NO),
    (EXAMPLE, "http://", NO),
    (EXAMPLE, "http", NO),
    (ANY, "file://", NO),
    (ANY, "about:blank", NO),
    (ANY, "data:text/html,hello", NO),
    # ports: ALLOWED_HOSTS has none, so any real one
    (EXAMPLE, "http://example.com:80", YES),
    (EXAMPLE, "https://example.com:8443", YES),
    (EXAMPLE, "http://example.com:1", YES),
    (EXAMPLE, "http://example.com:65535", YES),
    (EXAMPLE, "http://example.com:65536", NO),
    (EXAMPLE, "http://example.com:99999", NO),
    (EXAMPLE, "http://example.com:999999", NO),
    (EXAMPLE, "http://example.com:0", NO),
    (EXAMPLE, "http://example.com:080", NO),
    (EXAMPLE, "http://example.com:", NO),
    (EXAMPLE, "http://example.com:-1", NO),
    (EXAMPLE, "http://example.com:+80", NO),
    (EXAMPLE, "http://example.com:8_0", NO),
    (EXAMPLE, "http://example.com:http", NO),
    (EXAMPLE, "http://example.com:80:80", NO),
    (EXAMPLE, "http://example.com:\u0668\u0660", NO),
    (EXAMPLE, "http://evil.com:example.com", NO),
    (
        ["example.com:8000"],
        "http://example.com:8000",
        NO,
    ),  # an entry with a port names nothing, as for Django
    # userinfo
    (EXAMPLE, "http://user@example.com", NO),
    (EXAMPLE, "http://user:pass@example.com", NO),
    (EXAMPLE, "http://@example.com", NO),
    (EXAMPLE, "http://example.com@evil.com", NO),
    (EXAMPLE, "http://example.com:80@evil.com", NO),
    (EXAMPLE, "http://example.com%40evil.com", NO),
    # more than an origin
    (EXAMPLE, "http://example.com/", NO),
    (EXAMPLE, "http://example.com/path", NO),
    (EXAMPLE, "http://example.com?", NO),
    (EXAMPLE, "http://example.com#", NO),
    (EXAMPLE, "http://example.com http://evil.com", NO),
    (EXAMPLE, "http://example.com,http://evil.com", NO),
    (EXAMPLE, "http://example.com, http://example.com", NO),
    # no page
    (EXAMPLE, "", NO),
    (EXAMPLE, "null", NO),
    (EXAMPLE, "file://", NO),
    (["null"], "null", NO),
    (["null"], "http://null", YES),  # somebody's host may be called so
    # letter case, white space, control characters
    (EXAMPLE, "hTTps://EXAMPLE.Com", YES),
    (["EXAMPLE.com"], "http://example.com", YES),
    ([".EXAMPLE.com"], "http://www.example.com", YES),
    (EXAMPLE, " http://example.com", NO),
    (EXAMPLE, "http://example.com ", NO),
    (EXAMPLE, "http://exa mple.com", NO),
    (EXAMPLE, "http://example.com\n", NO),
    (EXAMPLE, "http://example.com\r\nOrigin: x", NO),
    (EXAMPLE, "\thttp://example.com", NO),
    (EXAMPLE, "http://example.com\x00", NO),
    (EXAMPLE, "http://example.com\x00.evil.com", NO),
    (EXAMPLE, "http://example.com\x0b", NO),
    (EXAMPLE, "http://example.com\x85", NO),
    (EXAMPLE, "http://example.com\x7f", NO),
    # trailing dots: one is the same host, as for Django
    (EXAMPLE, "http://example.com.", YES),
    (EXAMPLE, "http://example.com.:8000", YES),
    (EXAMPLE, "http://example.com..", NO),
    (DOTTED, "http://www.example.com.", YES),
    (DOTTED, "http://www.example.com..", NO),
    (ANY, "http://.", NO),
    (ANY, "http://..", NO),
    # international names: browsers send punycode
    (["xn--bcher-kva.example"], "https://xn--bcher-kva.example", YES),
    (["xn--bcher-kva.example"], "https://XN--BCHER-KVA.example", YES),
    (["xn--bcher-kva.example"], "https://bücher.example", NO),
    (["bücher.example"], "https://bücher.example", NO),
    (["bücher.example"], "https://xn--bcher-kva.example", NO),
    (EXAMPLE, "http://\u0435xample.com", NO),  # a Cyrillic e
    (EXAMPLE, "http://example\u3002com", NO),  # an ideographic full stop
    (EXAMPLE, "http://\uff45xample.com", NO),  # a full-width e
    (["kelvin.com"], "http://\u212aelvin.com", NO),  # the Kelvin sign is a k to str.lower()
    (ANY, "http://bücher.example", NO),
    (ANY, "http://\ud800.example", NO),
    # addresses
    (["127.0.0.1"], "http://127.0.0.1:8000", YES),
    (["127.0.0.1"], "http://127.0.0.10", NO),
    (["127.0.0.1"], "http://127.1", NO),
    (["127.0.0.1"], "http://0x7f.0.0.1", NO),
    (["127.0.0.1"], "http://2130706433", NO),
    (["127.0.0.1"], "http://[::ffff:127.0.0.1]", NO),
    (IPV6, "http://[2001:db8::1]", YES),
    (IPV6, "http://[2001:DB8::1]:8000", YES),
    (IPV6, "http://[::1]:8000", YES),
    (IPV6, "http://[2001:db8::2]", NO),
    (IPV6, "http://2001:db8::1", NO),
    (IPV6, "http://::1", NO),
    (IPV6, "http://[::1", NO),
    (IPV6, "http://::1]", NO),
    (IPV6, "http://[::1]evil.com", NO),
    (IPV6, "http://[::1].evil.com", NO),
    (IPV6, "http://[::1%25eth0]", NO),
    (IPV6, "http://[::1%eth0]", NO),
    (IPV6, "http://[example.com]", NO),
    (IPV6, "http://[]", NO),
    (ANY, "http://[::1::1]", NO),
    (ANY, "http://[12345::1]", NO),
    (ANY, "http://[1.2.3.4]", NO),
    (ANY, "http://[v1.x]", NO),
    (["::1"], "http://[::1]", NO),  # Django wants the brackets too
    # names that Django would not take as a Host
    (ANY, "http://my_host", NO),
    (ANY, "http://a!b", NO),
    (ANY, "http://a$b", NO),
    (ANY, "http://a'b", NO),
    (ANY, "http://-", YES),
    # length
    (ANY, "http://" + "a" * 63 + ".example", YES),
    (ANY, "http://" + "a" * 300, NO),
    (ANY, "http://" + "a." * 50_000 + "b", NO),
    (ANY, "h" * 1_000_000, NO),
    (ANY, "http://a:" + "8" * 100_000, NO),
]

Door = Callable[[str], bool]


def is_let_in(call: Callable[[], Any]) -> bool:
    try:
        returned = call()
        if inspect.isawaitable(returned):

            async def wait() -> Any:
                return await returned

            returned = asyncio.run(wait())
    except DenyConnection:
        return False
    assert returned == "ran"
    return True


def connecting(headers: object) -> Message:
    return Message({"path": "/", "headers": headers}, "websocket.connect", None)


def wire(origin: str) -> bytes:
    return origin.encode("utf-8", "surrogatepass")


@allowed_hosts_only
def consumer(message: Message, **kwargs: Any) -> str:
    return "ran"


@allowed_hosts_only
async def aconsumer(message: Message, **kwargs: Any) -> str:
    return "ran"


class Consumers:
    @allowed_hosts_only
    def method(self, message: Message) -> str:
        assert isinstance(self, Consumers)
        return "ran"

    @allowed_hosts_only
    async def amethod(self, message: Message) -> str:
        assert isinstance(self, Consumers)
        return "ran"


DOORS: dict[str, Door] = {
    "validator": lambda origin: AllowedHosts().is_allowed(origin, "example.com"),
    "validator, no host": lambda origin: AllowedHosts().is_allowed(origin, None),
    "decorator, tuples": lambda origin: is_let_in(
        lambda: consumer(connecting([(b"host", b"x"), (b"origin", wire(origin))]))
    ),
    "decorator, lists": lambda origin: is_let_in(lambda: consumer(connecting([[b"origin", wire(origin)]]))),
    "decorator, dict": lambda origin: is_let_in(lambda: consumer(connecting({"Origin": wire(origin)}))),
    "decorator, text": lambda origin: is_let_in(lambda: consumer(connecting([("Origin", origin)]))),
    "decorator, async": lambda origin: is_let_in(lambda: aconsumer(connecting([(b"origin", wire(origin))]))),
    "decorator, method": lambda origin: is_let_in(
        lambda: Consumers().method(connecting([(b"origin", wire(origin))]))
    ),
    "decorator, async method": lambda origin: is_let_in(
        lambda: Consumers().amethod(connecting([(b"origin", wire(origin))]))
    ),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_every_case_at_every_door(door: Door) -> None:
    wrong = []
    for allowed, origin, expected in CASES:
        with override_settings(ALLOWED_HOSTS=allowed, DEBUG=False):
            if door(origin) is not expected:
                wrong.append((allowed, origin[:80], f"should be {expected}"))
    assert wrong == []


def test_the_table_says_both_things_often_and_nothing_twice() -> None:
    answers = [expected for _, _, expected in CASES]
    assert answers.count(YES) > 25
    assert answers.count(NO) > 100
    keys = [(tuple(allowed), origin) for allowed, origin, _ in CASES]
    assert sorted({key for key in keys if keys.count(key) > 1}) == []


LOCAL: list[tuple[str, bool]] = [
    ("http://localhost:8000", YES),
    ("http://chat.localhost", YES),
    ("http://127.0.0.1:5173", YES),
    ("http://[::1]", YES),
    ("http://example.com", NO),
    ("http://localhost.evil.com", NO),
    ("http://notlocalhost", NO),
    ("http://127.0.0.2", NO),
]


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_debug_without_entries_means_localhost_as_for_django(door: Door) -> None:
    with override_settings(ALLOWED_HOSTS=[], DEBUG=True):
        assert [(origin, door(origin)) for origin, _ in LOCAL] == LOCAL
    with override_settings(ALLOWED_HOSTS=[], DEBUG=False):
        assert [door(origin) for origin, _ in LOCAL] == [False] * len(LOCAL)
    with override_settings(ALLOWED_HOSTS=EXAMPLE, DEBUG=True):
        assert not door("http://localhost")
        assert door("http://example.com")


def test_settings_are_read_live() -> None:
    validator = AllowedHosts()
    with override_settings(ALLOWED_HOSTS=EXAMPLE):
        assert validator.is_allowed("http://example.com", None)
        settings.ALLOWED_HOSTS.append("later.example")
        assert validator.is_allowed("http://later.example", None)
        settings.ALLOWED_HOSTS.remove("later.example")
    with override_settings(ALLOWED_HOSTS=("other.example",)):
        assert not validator.is_allowed("http://example.com", None)
        assert validator.is_allowed("http://other.example", None)


# Headers of a message


@pytest.mark.parametrize(
    "headers",
    [
        [],
        {},
        None,
        [(b"host", b"example.com")],
        [(b"x-origin", b"http://example.com")],
        [(b"origin", b"")],
        [(b"origin", b"http://example.com"), (b"origin", b"http://example.com")],
        [(b"origin", b"http://example.com"), (b"Origin", b"http://evil.com")],
        [(b"origin", b"http://evil.com"), ("origin", "http://example.com")],
        [(b"origin", b"\xff\xfe")],
        [(b"origin", None)],
        [(None, b"http://example.com")],
    ],
    ids=repr,
)
@pytest.mark.parametrize("allowed", [EXAMPLE, ANY], ids=repr)
def test_a_missing_repeated_or_unreadable_origin_is_refused(headers: object, allowed: list[str]) -> None:
    with override_settings(ALLOWED_HOSTS=allowed):
        assert not is_let_in(lambda: consumer(connecting(headers)))


def test_a_message_without_any_headers_is_refused() -> None:
    assert not is_let_in(lambda: consumer(Message({"text": "hi"}, "websocket.connect", None)))


def test_headers_can_be_read_by_name() -> None:
    class Reader(BaseOriginValidator):
        read: list[object] = []  # noqa: RUF012 - seen by the test through the class

        def validate_origin(self, message: Message, origin: str | None) -> bool:
            self.read += [self.get_header(message, name) for name in ("Cookie", b"cookie", "accept", "none")]
            self.read += [self.get_origin(message), origin]
            return True

    @Reader
    def reading(message: Message) -> str:
        return "ran"

    headers = [(b"cookie", b"a=1"), [b"accept", b"x"], ("Accept", "y"), (b"origin", b"http://\xe9")]
    assert is_let_in(lambda: reading(connecting(headers)))
    assert Reader.read == [b"a=1", b"a=1", b"x,y", None, "http://é", "http://é"]


# The decorator


def test_the_consumer_keeps_its_name_kind_and_arguments() -> None:
    assert consumer.__name__ == "consumer"
    assert not is_async_consumer(consumer)
    assert is_async_consumer(aconsumer)
    assert inspect.iscoroutinefunction(Consumers().amethod)
    assert str(inspect.signature(consumer, follow_wrapped=False)).startswith("(message: ")
    with override_settings(ALLOWED_HOSTS=EXAMPLE):
        headers = [(b"origin", b"http://example.com")]
        assert consumer(connecting(headers), room="lobby") == "ran"


def test_a_route_sees_what_the_consumer_under_it_takes() -> None:
    @allowed_hosts_only
    def narrow(message: Message) -> None: ...

    assert Router([route("websocket.connect", narrow)]).async_channels == set()
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'room'"):
        route("websocket.connect", narrow, path="(?P<room>.)")
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'room'"):
        route("websocket.connect", Consumers().amethod, path="(?P<room>.)")
    assert Router([route("websocket.connect", aconsumer)]).async_channels == {"websocket.connect"}


def test_partials_and_callable_objects_can_be_decorated() -> None:
    class Asynchronous:
        async def __call__(self, message: Message) -> str:
            return "ran"

    allowed = connecting([(b"origin", b"http://example.com")])
    refused = connecting([])
    with override_settings(ALLOWED_HOSTS=EXAMPLE):
        for candidate in (functools.partial(consumer, room="x"), Asynchronous()):
            decorated = allowed_hosts_only(candidate)
            assert is_async_consumer(decorated) is is_async_consumer(candidate)
            assert is_let_in(functools.partial(decorated, allowed))
            assert not is_let_in(functools.partial(decorated, refused))


def test_a_refusal_says_why_in_exception_and_log(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "Refused a WebSocket {} AllowedHostsOnlyOriginValidator of "
        + __name__
        + ".consumer does not allow it. If such pages may connect, add their host to ALLOWED_HOSTS."
    )
    with override_settings(ALLOWED_HOSTS=EXAMPLE), caplog.at_level(logging.WARNING, "channels.origin"):
        with pytest.raises(DenyConnection) as caught:
            consumer(connecting([(b"origin", b"http://evil.com\r\nforged")]))
        assert str(caught.value) == text.format("from origin 'http://evil.com\\r\\nforged':")
        with pytest.raises(DenyConnection) as caught:
            consumer(connecting([]))
        assert str(caught.value) == text.format("without an Origin header:")
        with pytest.raises(DenyConnection):
            consumer(connecting([(b"origin", b"x" * 100_000)]))
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "Refused a WebSocket from origin 'http://evil.com\\r",
        "Refused a WebSocket without an Origin header: Allo",
        "Refused a WebSocket from origin 'xxxxxxxxxxxxxxxxx",
    ]
    assert max(len(record.getMessage()) for record in caplog.records) < 400


def test_own_validators_decide_by_message_and_origin() -> None:
    class PartnersOnly(BaseOriginValidator):
        def validate_origin(self, message: Message, origin: str | None) -> bool:
            return origin is None or (message["path"] == "/" and origin == "https://partner.example")

    @PartnersOnly
    def partner(message: Message) -> str:
        return "ran"

    assert is_let_in(lambda: partner(connecting([])))
    assert is_let_in(lambda: partner(connecting([(b"origin", b"https://partner.example")])))
    assert not is_let_in(lambda: partner(connecting([(b"origin", b"http://partner.example")])))


def test_the_old_validator_class_is_the_decorator() -> None:
    @AllowedHostsOnlyOriginValidator
    def old(message: Message) -> str:
        return "ran"

    with override_settings(ALLOWED_HOSTS=EXAMPLE):
        assert is_let_in(lambda: old(connecting([(b"origin", b"http://example.com")])))
        assert not is_let_in(lambda: old(connecting([])))


# Errors


def test_a_validator_that_does_not_say_what_it_allows() -> None:
    @BaseOriginValidator
    def undecided(message: Message) -> None: ...

    with pytest.raises(NotImplementedError) as caught:
        undecided(connecting([]))
    assert str(caught.value) == (
        "BaseOriginValidator does not say which origins it allows: define validate_origin(self, message, origin) in it."
    )


def test_a_call_without_a_message() -> None:
    with pytest.raises(TypeError) as caught:
        consumer({"headers": []})  # type: ignore[arg-type]  # what is tested
    assert str(caught.value) == (
        "AllowedHostsOnlyOriginValidator was called without a message as first or second positional argument: decorate"
        " a consumer taking (message) or a method taking (self, message)."
    )


@pytest.mark.parametrize(("given", "shown"), [(int, "<class 'int'>"), ("consumer", "'consumer'")])
def test_what_cannot_be_decorated(given: Any, shown: str) -> None:
    with pytest.raises(TypeError) as caught:
        allowed_hosts_only(given)
    assert str(caught.value) == (
        f"AllowedHostsOnlyOriginValidator decorates functions and methods, not {shown}: in a class-based consumer,"
        " decorate the method that handles websocket.connect."
    )


@pytest.mark.parametrize(
    ("given", "shown"), [("*.example.com", "'*.example.com' (str)"), (None, "None (NoneType)")]
)
def test_allowed_hosts_that_is_no_list(given: object, shown: str) -> None:
    with override_settings(ALLOWED_HOSTS=given), pytest.raises(ConfigurationError) as caught:
        AllowedHosts()
    assert str(caught.value) == (
        f"ALLOWED_HOSTS is {shown}: make it a list of hosts, such as ['example.com'], since every letter of a text"
        " would count as an entry."
    )


def test_entries_that_are_no_text_name_nothing() -> None:
    with override_settings(ALLOWED_HOSTS=[None, 5, "example.com"]):
        assert AllowedHosts().is_allowed("http://example.com", None)
        assert not AllowedHosts().is_allowed("http://none", None)


# The process around it


def run_python(code: str, **environ: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "tests/site", **environ}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=30
    )
    return run.stdout.strip()


def test_without_settings_the_error_says_what_to_do() -> None:
    code = """
from channels_origin_allowed_hosts import AllowedHosts
from channels_core import ConfigurationError
try:
    AllowedHosts()
except ConfigurationError as exc:
    print(exc)
"""
    assert run_python(code) == (
        "The origin validator 'allowed-hosts' reads Django's ALLOWED_HOSTS, and there are no settings (Requested"
        " setting ALLOWED_HOSTS, but settings are not configured. You must either define the environment variable"
        " DJANGO_SETTINGS_MODULE or call settings.configure() before accessing settings). Set DJANGO_SETTINGS_MODULE,"
        " or choose another validator, or None, as ORIGIN_VALIDATOR."
    )


def test_it_imports_the_settings_and_nothing_else_of_the_project() -> None:
    code = """
import sys
from channels_origin_allowed_hosts import AllowedHosts
assert "testsite.settings" not in sys.modules
assert AllowedHosts().is_allowed("http://localhost:8000", None)
from django.apps import apps
assert not apps.ready and not apps.app_configs
print(sorted(name for name in sys.modules if name.startswith("testsite")), "django.contrib.auth" in sys.modules)
"""
    assert run_python(code, DJANGO_SETTINGS_MODULE="testsite.settings") == (
        "['testsite', 'testsite.settings'] False"
    )


def test_the_plugin_registers_one_validator_named_allowed_hosts() -> None:
    (registration,) = channels_register_origin_validators()
    assert (registration.name, registration.target) == (
        "allowed-hosts",
        "channels_origin_allowed_hosts.origins:AllowedHosts",
    )
    manager = get_plugin_manager()
    assert manager.load("origin validator", "allowed-hosts") is AllowedHosts
    assert (
        manager.find("origin validator", "allowed-hosts").plugin.distribution
        == "channels-origin-allowed-hosts"
    )


def test_the_package_has_no_other_names() -> None:
    import channels_origin_allowed_hosts as package

    with pytest.raises(AttributeError) as caught:
        package.allowed_host  # noqa: B018 - what is tested
    assert str(caught.value) == "module 'channels_origin_allowed_hosts' has no attribute 'allowed_host'"
