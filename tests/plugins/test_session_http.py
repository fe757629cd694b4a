"""http_session and channel_and_http_session: the session a visitor already has, and never a new one."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from channels_core import ConsumeLater, Message
from channels_session_django import channel_and_http_session, channel_session, http_session
from channels_session_django.channel_sessions import session_for_reply_channel

pytest_plugins = ["testsite.databases"]

REPLY = "websocket.send.abc!def"
Consumer = Callable[[Message], Any]


@pytest.fixture(autouse=True)
def _database(file_database: Path) -> None:
    """Sessions are kept in a database of their own."""


def store(**data: Any) -> str:
    """A session as a view leaves it; its key."""
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session.update(data)
    session.save()
    assert session.session_key is not None
    return session.session_key


def stored(key: str) -> dict[str, Any] | None:
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore(key)
    data = dict(session.items())
    return data if session.session_key else None


def row_count() -> int:
    from django.contrib.sessions.models import Session

    return Session.objects.count()


def make(key: str | None = None, channel: str = "websocket.connect", **content: Any) -> Message:
    headers = [] if key is None else [[b"host", b"x"], [b"cookie", f"a=b; sessionid={key}".encode()]]
    return Message({"reply_channel": REPLY, "path": "/", "headers": headers, **content}, channel, None)


@http_session
def name(message: Message) -> Any:
    return None if message.http_session is None else message.http_session["name"]


@http_session
async def aname(message: Message) -> Any:
    return None if message.http_session is None else message.http_session["name"]


def call(consumer: Consumer, message: Message) -> Any:
    """Call a plain consumer, or run an ``async def`` one."""
    returned = consumer(message)
    return asyncio.run(returned) if asyncio.iscoroutine(returned) else returned


BOTH = pytest.mark.parametrize("consumer", [name, aname], ids=["sync", "async"])


@BOTH
@pytest.mark.parametrize(
    "content",
    [
        {"headers": [[b"cookie", b"sessionid=KEY"]]},
        {"headers": [(b"Cookie", b"x=1; sessionid=KEY; y=2")]},
        {"headers": [[b"cookie", b"x=1"], [b"cookie", b"sessionid=KEY"]]},
        {"headers": {"cookie": b"sessionid=KEY"}},
        {"headers": {b"cookie": "sessionid=KEY"}},
        {"query_string": b"a=b&session_key=KEY"},
        {"query_string": "session_key=KEY"},
        {"cookies": {"sessionid": "KEY"}},
        {"get": {"session_key": "KEY"}},
        {"get": {"session_key": ["other", "KEY"]}},
        {"get": {"session_key": b"KEY"}},
        {"cookies": {"sessionid": "KEY"}, "headers": [[b"cookie", b"sessionid=ffffffffffffffff"]]},
        {"get": {"session_key": "KEY"}, "query_string": b"session_key=ffffffffffffffff"},
    ],
)
def test_it_is_found_by_cookie_or_parameter(consumer: Consumer, content: dict[str, Any]) -> None:
    key = store(name="Ann")

    def fill(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.replace(b"KEY", key.encode())
        if isinstance(value, str):
            return value.replace("KEY", key)
        if isinstance(value, dict):
            return {one: fill(inner) for one, inner in value.items()}
        return [fill(inner) for inner in value]

    assert call(consumer, make(**fill(content))) == "Ann"


@BOTH
def test_an_http_request_has_it_too(consumer: Consumer) -> None:
    message = make(store(name="Ann"), "http.request", method="GET")
    assert call(consumer, message) == "Ann"
    assert message["method"] == "GET"


def test_b55_the_parameter_wins_over_the_cookie() -> None:
    message = make(store(name="Cookie"), query_string=b"session_key=" + store(name="Parameter").encode())
    assert name(message) == "Parameter"


def test_b55_the_parameter_can_be_turned_off() -> None:
    from django.test import override_settings

    parameter = b"session_key=" + store(name="Parameter").encode()
    with override_settings(CHANNELS={"SESSION_KEY_IN_URL": False}):
        assert name(make(query_string=parameter)) is None
        assert name(make(get={"session_key": parameter[12:].decode()})) is None
        assert name(make(store(name="Cookie"), query_string=parameter)) == "Cookie"


@BOTH
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"headers": [[b"cookie", b"other=1"]]},
        {"headers": [[b"cookie", b"sessionid=" + b"a" * 32]]},
        {"headers": [[b"cookie", b"sessionid=short"]]},
        {"headers": [[b"cookie", b"sessionid=" + b"a" * 9000]]},
        {"headers": [[b"cookie", b"sessionid=\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"]]},
        {"headers": [[b"cookie", "sessionid=äääääääääää".encode()]]},
        {"headers": [[b"cookie"], "nonsense", 7, [b"cookie", 5]]},
        {"headers": 7},
        {"query_string": b"session_key=%00%00%00%00%00%00%00%00%00"},
        {"query_string": b"\xff&session_key=%ff"},
        {"query_string": b"session_key=x&" * 2000},
        {"query_string": None},
        {"get": {"session_key": []}},
        {"get": {"session_key": {"a": 1}}, "cookies": 7},
    ],
)
def test_b55_without_a_live_session_it_is_none_and_none_is_made(
    consumer: Consumer, content: dict[str, Any]
) -> None:
    assert call(consumer, make(**content)) is None
    assert row_count() == 0


@BOTH
@pytest.mark.parametrize("engine", ["db", "cache", "cached_db", "file", "signed_cookies"])
def test_no_engine_makes_one_up(consumer: Consumer, engine: str, session_folder: Path) -> None:
    from django.core.cache import cache
    from django.test import override_settings

    cache.clear()
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        assert call(consumer, make("a" * 32)) is None
    assert row_count() == 0
    assert list(session_folder.iterdir()) == []
    assert list(getattr(cache, "_cache", [])) == []


@BOTH
def test_an_expired_session_is_none(consumer: Consumer) -> None:
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    key = store(name="Ann")
    Session.objects.update(expire_date=timezone.now())
    assert call(consumer, make(key)) is None


def test_an_expired_session_of_the_file_engine_is_none_and_not_replaced(session_folder: Path) -> None:
    from django.contrib.sessions.backends.file import SessionStore
    from django.test import override_settings

    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.file"):
        session = SessionStore()
        session["name"] = "Ann"
        session["_session_expiry"] = "2001-01-01T00:00:00+00:00"
        session.save()
        assert name(make(session.session_key)) is None
    assert list(session_folder.iterdir()) == []


def test_a_signed_cookie_can_be_read_and_a_change_to_it_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    from django.contrib.sessions.backends.signed_cookies import SessionStore
    from django.test import override_settings

    session = SessionStore()
    session["name"] = "Ann"
    session.save()

    @http_session
    def change(message: Message) -> None:
        message.http_session["name"] = "Bob"

    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"):
        assert name(make(session.session_key)) == "Ann"
        with caplog.at_level(logging.WARNING, "channels.sessions"):
            change(make(session.session_key))
    assert [record.getMessage() for record in caplog.records] == [
        "A consumer changed an HTTP session that lives in a signed cookie; the change is lost, since only a view can"
        " set a cookie. Change it in a view, or set SESSION_ENGINE to an engine that keeps sessions itself."
    ]


def test_a_plain_consumer_that_does_not_look_costs_no_query() -> None:
    @http_session
    def ignore(message: Message) -> None: ...

    @http_session
    def look_twice(message: Message) -> Any:
        return message.http_session, message.http_session

    key = store(name="Ann")
    with queries() as made:
        ignore(make(key))
        ignore(make())
    assert made() == []
    with queries() as made:
        first, second = look_twice(make(key))
    assert first is second
    assert made() == ["SELECT"]
    with queries() as made:
        assert look_twice(make("a" * 32)) == (None, None)
    assert made() == ["SELECT"]


@contextmanager
def queries() -> Iterator[Callable[[], list[str]]]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        yield lambda: [query["sql"].split()[0] for query in captured]


@http_session
def rename(message: Message) -> None:
    message.http_session["name"] = "Bob"


@http_session
async def arename(message: Message) -> None:
    message.http_session["name"] = "Bob"


RENAMERS = pytest.mark.parametrize("consumer", [rename, arename], ids=["sync", "async"])


@RENAMERS
def test_b56_a_change_is_saved(consumer: Consumer) -> None:
    key = store(name="Ann", other=1)
    call(consumer, make(key))
    assert stored(key) == {"name": "Bob", "other": 1}


@pytest.mark.parametrize("error", [LookupError, ConsumeLater])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("times", "expected"), [(1, "Ann"), (2, "Bob")])
def test_b56_not_when_the_consumer_raised_unless_it_is_applied_twice(
    error: type[Exception], is_async: bool, times: int, expected: str
) -> None:
    def fail(message: Message) -> None:
        message.http_session["name"] = "Bob"
        raise error

    async def afail(message: Message) -> None:
        fail(message)

    consumer: Any = afail if is_async else fail
    for _ in range(times):
        consumer = http_session(consumer)
    key = store(name="Ann")
    with pytest.raises(error):
        call(consumer, make(key))
    assert stored(key) == {"name": expected}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_b56_it_is_saved_only_while_the_row_exists(is_async: bool) -> None:
    from django.contrib.sessions.models import Session

    def sign_out(message: Message) -> None:
        message.http_session["name"] = "Bob"
        Session.objects.all().delete()

    async def asign_out(message: Message) -> None:
        from asgiref.sync import sync_to_async

        await sync_to_async(sign_out)(message)

    consumer = http_session(asign_out) if is_async else http_session(sign_out)
    call(consumer, make(store(name="Ann")))
    assert row_count() == 0


@pytest.mark.parametrize("verb", ["flush", "cycle_key", "create"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_no_new_session_comes_of_what_a_consumer_does_to_it(verb: str, is_async: bool) -> None:
    def act(message: Message) -> None:
        getattr(message.http_session, verb)()
        message.http_session["more"] = 1
        message.http_session.save()

    async def aact(message: Message) -> None:
        await getattr(message.http_session, f"a{verb}")()
        message.http_session["more"] = 1
        await message.http_session.asave()

    key = store(name="Ann")
    call(http_session(aact) if is_async else http_session(act), make(key))
    expected = {
        "flush": None,
        "cycle_key": {"name": "Ann", "more": 1},
        "create": {"name": "Ann"},
    }[verb]
    assert stored(key) == expected
    assert row_count() == (0 if verb == "flush" else 1)


def test_b57_a_message_without_method_gets_the_one_of_channels_1() -> None:
    message = make(channel="websocket.receive")
    name(message)
    assert message["method"] == "FAKE"


def test_b57_with_cookies_or_get_neither_path_nor_method_is_needed() -> None:
    message = Message({"cookies": {"sessionid": store(name="Ann")}}, "my-task", None)
    assert name(message) == "Ann"
    assert sorted(message.keys()) == ["cookies"]


def test_b57_a_message_that_could_never_carry_a_session_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        name(Message({"text": "x", "id": 1}, "my-task", None))
    assert str(caught.value) == (
        "A message on 'my-task' has neither a path nor cookies nor get, so it can have no HTTP session. It has: id,"
        " text. Use @http_session for http.request and websocket.* messages, or put a cookies or get mapping into the"
        " content."
    )


@channel_and_http_session
def both(message: Message) -> Any:
    return None if message.http_session is None else message.http_session["name"]


@channel_and_http_session
async def aboth(message: Message) -> Any:
    return None if message.http_session is None else message.http_session["name"]


EITHER = pytest.mark.parametrize("later", [both, aboth], ids=["sync-later", "async-later"])
ON_CONNECT = pytest.mark.parametrize("first", [both, aboth], ids=["sync-first", "async-first"])


@ON_CONNECT
@EITHER
def test_the_key_is_stored_at_connect_and_later_messages_are_hydrated(
    first: Consumer, later: Consumer
) -> None:
    key = store(name="Ann")
    assert call(first, make(key)) == "Ann"
    assert session_for_reply_channel(REPLY)["sessionid"] == key
    frame = Message({"reply_channel": REPLY, "path": "/", "text": "x", "order": 1}, "websocket.receive", None)
    assert call(later, frame) == "Ann"


@EITHER
def test_without_a_session_at_connect_later_messages_have_none(later: Consumer) -> None:
    assert call(later, make()) is None
    assert call(later, make(channel="websocket.receive")) is None
    assert row_count() == 1  # the channel session


@EITHER
def test_once_the_session_has_ended_later_messages_have_none(later: Consumer) -> None:
    from django.contrib.sessions.models import Session

    key = store(name="Ann")
    assert call(later, make(key)) == "Ann"
    Session.objects.filter(pk=key).delete()
    assert call(later, make(channel="websocket.receive")) is None


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_change_on_a_later_message_is_saved(is_async: bool) -> None:
    def change(message: Message) -> None:
        message.http_session["name"] = "Bob"

    async def achange(message: Message) -> None:
        message.http_session["name"] = "Bob"

    key = store(name="Ann")
    both(make(key))
    consumer = channel_and_http_session(achange) if is_async else channel_and_http_session(change)
    call(consumer, make(channel="websocket.receive"))
    assert stored(key) == {"name": "Bob"}


def test_a_later_message_that_does_not_look_costs_no_query_for_it() -> None:
    @channel_and_http_session
    def ignore(message: Message) -> None: ...

    @channel_session
    def only_channel(message: Message) -> None: ...

    with queries() as made:
        ignore(make(store(name="Ann")))
        made_first = made()
    assert "UPDATE" in made_first  # the key, in the channel session
    with queries() as made:
        only_channel(make(channel="websocket.receive"))
    alone = made()
    with queries() as made:
        ignore(make(channel="websocket.receive"))
    assert made() == alone


def test_the_first_session_of_a_connection_stays() -> None:
    both(make(store(name="Ann")))
    assert both(make(store(name="Bob"))) == "Bob"  # a message's own cookie counts for that message
    assert both(make(channel="websocket.receive")) == "Ann"
