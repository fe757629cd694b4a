"""The *_user decorators: who is behind a connection, never None."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from channels_core import Message
from channels_session_django import (
    channel_and_http_session_user_from_http,
    channel_session_user,
    channel_session_user_from_http,
    http_session_user,
    session_for_reply_channel,
    transfer_user,
)

pytest_plugins = ["testsite.databases"]

REPLY = "websocket.send.abc!def"


@pytest.fixture(autouse=True)
def _database(file_database: Path) -> None:
    """Users and sessions are kept in a database of their own."""


@pytest.fixture
def ann() -> Any:
    from django.contrib.auth.models import User

    return User.objects.create(username="ann", password="a hash")


def signed_in(user: Any) -> str:
    """The key of a session that ``user`` signed in to."""
    from django.test import Client

    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def connect(key: str | None = None) -> Message:
    headers = [] if key is None else [[b"cookie", f"sessionid={key}".encode()]]
    return Message({"reply_channel": REPLY, "path": "/", "headers": headers}, "websocket.connect", None)


def receive() -> Message:
    return Message({"reply_channel": REPLY, "path": "/", "text": "x"}, "websocket.receive", None)


def name_of(decorator: Callable[[Any], Any], message: Message, *, is_async: bool) -> str:
    """What the consumer finds as its user's name."""

    def look(message: Message) -> str:
        assert message.user is not None
        return str(message.user.get_username())

    async def alook(message: Message) -> str:
        return look(message)

    if is_async:
        found: str = asyncio.run(decorator(alook)(message))
        return found
    return str(decorator(look)(message))


@contextmanager
def queries() -> Iterator[Callable[[], int]]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        yield lambda: len(captured)


WAYS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
ALL = [
    http_session_user,
    channel_session_user,
    channel_session_user_from_http,
    channel_and_http_session_user_from_http,
]
FROM_HTTP = [http_session_user, channel_session_user_from_http, channel_and_http_session_user_from_http]


@WAYS
@pytest.mark.parametrize("decorator", ALL)
def test_b59_nobody_is_an_anonymous_user(decorator: Callable[[Any], Any], is_async: bool) -> None:
    from django.contrib.auth.models import AnonymousUser

    kinds = []

    def look(message: Message) -> None:
        kinds.append((message.user.__class__, message.user.is_authenticated))

    async def alook(message: Message) -> None:
        look(message)

    for message in (connect(), connect("a" * 32), receive()):
        if is_async:
            asyncio.run(decorator(alook)(message))
        else:
            decorator(look)(message)
    assert kinds == [(AnonymousUser, False)] * 3


@WAYS
@pytest.mark.parametrize("decorator", FROM_HTTP)
def test_the_user_comes_from_the_http_session(
    ann: Any, decorator: Callable[[Any], Any], is_async: bool
) -> None:
    assert name_of(decorator, connect(signed_in(ann)), is_async=is_async) == "ann"


@WAYS
@pytest.mark.parametrize("first", [channel_session_user_from_http, channel_and_http_session_user_from_http])
def test_b59_it_is_copied_over_and_read_back_on_later_messages(
    ann: Any, first: Callable[[Any], Any], is_async: bool
) -> None:
    from django.contrib.sessions.models import Session

    assert name_of(first, connect(signed_in(ann)), is_async=is_async) == "ann"
    Session.objects.exclude(pk=session_for_reply_channel(REPLY).session_key).delete()
    assert name_of(channel_session_user, receive(), is_async=is_async) == "ann"
    assert name_of(channel_session_user, receive(), is_async=not is_async) == "ann"


@WAYS
def test_b60_the_bare_decorator_is_anonymous_later_and_right_with_the_channel_user_inside(
    ann: Any, is_async: bool
) -> None:
    sessions = []

    def both(consumer: Any) -> Any:
        return channel_and_http_session_user_from_http(channel_session_user(consumer))

    @channel_and_http_session_user_from_http
    def note(message: Message) -> None:
        sessions.append(message.http_session is not None)

    assert (
        name_of(channel_and_http_session_user_from_http, connect(signed_in(ann)), is_async=is_async) == "ann"
    )
    assert name_of(channel_and_http_session_user_from_http, receive(), is_async=is_async) == ""
    note(receive())
    assert sessions == [True]
    assert name_of(both, receive(), is_async=is_async) == "ann"
    assert name_of(both, connect(signed_in(ann)), is_async=is_async) == "ann"


