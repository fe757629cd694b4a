"""The decorators stack in any order, on plain and ``async def`` consumers alike."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from channels_core import Message
from channels_session_django import (
    channel_and_http_session,
    channel_and_http_session_user_from_http,
    channel_session,
    channel_session_user,
    channel_session_user_from_http,
    enforce_ordering,
    http_session,
    http_session_user,
    session_for_reply_channel,
)

pytest_plugins = ["testsite.databases"]

REPLY = "websocket.send.abc!def"
Decorator = Callable[[Any], Any]

DECORATORS: dict[str, Decorator] = {
    "channel_session": channel_session,
    "http_session": http_session,
    "channel_and_http_session": channel_and_http_session,
    "enforce_ordering": enforce_ordering,
    "channel_session_user": channel_session_user,
    "http_session_user": http_session_user,
    "channel_session_user_from_http": channel_session_user_from_http,
    "channel_and_http_session_user_from_http": channel_and_http_session_user_from_http,
}
GIVES_CHANNEL_SESSION = set(DECORATORS) - {"http_session", "http_session_user"}
GIVES_HTTP_SESSION = {name for name in DECORATORS if "http" in name}
GIVES_USER = {name for name in DECORATORS if "user" in name}
TRANSFERS = {name for name in DECORATORS if name.endswith("_user_from_http")}
HYDRATES = {name for name in DECORATORS if name.startswith("channel_and_http_session")}

STACKS = [
    *((name,) for name in DECORATORS),
    *((name, name) for name in DECORATORS),
    *permutations(DECORATORS, 2),
    *permutations(["enforce_ordering", "channel_session", "http_session"]),
    *permutations(["enforce_ordering", "channel_session_user_from_http", "channel_session_user"]),
    *permutations(["enforce_ordering", "channel_and_http_session_user_from_http", "channel_session_user"]),
    *permutations(["enforce_ordering", "channel_and_http_session", "http_session_user"]),
]


@pytest.fixture(autouse=True)
def _database(file_database: Path) -> None:
    """Users and sessions are kept in a database of their own."""


def signed_in() -> str:
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create(username="ann", password="a hash"))
    return client.cookies["sessionid"].value


def stacked(names: Sequence[str], consumer: Any) -> Any:
    """``consumer`` under the decorators, the first of them outermost."""
    for name in reversed(names):
        consumer = DECORATORS[name](consumer)
    return consumer


def expected_users(stack: Sequence[str]) -> list[str | None]:
    """On websocket.connect, on websocket.receive: "ann", "" for nobody, None for no ``message.user`` at all."""
    users = [position for position, name in enumerate(stack) if name in GIVES_USER]
    if not users:
        return [None, None]
    innermost = stack[users[-1]]
    outside = set(stack[: users[-1]])
    is_transferred = bool(TRANSFERS & (outside | {innermost}))
    if innermost == "channel_session_user":
        return ["ann" if is_transferred else "", "ann" if TRANSFERS & set(stack) else ""]
    return ["ann", "ann" if HYDRATES & outside else ""]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_a_stack_gives_what_each_of_its_decorators_gives(stack: Sequence[str], is_async: bool) -> None:
    from django.contrib.sessions.backends.db import SessionStore

    seen: list[dict[str, Any]] = []

    def look(message: Message) -> None:
        found: dict[str, Any] = {"user": message.user.get_username() if hasattr(message, "user") else None}
        if hasattr(message, "channel_session"):
            message.channel_session["n"] = message.channel_session.get("n", 0) + 1
            found["channel"] = message.channel_session["n"]
        if hasattr(message, "http_session"):
            found["http"] = message.http_session is not None
            if message.http_session is not None:
                message.http_session["n"] = message.http_session.get("n", 0) + 1
        seen.append(found)

    async def alook(message: Message) -> None:
        look(message)

    consumer = stacked(stack, alook if is_async else look)
    assert consumer.__name__ == ("alook" if is_async else "look")
    assert asyncio.iscoroutinefunction(consumer) is is_async
    key = signed_in()
    headers = [[b"cookie", f"sessionid={key}".encode()]]
    connect = Message(
        {"reply_channel": REPLY, "path": "/", "order": 0, "headers": headers}, "websocket.connect", None
    )
    receive = Message({"reply_channel": REPLY, "path": "/", "order": 1}, "websocket.receive", None)
    for message in (connect, receive):
        if is_async:
            asyncio.run(consumer(message))
        else:
            consumer(message)

    users = expected_users(stack)
    expected: list[dict[str, Any]] = [{"user": users[0]}, {"user": users[1]}]
    if GIVES_CHANNEL_SESSION & set(stack):
        expected[0]["channel"], expected[1]["channel"] = 1, 2
    if GIVES_HTTP_SESSION & set(stack):
        expected[0]["http"], expected[1]["http"] = True, bool(HYDRATES & set(stack))
    assert seen == expected
    saved = [one for one in seen if one.get("http")]
    assert SessionStore(key).get("n", 0) == len(saved)
    if GIVES_CHANNEL_SESSION & set(stack):
        assert session_for_reply_channel(REPLY)["n"] == 2


class Room:
    @enforce_ordering
    @channel_session_user
    def hear(self, message: Message, room: str) -> tuple[str, str, int]:
        message.channel_session["room"] = room
        return room, message.user.get_username(), message["order"]

    @enforce_ordering
    @channel_session_user
    async def ahear(self, message: Message, room: str) -> tuple[str, str, int]:
        message.channel_session["room"] = room
        return room, message.user.get_username(), message["order"]


def test_stacks_work_on_methods_with_arguments_from_the_route() -> None:
    first = Message({"reply_channel": REPLY, "order": 0}, "websocket.receive", None)
    second = Message({"reply_channel": REPLY, "order": 1}, "websocket.receive", None)
    assert Room().hear(first, room="attic") == ("attic", "", 0)
    assert asyncio.run(Room().ahear(second, room="cellar")) == ("cellar", "", 1)
    assert session_for_reply_channel(REPLY)["room"] == "cellar"


@pytest.mark.parametrize("stack", [stack for stack in STACKS if len(stack) != 2], ids="+".join)
def test_a_stack_ends_the_channel_session_with_the_connection(stack: Sequence[str]) -> None:
    from django.contrib.sessions.models import Session

    @channel_session
    def begin(message: Message) -> None: ...

    ran = []
    consumer = stacked(stack, lambda message: ran.append(message["order"]))
    begin(Message({"reply_channel": REPLY, "path": "/", "order": 0}, "websocket.connect", None))
    consumer(Message({"reply_channel": REPLY, "path": "/", "order": 0}, "websocket.disconnect", None))
    assert ran == [0]
    assert Session.objects.count() == (0 if GIVES_CHANNEL_SESSION & set(stack) else 1)
