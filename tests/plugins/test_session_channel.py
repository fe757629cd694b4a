"""channel_session: data that lives as long as a connection."""

import asyncio
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from channels_core import ChannelLayer, ConsumeLater, DenyConnection, Message
from channels_layer_memory.layer import MemoryBackend
from channels_router_regex import route
from channels_session_django import ChannelSession, channel_session, session_for_reply_channel

pytest_plugins = ["testsite.databases"]

REPLY = "websocket.send.abc!def"
KEY = "chn" + hashlib.sha1(REPLY.encode()).hexdigest()[:29]


@pytest.fixture(autouse=True)
def _database(file_database: Path) -> None:
    """Sessions are kept in a database of their own."""


def make(channel: str | None = "websocket.receive", **content: Any) -> Message:
    return Message({"reply_channel": REPLY, "path": "/", **content}, channel, None)


def rows() -> list[str]:
    from django.contrib.sessions.models import Session

    return sorted(Session.objects.values_list("session_key", flat=True))


@channel_session
def count(message: Message) -> int:
    message.channel_session["n"] = message.channel_session.get("n", 0) + 1
    return message.channel_session["n"]


@channel_session
async def acount(message: Message) -> int:
    message.channel_session["n"] = message.channel_session.get("n", 0) + 1
    return message.channel_session["n"]


def test_it_persists_across_messages_with_the_same_reply_channel() -> None:
    assert [count(make()), count(make()), count(make())] == [1, 2, 3]
    assert count(make(reply_channel="websocket.send.abc!other")) == 1


async def test_async_consumers_share_it_with_plain_ones() -> None:
    assert await acount(make()) == 1
    assert await asyncio.to_thread(in_thread, count, make()) == 2
    assert await acount(make()) == 3


def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    from django.db import connections

    try:
        return call(*args)
    finally:
        connections.close_all()


def test_b50_the_key_follows_from_the_reply_channel_alone() -> None:
    count(make())
    assert rows() == [KEY]
    session = session_for_reply_channel(REPLY)
    assert session.session_key == KEY
    assert session["n"] == 1
    session["n"] = 41
    session.save()
    assert count(make()) == 42


def test_b50_the_row_carries_an_expiry_that_set_expiry_changes() -> None:
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    def seconds_left() -> float:
        return (Session.objects.get(pk=KEY).expire_date - timezone.now()).total_seconds()

    count(make())
    assert 1_209_590 < seconds_left() <= 1_209_601  # SESSION_COOKIE_AGE

    @channel_session
    def shorten(message: Message) -> None:
        message.channel_session.set_expiry(300)

    shorten(make())
    assert 290 < seconds_left() <= 301
    count(make())
    assert 290 < seconds_left() <= 301
    assert session_for_reply_channel(REPLY).get_expiry_age() == 300
    assert "_session_expiry" not in dict(session_for_reply_channel("websocket.send.abc!new").items())