def test_b58_a_user_is_transferred_only_whole(ann: Any) -> None:
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    source = SessionStore(signed_in(ann))
    target = session_for_reply_channel(REPLY)
    transfer_user(source, target)
    assert {key: target[key] for key in (SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY)} == {
        SESSION_KEY: str(ann.pk),
        BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
        HASH_SESSION_KEY: ann.get_session_auth_hash(),
    }
    for missing in (SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY):
        partial = SessionStore(signed_in(ann))
        del partial[missing]
        empty = session_for_reply_channel(REPLY)
        transfer_user(partial, empty)
        assert dict(empty.items()) == {}
        assert not empty.modified


def test_a_plain_consumer_that_does_not_look_costs_no_query_for_the_user(ann: Any) -> None:
    def ignore(message: Message) -> None: ...

    def look(message: Message) -> None:
        assert message.user.username == "ann"
        assert message.user.username == "ann"

    key = signed_in(ann)
    with queries() as made:
        http_session_user(ignore)(connect(key))
    assert made() == 0
    with queries() as made:
        http_session_user(look)(connect(key))
    assert made() == 2  # the session, the user
    channel_session_user_from_http(ignore)(connect(key))
    with queries() as made:
        channel_session_user(ignore)(receive())
    assert made() == 1
    with queries() as made:
        channel_session_user(look)(receive())
    assert made() == 2


def test_an_anonymous_visitor_costs_no_query_for_the_http_session_or_the_user() -> None:
    from channels_session_django import channel_session

    def look(message: Message) -> None:
        assert not getattr(message, "user", None) or message.user.is_anonymous

    with queries() as made:
        channel_session(look)(connect())
    alone = made()
    session_for_reply_channel(REPLY).delete()
    with queries() as made:
        channel_session_user_from_http(look)(connect())
    assert made() == alone


@WAYS
def test_a_changed_password_signs_the_connection_out_and_leaves_its_other_data(
    ann: Any, is_async: bool
) -> None:
    from django.contrib.auth import SESSION_KEY

    key = signed_in(ann)
    name_of(channel_session_user_from_http, connect(key), is_async=is_async)
    session = session_for_reply_channel(REPLY)
    session["room"] = "attic"
    session.save()
    ann.password = "another hash"
    ann.save()
    assert name_of(channel_session_user, receive(), is_async=is_async) == ""
    after = session_for_reply_channel(REPLY)
    assert (after["room"], SESSION_KEY in after) == ("attic", False)
    assert name_of(http_session_user, connect(key), is_async=is_async) == ""


@WAYS
def test_a_rotated_secret_key_keeps_the_user_and_the_cookie(ann: Any, is_async: bool) -> None:
    from django.conf import settings
    from django.contrib.sessions.backends.cache import SessionStore
    from django.test import override_settings

    engine = "django.contrib.sessions.backends.cache"  # the database's rows are signed with the old key
    with override_settings(SESSION_ENGINE=engine):
        key = signed_in(ann)
        old = settings.SECRET_KEY
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[old]):
            assert name_of(channel_session_user_from_http, connect(key), is_async=is_async) == "ann"
            assert name_of(channel_session_user, receive(), is_async=is_async) == "ann"
            assert name_of(channel_session_user, receive(), is_async=is_async) == "ann"
        assert SessionStore(key).exists(key)


@WAYS
def test_a_user_who_is_gone_is_an_anonymous_user(ann: Any, is_async: bool) -> None:
    name_of(channel_session_user_from_http, connect(signed_in(ann)), is_async=is_async)
    ann.delete()
    assert name_of(channel_session_user, receive(), is_async=is_async) == ""