@pytest.mark.parametrize("channel", ["websocket.disconnect", "http.disconnect"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_b50_the_row_is_deleted_when_the_connection_ends(channel: str, is_async: bool) -> None:
    seen = []

    @channel_session
    def leave(message: Message) -> None:
        seen.append(message.channel_session["n"])

    @channel_session
    async def aleave(message: Message) -> None:
        seen.append(message.channel_session["n"])

    await acount(make())
    assert await asyncio.to_thread(in_thread, rows) == [KEY]
    if is_async:
        await aleave(make(channel))
    else:
        await asyncio.to_thread(in_thread, leave, make(channel))
    assert seen == [1]
    assert await asyncio.to_thread(in_thread, rows) == []


def test_the_end_of_a_connection_that_had_no_session_makes_no_row() -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        assert count(make("websocket.disconnect")) == 1
    assert len(queries) == 1  # the look whether there is one
    assert rows() == []


def test_the_row_is_deleted_although_the_last_consumer_raises() -> None:
    count(make())

    @channel_session
    def fail(message: Message) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        fail(make("websocket.disconnect"))
    assert rows() == []


@pytest.mark.parametrize("error", [ConsumeLater(), LookupError()])
def test_the_row_stays_when_the_last_message_will_be_run_again(error: Exception) -> None:
    layer = ChannelLayer(MemoryBackend(delivery={"websocket.disconnect": "at-least-once"}))
    count(make())

    @channel_session
    def fail(message: Message) -> None:
        raise error

    def last(attempt: int) -> Message:
        return Message({"reply_channel": REPLY}, "websocket.disconnect", layer, attempt=attempt)

    with pytest.raises(type(error)):
        fail(last(1))
    assert rows() == [KEY]
    final = last(layer.backend.max_attempts)
    final.__doomed__ = True  # type: ignore[attr-defined]  # the worker's mark of a last run
    with pytest.raises(type(error)):
        fail(final)
    assert rows() == []


def test_what_is_saved_after_the_connection_ended_does_not_bring_the_row_back() -> None:
    @channel_session
    def slow(message: Message) -> None:
        count(make("websocket.disconnect"))
        message.channel_session["late"] = True

    slow(make())
    assert rows() == []


def test_a_second_consumer_of_the_last_message_still_sees_the_data() -> None:
    count(make())
    last = make("websocket.disconnect")
    assert [count(last), count(last)] == [2, 3]
    assert rows() == []


def test_b51_the_engine_is_the_one_for_channel_sessions_before_the_one_for_http(
    session_folder: Path,
) -> None:
    from django.test import override_settings

    backends = "django.contrib.sessions.backends"
    with override_settings(SESSION_ENGINE=f"{backends}.file"):
        count(make())
        assert rows() == []
        assert [path.name for path in session_folder.iterdir()] == [f"sessionid{KEY}"]
        with override_settings(CHANNEL_SESSION_ENGINE=f"{backends}.db"):
            assert count(make()) == 1
    assert rows() == [KEY]


@pytest.mark.parametrize("setting", ["SESSION_ENGINE", "CHANNEL_SESSION_ENGINE"])
def test_b51_signed_cookies_are_refused(setting: str) -> None:
    from django.test import override_settings

    with override_settings(**{setting: "django.contrib.sessions.backends.signed_cookies"}):
        with pytest.raises(ValueError) as caught:
            count(make())
    assert str(caught.value) == (
        "Channel sessions cannot be kept by 'django.contrib.sessions.backends.signed_cookies': a message has no cookie"
        " to put them into. Set CHANNEL_SESSION_ENGINE to another engine, such as"
        " 'django.contrib.sessions.backends.db'."
    )


@pytest.mark.parametrize("error", [LookupError, DenyConnection, ConsumeLater])
def test_b52_it_is_saved_also_when_the_consumer_raises(error: type[Exception]) -> None:
    @channel_session
    def fail(message: Message) -> None:
        message.channel_session["kept"] = True
        raise error

    with pytest.raises(error):
        fail(make())
    assert session_for_reply_channel(REPLY)["kept"] is True


def test_nothing_is_written_for_a_consumer_that_changes_nothing() -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    @channel_session
    def look(message: Message) -> None:
        message.channel_session.get("n")

    count(make())
    with CaptureQueriesContext(connection) as queries:
        look(make())
    assert [query["sql"].split()[0] for query in queries] == ["SELECT"]


def test_b53_losing_the_race_for_a_new_session_puts_the_message_back() -> None:
    both_have_looked = threading.Barrier(2)
    outcomes: list[BaseException | int] = []

    from channels_session_django.store import DjangoSessionStore

    load = DjangoSessionStore.load

    def load_together(store: DjangoSessionStore, key: str) -> Any:
        data = load(store, key)
        both_have_looked.wait(10)
        return data

    def run() -> None:
        try:
            outcomes.append(in_thread(count, make()))
        except ConsumeLater as later:
            outcomes.append(later)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DjangoSessionStore, "load", load_together)
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert sorted(map(repr, outcomes)) == ["1", "ConsumeLater()"]


def test_b54_the_message_is_the_first_or_second_positional_argument() -> None:
    class Consumer:
        @channel_session
        def method(self, message: Message, room: str) -> str:
            message.channel_session["room"] = room
            return room

        @channel_session
        async def amethod(self, message: Message, room: str) -> str:
            return f"{message.channel_session['room']}, {room}"

    assert Consumer().method(make(), room="attic") == "attic"
    assert asyncio.run(Consumer().amethod(make(), room="cellar")) == "attic, cellar"


def test_b54_a_message_in_third_place_is_refused() -> None:
    @channel_session
    def third(one: int, two: int, message: Message) -> None: ...

    with pytest.raises(ValueError) as caught:
        third(1, 2, make())
    assert str(caught.value) == (
        "@channel_session on test_b54_a_message_in_third_place_is_refused.<locals>.third was called with (int, int,"
        " Message): the first or second positional argument must be the message. Put the message first, after self in a"
        " method."
    )


def test_b54_a_message_without_a_reply_channel_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        count(Message({"text": "x"}, "my-task", None))
    assert str(caught.value) == (
        "A message on 'my-task' has no reply_channel, so it has no channel session. Use @channel_session and what"
        " builds on it for messages of a connection: http.request and websocket.*."
    )


def test_wrapping_keeps_name_signature_and_the_consumer_itself() -> None:
    def chat(message: Message, room: str) -> None:
        """Talk."""

    wrapped = channel_session(chat)
    assert wrapped.__name__ == "chat"
    assert wrapped.__doc__ == "Talk."
    assert wrapped.__wrapped__ is chat  # type: ignore[attr-defined]  # functools.wraps sets it


def test_a_route_still_checks_the_consumers_arguments() -> None:
    from channels_core.exceptions import InvalidRouteError

    @channel_session
    def chat(message: Message, room: str) -> None: ...

    assert route("websocket.receive", chat, path=r"^/(?P<room>\w+)$").consumer is chat
    with pytest.raises(InvalidRouteError, match="unexpected keyword argument 'building'"):
        route("websocket.receive", chat, path=r"^/(?P<building>\w+)$")


def test_a_decorator_of_ones_own_below_counts_with_its_own_arguments() -> None:
    def in_a_room(consumer: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(consumer)
        def taking_anything(message: Message, **kwargs: str) -> None:
            consumer(message, kwargs["room"])

        return taking_anything

    @channel_session
    @in_a_room
    def chat(message: Message, room: str, /) -> None: ...

    assert route("websocket.receive", chat, path=r"^/(?P<room>\w+)$").consumer is chat


def test_applied_twice_the_outer_one_saves() -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    count(make())
    with CaptureQueriesContext(connection) as queries:
        assert channel_session(count)(make()) == 2
    kinds = [query["sql"].split()[0] for query in queries]
    assert [kind for kind in kinds if kind in ("SELECT", "UPDATE", "INSERT")] == ["SELECT", "UPDATE"]


def test_a_copy_of_the_message_has_no_session_until_it_is_given_one() -> None:
    message = make()
    count(message)
    copied = message.copy()
    assert not hasattr(copied, "channel_session")
    assert count(copied) == 2


class TestTheObject:
    """What Django's sessions can do, this one can, but that its key is fixed."""

    @pytest.fixture
    def session(self) -> ChannelSession:
        return session_for_reply_channel(REPLY)

    def test_asking_for_it_makes_no_row(self, session: ChannelSession) -> None:
        assert session.get("n") is None
        assert dict(session.items()) == {}
        assert rows() == []

    def test_save_makes_or_replaces_the_row(self, session: ChannelSession) -> None:
        session["n"] = 1
        session.save()
        session["n"] = 2
        session.save()
        assert session_for_reply_channel(REPLY)["n"] == 2
        assert session.exists(KEY)

    def test_create_refuses_an_existing_one_as_django_does(self, session: ChannelSession) -> None:
        from django.contrib.sessions.backends.base import CreateError

        session.create()
        with pytest.raises(CreateError):
            session_for_reply_channel(REPLY).create()
        with pytest.raises(CreateError):
            session_for_reply_channel(REPLY).save(must_create=True)

    def test_flush_and_cycle_key_keep_the_key(self, session: ChannelSession) -> None:
        session["n"] = 1
        session.cycle_key()
        assert (session.session_key, session["n"]) == (KEY, 1)
        session.flush()
        assert (session.session_key, dict(session.items())) == (KEY, {})

    def test_delete_removes_the_row(self, session: ChannelSession) -> None:
        session.save()
        session.delete()
        assert rows() == []

    async def test_it_has_djangos_async_methods(self, session: ChannelSession) -> None:
        await session.aset("n", 1)
        await session.asave()
        other = session_for_reply_channel(REPLY)
        assert await other.aget("n") == 1
        assert await other.aexists(KEY)
        await other.acycle_key()
        await other.aflush()
        await other.asave()
        again = session_for_reply_channel(REPLY)
        assert await again.aget("n") is None
        await again.adelete()
        assert not await again.aexists(KEY)
        await again.acreate()
        assert await again.aexists(KEY)


def test_a_failing_database_is_reported_and_not_taken_for_a_session_that_is_gone(file_database: Path) -> None:
    from django.db import OperationalError, connection

    @channel_session
    def lose_the_table(message: Message) -> None:
        message.channel_session["n"] = 1
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE django_session")

    with pytest.raises(OperationalError, match="no such table"):
        lose_the_table(make())


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    from channels_core import Config, channel_layers
    from channels_core.sessions import SessionStore

    class Notebook(SessionStore):
        pages: ClassVar[dict[str, dict[str, Any]]] = {}

        def load(self, key: str) -> dict[str, Any] | None:
            return dict(self.pages[key]) if key in self.pages else None

        def create(self, key: str, data: dict[str, Any], ttl: float) -> None:
            self.pages[key] = data

        def save(self, key: str, data: dict[str, Any], ttl: float) -> bool:
            self.pages[key] = data
            return True

        def delete(self, key: str) -> None:
            self.pages.pop(key, None)

    module = type(pytest)("notebook_for_sessions")
    module.Notebook = Notebook  # type: ignore[attr-defined]  # a module made for this test
    module.Wrong = dict  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(__import__("sys").modules, "notebook_for_sessions", module)
    before = channel_layers.source
    channel_layers.configure(Config(session_store="notebook_for_sessions.Notebook"))
    yield Notebook
    channel_layers.configure(before)


def test_it_speaks_only_to_the_configured_store(own_store: Any) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        assert [count(make()), asyncio.run(acount(make()))] == [1, 2]
        assert own_store.pages == {KEY: {"n": 2}}
        count(make("websocket.disconnect"))
        assert own_store.pages == {}
    assert len(queries) == 0


def test_something_else_as_a_store_is_refused(own_store: Any) -> None:
    from channels_core import Config, ConfigurationError, channel_layers

    channel_layers.configure(Config(session_store="notebook_for_sessions.Wrong"))
    with pytest.raises(ConfigurationError) as caught:
        count(make())
    assert str(caught.value) == (
        "The session store 'notebook_for_sessions.Wrong' is {}: it must be a channels_core.sessions.SessionStore."
        " Correct CHANNELS['SESSION_STORE'], or session_store in channels_core.Config."
    )
