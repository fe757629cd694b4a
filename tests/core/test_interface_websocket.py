"""The interface application and one WebSocket: behaviours 100 to 122."""

import asyncio
import logging
import re
from typing import Any

import pytest

from asgi_wire import PATIENCE, FlakyBackend, FutureWire, SteppedWire, WaitingBackend, Wire, serving
from channels_core.exceptions import SendUncertain
from channels_core.headers import ALONE, CREDIT, CREDITED, FRAME, SENT_AT
from channels_core.layers import Send
from channels_core.origins import OriginValidator
from channels_layer_memory import MemoryBackend

WIRES = pytest.mark.parametrize("wire", [SteppedWire, FutureWire, Wire], ids=["stepped", "future", "task"])
DISCONNECT = "websocket.disconnect"


class OnlyExample(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        if origin == "http://break.me":
            raise RuntimeError("broken validator")
        return origin == "http://example.com" and host == "example.com"


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


# The messages.


async def test_b100_connect_message() -> None:
    headers = [
        (b"Host", b"example.com"),
        (b"X-A", b" 1 "),
        (b"x-a", b"2"),
        (b"x_a", b"3"),
        (b"Cookie", b"k=v"),
    ]
    async with serving() as site:
        site.socket("/chat/ü", raw_path=b"/chat/%C3%BC", headers=headers, client=("::1", "4711"))
        connect = await site.taken("websocket.connect")
        reply_channel = connect.content.pop("reply_channel")
        assert connect.content == {
            "path": "/chat/ü",
            "query_string": b"a=1",
            "headers": [[b"host", b"example.com"], [b"x-a", b"1"], [b"x-a", b"2"], [b"cookie", b"k=v"]],
            "client": ["::1", 4711],
            "server": ["127.0.0.1", 8000],
            "order": 0,
        }
        assert re.fullmatch(r"websocket\.send\.[a-z2-7]{26}![a-z2-7]{26}", reply_channel)
        assert connect.headers.pop(SENT_AT)
        assert connect.headers == {CREDIT: reply_channel, FRAME: 0, ALONE: 1}


@WIRES
async def test_b103_frames_in_order_and_echoed(wire: type[Wire]) -> None:
    async with serving(wire=wire) as site:
        socket, reply_channel = await site.open("/r")
        for order, text in enumerate(["one", "", "zwölf 🐎"], 1):
            socket.push(type="websocket.receive", text=text, bytes=None)
            frame = await site.taken("websocket.receive")
            assert frame.content == {
                "reply_channel": reply_channel,
                "path": "/r",
                "order": order,
                "text": text,
            }
            assert frame.headers[CREDIT] == reply_channel
            assert frame.headers[FRAME] == order
            site.reply(frame, {"text": f"{text}!"})
            assert await socket.next() == {"type": "websocket.send", "text": f"{text}!"}
        socket.push(type="websocket.receive", bytes=b"\x00\xff")
        frame = await site.taken("websocket.receive")
        assert frame.content == {
            "reply_channel": reply_channel,
            "path": "/r",
            "order": 4,
            "bytes": b"\x00\xff",
        }
        site.reply(frame, {"bytes": b"\x01"})
        assert await socket.next() == {"type": "websocket.send", "bytes": b"\x01"}
        socket.push(type=DISCONNECT, code=4005, reason="")
        gone = await site.taken(DISCONNECT)
        assert gone.content == {"reply_channel": reply_channel, "path": "/r", "order": 5, "code": 4005}
        assert CREDIT not in gone.headers
        await socket.ended()


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"code": 1001}, 1001),
        ({}, 1005),
        ({"code": None}, 1005),
        ({"code": "1000"}, 1005),
        ({"code": 1005, "reason": ""}, 1005),
        ({"code": 1005}, 1006),  # how uvicorn, which the wire plays, tells of a connection that broke
        ({"code": 1006}, 1006),
        ({"code": 99999}, 1005),
    ],
)
async def test_b107_b108_disconnect_codes(event: dict[str, Any], code: int) -> None:
    async with serving() as site:
        socket, _ = await site.open()
        socket.push(type=DISCONNECT, **event)
        assert (await site.taken(DISCONNECT)).content["code"] == code


async def test_client_that_leaves_before_connecting_enters_nothing() -> None:
    async with serving() as site:
        wire = SteppedWire(site.application, {"type": "websocket", "path": "/", "headers": []})
        wire.start({"type": DISCONNECT, "code": 1006})
        await wire.ended()
        assert await site.nothing_on("websocket.connect", DISCONNECT)


# Accepting and refusing.


@pytest.mark.parametrize(
    "answer",
    [
        {"accept": False},
        {"accept": False, "text": "no"},
        {"close": True},
        {"close": 4000},
        {"accept": False, "close": 4000},
    ],
)
async def test_b109_b110_refused_while_connecting(answer: dict[str, Any]) -> None:
    async with serving() as site:
        socket = site.socket()
        site.reply(await site.taken("websocket.connect"), answer)
        assert (await socket.next())["type"] == "websocket.close"  # servers make a 403 of it
        gone = await site.taken(DISCONNECT)
        assert (gone.content["code"], gone.content["order"]) == (1006, 1)
        await socket.ended()
        assert len(socket.sent) == 1


@WIRES
async def test_b111_b112_frame_accepts_and_close_follows(wire: type[Wire]) -> None:
    async with serving(wire=wire) as site:
        socket = site.socket()
        site.reply(await site.taken("websocket.connect"), {"text": "hello", "close": 4001})
        assert await socket.next() == {"type": "websocket.accept"}
        assert await socket.next() == {"type": "websocket.send", "text": "hello"}
        assert await socket.next() == {"type": "websocket.close", "code": 4001}
        assert (await site.taken(DISCONNECT)).content["code"] == 4001


async def test_messages_behind_the_accept_follow_it() -> None:
    async with serving() as site:
        socket = site.socket()
        connect = await site.taken("websocket.connect")
        for content in ({"text": ""}, {"accept": True}, {"text": "1"}, {"text": "2"}):
            site.reply(connect, content, credit=False)
        events = [await socket.next() for _ in range(3)]
        assert [event.get("text") for event in events] == [None, "1", "2"]


async def test_b113_unknown_keys_refuse_the_whole_message(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        socket = site.socket()
        connect = await site.taken("websocket.connect")
        reply_channel = connect.content["reply_channel"]
        site.reply(connect, {"accept": True, "txt": "oops"}, credit=False)
        site.reply(connect, {"accept": True})
        await socket.next()
        await site.send(reply_channel, {"text": "lost", "room": 1})
        await site.send(reply_channel, {"text": 5})
        await site.send(reply_channel, {"bytes": "text"})
        await site.send(reply_channel, {"close": "soon"})
        await site.send(reply_channel, {"text": "kept"})
        assert await socket.next() == {"type": "websocket.send", "text": "kept"}
    shown = reply_channel[: reply_channel.index("!") + 5] + "..."
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        f"A message to the WebSocket {shown!r} is ignored: it has the keys ['txt']; only ['accept', 'bytes', 'close',"
        " 'headers', 'subprotocol', 'text'] are understood. Send any of accept, text or bytes, and close."
    )
    assert [line.split(" is ignored: ")[1].split(". ")[0] for line in lines[2:]] == [
        "its text is int",
        "its bytes are str",
        "its close is 'soon'; it can be True or a code",
    ]


async def test_b115_accept_and_empty_frames_on_an_open_socket() -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        for content in (
            {"accept": True},
            {"accept": False},
            {"text": ""},
            {"bytes": b""},
            {"text": "both", "bytes": b"both"},
            {"close": False},
            {"close": None},
            {"close": 0},
        ):
            await site.send(reply_channel, content)
        await site.send(reply_channel, {"text": "end"})
        assert await socket.next() == {"type": "websocket.send", "text": "end"}


@pytest.mark.parametrize(
    ("close", "code"),
    [(True, 1000), (1000, 1000), (3000, 3000), (4999, 4999), (1001, 1011), (5000, 1011), (-1, 1011)],
)
async def test_b116_b117_b118_close_codes(close: object, code: int, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        await site.send(reply_channel, {"text": "last", "close": close})
        assert await socket.next() == {"type": "websocket.send", "text": "last"}
        assert await socket.next() == {"type": "websocket.close", "code": code}
        gone = await site.taken(DISCONNECT)
        assert gone.content["code"] == code
        await site.send(reply_channel, {"text": "too late"})
        await until(lambda: site.counters.unknown_reply == 1)
        await socket.ended()
    if code == 1011:
        assert caplog.records[0].getMessage() == (
            f"A consumer closes a WebSocket with code {close}, which the protocol keeps for itself: the client gets"
            " 1011. Use 1000 or 3000 to 4999."
        )


async def test_server_that_refuses_a_close_code_of_the_protocol_gets_a_private_one() -> None:
    class Picky(SteppedWire):
        async def send(self, event: Any) -> None:
            if event["type"] == "websocket.close" and 1000 < event["code"] < 3000:
                raise ValueError("invalid close code")
            await super().send(event)

        send.__module__ = "daphne.server"

    async with serving(wire=Picky) as site:
        socket, _ = await site.open()
        await site.application.aclose()
        assert await socket.next() == {"type": "websocket.close", "code": 4012}


@pytest.mark.parametrize(
    ("offered", "reply", "chosen"),
    [
        (["b", "a"], {}, "b"),
        (["c"], {}, None),
        ([], {}, None),
        (["c", "a"], {"subprotocol": "c"}, "c"),
        (["a"], {"subprotocol": "z"}, None),
    ],
)
async def test_b119_subprotocols(offered: list[str], reply: dict[str, Any], chosen: str | None) -> None:
    async with serving(websocket_protocols=("a", "b")) as site:
        socket = site.socket(subprotocols=offered)
        site.reply(await site.taken("websocket.connect"), {"accept": True, **reply})
        assert (await socket.next()).get("subprotocol") == chosen


async def test_subprotocol_that_was_not_offered_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        socket = site.socket(subprotocols=["a"])
        site.reply(await site.taken("websocket.connect"), {"accept": True, "subprotocol": "z"})
        await socket.next()
    assert caplog.records[0].getMessage() == (
        "A consumer accepts a WebSocket with subprotocol 'z', which the client did not offer ('a'). None is used;"
        " choose among what it offers."
    )


async def test_headers_beside_accept() -> None:
    async with serving() as site:
        socket = site.socket()
        connect = await site.taken("websocket.connect")
        for headers in ([["sec-websocket-protocol", "x"]], [["a", "b\r\nset-cookie: evil"]], "no", [["a"]]):
            site.reply(connect, {"accept": True, "headers": headers}, credit=False)
        site.reply(connect, {"accept": True, "headers": [["Set-Cookie", "a=1"], [b"set-cookie", b"b=2"]]})
        assert (await socket.next())["headers"] == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ([], True),
        ([(b"origin", b"http://example.com")], True),
        ([(b"Origin", b"http://example.com")], True),
        ([(b"origin", b"http://evil.com")], False),
        ([(b"origin", b"null")], False),
        ([(b"origin", b"")], False),
        ([(b"origin", b"http://break.me")], False),
        ([(b"origin", b"http://example.com"), (b"origin", b"http://example.com")], False),
        ([(b"host", b"other"), (b"origin", b"http://example.com")], False),
    ],
)
async def test_b120_origin_is_checked_before_anything_enters_the_layer(
    headers: list[tuple[bytes, bytes]], is_allowed: bool
) -> None:
    async with serving(validator=OnlyExample()) as site:
        socket = site.socket(headers=[(b"host", b"example.com"), *headers])
        if is_allowed:
            assert (await site.taken("websocket.connect")).content["order"] == 0
        else:
            assert (await socket.next())["type"] == "websocket.close"
            await socket.ended()
            assert await site.nothing_on("websocket.connect", DISCONNECT)
            assert site.counters.refused == 1


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"headers": [(b"a", b"b\x0bc")]}, 400),
        ({"headers": [(b"a b", b"c")]}, 400),
        ({"headers": [(b"a", b"b")] * 101}, 431),
        ({"headers": [(b"a", b"b" * 70_000)]}, 431),
        ({"raw_path": b"/\xff"}, 400),
    ],
)
async def test_bad_handshakes_are_refused(scope: dict[str, Any], status: int) -> None:
    async with serving() as site:
        socket = site.socket(**scope)
        assert (await socket.next())["status"] == status
        await socket.ended()
        assert await site.nothing_on("websocket.connect")


# Refusals by the layer.


def status_of(event: dict[str, Any]) -> tuple[int, bytes | None]:
    return event["status"], dict(event["headers"]).get(b"retry-after")


async def test_b125_full_connect_channel() -> None:
    async with serving(
        backend=MemoryBackend(channel_capacity={"websocket.connect": 1}, process_lease=60)
    ) as site:
        site.socket()
        await site.backend.astatistics()
        await until(lambda: site.counters.connections == 1)
        second = site.socket()
        assert status_of(await second.next()) == (503, b"5")
        assert (await second.next())["body"] == b"The server is busy."
        await second.ended()
        third = site.socket(extensions={})
        assert await third.next() == {"type": "websocket.close", "code": 1013}
        assert await site.nothing_on(DISCONNECT)
        assert site.counters.refused == 2


async def test_b127_nobody_answers_the_handshake() -> None:
    async with serving(websocket_handshake_timeout=0.1) as site:
        socket = site.socket()
        assert status_of(await socket.next()) == (503, b"5")
        await socket.ended()
        assert await site.nothing_on(
            DISCONNECT
        )  # it waits for its turn: the connect message is still under way
        connect = await site.taken("websocket.connect")
        site.reply(connect)
        assert (await site.taken(DISCONNECT)).content["code"] == 1006


async def test_no_worker_is_answered_at_once_after_the_grace_time() -> None:
    async with serving(has_worker=False, worker_grace=0) as site:
        assert status_of(await site.socket().next()) == (503, b"5")
        worker = site.backend.open_process("worker")
        await until(lambda: site.application._inbox().workers._looked_at is not None)
        site.application._inbox().workers._looked_at = 0.0
        site.socket()
        await site.taken("websocket.connect")
        assert worker


async def test_b121_full_channel_slows_the_client_and_loses_nothing() -> None:
    async with serving(
        backend=MemoryBackend(channel_capacity={"websocket.receive": 1}, process_lease=60)
    ) as site:
        first, _ = await site.open("/1")
        second, _ = await site.open("/2")
        first.push(type="websocket.receive", text="a")
        await until(first.incoming.empty)
        for text in "bcd":
            second.push(type="websocket.receive", text=text)
        await until(lambda: site.counters.full > 2)
        assert second.incoming.qsize() == 2  # nothing more is read
        for expected in "abcd":
            frame = await site.taken("websocket.receive")
            assert frame.content["text"] == expected
            site.reply(frame)
        assert [frame["type"] for frame in second.sent] == ["websocket.accept"]


@pytest.mark.parametrize("patience", [0, 0.1])
async def test_b121_frame_that_finds_no_room_in_time_closes_1013(patience: float) -> None:
    backend = MemoryBackend(channel_capacity={"websocket.receive": 1}, process_lease=60)
    async with serving(backend=backend, websocket_send_timeout=patience) as site:
        backend.send_one(Send("websocket.receive", {"text": "in the way"}, {}, 20))
        socket, _ = await site.open()
        socket.push(type="websocket.receive", text="x")
        assert await socket.next() == {"type": "websocket.close", "code": 1013}
        gone = await site.taken(DISCONNECT)
        assert gone.content["code"] == 1013
        assert site.counters.slow_closed == 1
        await socket.ended()


async def test_b122_disconnect_is_sent_until_accepted() -> None:
    backend = MemoryBackend(channel_capacity={DISCONNECT: 1}, process_lease=60)
    async with serving(backend=backend) as site:
        backend.send_one(Send(DISCONNECT, {"in": "the way"}, {}, 20))
        socket, reply_channel = await site.open()
        socket.push(type=DISCONNECT, code=1000)
        await socket.ended()
        assert (await site.taken(DISCONNECT)).content == {"in": "the way"}
        assert (await site.taken(DISCONNECT)).content["reply_channel"] == reply_channel


async def test_memberships_end_with_the_socket() -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        await site.layer.agroup_add("room", reply_channel)
        socket.push(type=DISCONNECT, code=1000)
        await socket.ended()
        assert await site.layer.agroup_channels("room") == []


# Size.


@pytest.mark.parametrize("payload", [{"text": "x" * 101}, {"bytes": b"x" * 101}, {"text": "ü" * 51}])
async def test_frame_over_the_limit_closes_1009(payload: dict[str, Any]) -> None:
    async with serving(max_frame_size=100) as site:
        socket, _ = await site.open()
        socket.push(type="websocket.receive", text="y" * 100)
        site.reply(await site.taken("websocket.receive"))
        socket.push(type="websocket.receive", **payload)
        assert await socket.next() == {"type": "websocket.close", "code": 1009}
        gone = (await site.taken(DISCONNECT)).content
        assert (gone["code"], gone["order"]) == (1009, 2)
        assert await site.nothing_on("websocket.receive")


async def test_frame_over_the_message_limit_of_the_layer_closes_1009() -> None:
    async with serving(backend=MemoryBackend(max_message_size=1000, process_lease=60)) as site:
        socket, _ = await site.open()
        socket.push(type="websocket.receive", text="x" * 1000)
        assert await socket.next() == {"type": "websocket.close", "code": 1009}


async def test_text_that_utf8_cannot_carry_closes_1007() -> None:
    async with serving() as site:
        socket, _ = await site.open()
        socket.push(type="websocket.receive", text="\ud800")
        assert await socket.next() == {"type": "websocket.close", "code": 1007}


# Credit.


async def test_window_holds_back_frames_and_the_disconnect() -> None:
    async with serving() as site:
        socket, _ = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        socket.push(type=DISCONNECT, code=1000)
        first = await site.taken("websocket.receive")
        assert await site.nothing_on("websocket.receive", DISCONNECT)
        site.reply(first, {"text": "no credit"}, credit=False)
        assert await site.nothing_on("websocket.receive", DISCONNECT)
        site.reply(first)
        second = await site.taken("websocket.receive")
        await socket.ended()
        assert await site.nothing_on(DISCONNECT)
        site.reply(second)
        assert (await site.taken(DISCONNECT)).content["order"] == 3


async def test_frames_wait_for_the_credit_of_connect() -> None:
    async with serving() as site:
        socket = site.socket()
        connect = await site.taken("websocket.connect")
        site.reply(connect, {"accept": True}, credit=False)
        await socket.next()
        socket.push(type="websocket.receive", text="early")
        assert await site.nothing_on("websocket.receive")
        site.reply(connect)
        assert (await site.taken("websocket.receive")).content["text"] == "early"


@WIRES
async def test_server_need_not_wait_for_a_slow_worker_when_the_client_has_left(wire: type[Wire]) -> None:
    async with serving(wire=wire, http_timeout=0.2) as site:  # the sweep comes often enough
        socket, _ = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        socket.push(type=DISCONNECT, code=1001, reason="")
        first = await site.taken("websocket.receive")
        await socket.ended()
        assert await site.nothing_on("websocket.receive", DISCONNECT)
        site.reply(first)
        second = await site.taken("websocket.receive")
        assert second.content["text"] == "b"
        assert await site.nothing_on(DISCONNECT)
        site.reply(second)
        gone = (await site.taken(DISCONNECT)).content
        assert (gone["code"], gone["order"]) == (1001, 3)


@WIRES
async def test_server_need_not_wait_for_room_when_the_client_has_left(wire: type[Wire]) -> None:
    backend = MemoryBackend(channel_capacity={"websocket.receive": 1}, process_lease=60)
    async with serving(wire=wire, backend=backend, http_timeout=0.2) as site:
        backend.send_one(Send("websocket.receive", {"text": "in the way"}, {}, 20))
        socket, _ = await site.open()
        socket.push(type="websocket.receive", text="a")
        socket.push(type=DISCONNECT, code=1000, reason="")
        await socket.ended()
        await site.taken("websocket.receive")
        frame = await site.taken("websocket.receive")
        assert frame.content["text"] == "a"
        site.reply(frame)
        assert (await site.taken(DISCONNECT)).content["order"] == 2


@WIRES
async def test_frame_that_was_looked_at_early_is_not_lost(wire: type[Wire]) -> None:
    async with serving(wire=wire, http_timeout=0.2) as site:
        socket, _ = await site.open()
        for text in "abcd":
            socket.push(type="websocket.receive", text=text)
        first = await site.taken("websocket.receive")
        await until(lambda: socket.incoming.qsize() == 1)  # b is in hand, c was looked at
        site.reply(first)
        for text in "bcd":
            frame = await site.taken("websocket.receive")
            assert frame.content["text"] == text
            site.reply(frame)


@WIRES
async def test_close_while_a_frame_waits(wire: type[Wire]) -> None:
    async with serving(wire=wire, http_timeout=0.2) as site:
        socket, reply_channel = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        first = await site.taken("websocket.receive")
        await asyncio.sleep(0.15)
        site.reply(first, {"close": 4000}, credit=False)
        assert await socket.next() == {"type": "websocket.close", "code": 4000}
        await socket.ended()
        site.reply(first)
        assert (await site.taken(DISCONNECT)).content["code"] == 4000
        assert await site.nothing_on("websocket.receive")
        assert reply_channel


async def test_wider_window() -> None:
    async with serving(credit_window=3) as site:
        socket, _ = await site.open()
        for text in "abcd":
            socket.push(type="websocket.receive", text=text)
        frames = [await site.taken("websocket.receive") for _ in range(3)]
        assert ALONE not in frames[0].headers
        assert await site.nothing_on("websocket.receive")
        site.reply(frames[1])
        assert (await site.taken("websocket.receive")).content["text"] == "d"


async def test_lost_message_is_counted_and_the_connection_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(credit_timeout=0.1) as site:
        socket, _ = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        await site.taken("websocket.receive")
        assert (await site.taken("websocket.receive")).content["text"] == "b"
        assert site.counters.credit_lost == 1
    assert "was lost: its worker neither answered nor gave its credit back in time." in caplog.text


async def test_credit_that_comes_after_it_was_given_up_opens_no_window() -> None:
    async with serving(credit_timeout=0.1) as site:
        socket, _ = await site.open()
        for text in "abc":
            socket.push(type="websocket.receive", text=text)
        first = await site.taken("websocket.receive")
        second = await site.taken("websocket.receive")
        assert second.content["text"] == "b"
        assert site.counters.credit_lost == 1
        site.reply(first, {"text": "late"})
        assert await socket.next() == {"type": "websocket.send", "text": "late"}
        assert await site.nothing_on("websocket.receive")
        assert site.counters.credit_late == 1
        site.reply(second)
        assert (await site.taken("websocket.receive")).content["text"] == "c"


async def test_credit_that_comes_twice_opens_no_window() -> None:
    async with serving() as site:
        socket, _ = await site.open()
        for text in "abc":
            socket.push(type="websocket.receive", text=text)
        first = await site.taken("websocket.receive")
        site.reply(first, {"text": "a"})
        second = await site.taken("websocket.receive")
        site.reply(first, {"text": "a"})  # the message was run again
        assert [(await socket.next())["text"] for _ in range(2)] == ["a", "a"]
        assert await site.nothing_on("websocket.receive")
        assert site.counters.credit_late == 1
        site.reply(second)
        assert (await site.taken("websocket.receive")).content["text"] == "c"


@pytest.mark.parametrize("number", [None, "1", 1.5])
async def test_credit_of_a_worker_that_knows_no_numbers_is_that_of_the_oldest(number: Any) -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        await site.taken("websocket.receive")
        headers: dict[str, Any] = {CREDITED: reply_channel.partition("!")[2]}
        if number is not None:
            headers[FRAME] = number
        site.backend.send_one(Send(reply_channel, {}, headers, 0))
        assert (await site.taken("websocket.receive")).content["text"] == "b"
        assert site.counters.credit_late == 0


async def test_a_refused_frame_and_a_new_lease_leave_the_window_open() -> None:
    backend = MemoryBackend(channel_capacity={"websocket.receive": 1}, process_lease=60)
    async with serving(backend=backend, credit_window=2) as site:
        socket, _ = await site.open()
        backend.send_one(Send("websocket.receive", {"text": "in the way"}, {}, 20))
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        await until(lambda: site.counters.full > 0)
        assert (await site.taken("websocket.receive")).content["text"] == "in the way"
        frames = [await site.taken("websocket.receive") for _ in range(2)]
        assert [(frame.content["text"], frame.headers[FRAME]) for frame in frames] == [("a", 1), ("b", 2)]


async def test_message_that_expires_unread_gives_its_credit_back() -> None:
    async with serving(backend=MemoryBackend(expiry=0.1, process_lease=60)) as site:
        socket, _ = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        await until(lambda: site.counters.sent >= 3)
        await asyncio.sleep(0.15)
        assert (await site.taken("websocket.receive")).content["text"] == "b"
        assert site.counters.credit_lost == 0


async def test_replies_and_credits_for_nobody_are_counted() -> None:
    async with serving() as site:
        _, reply_channel = await site.open()
        inbox = reply_channel[: reply_channel.index("!") + 1]
        await site.send(f"{inbox}nobody", {"text": "x"})
        site.backend.send_one(Send(f"{inbox}nobody", {}, {CREDITED: "nobody"}, 0))
        site.backend.send_one(Send(f"{inbox}nobody", {}, {CREDITED: 7}, 0))
        await until(lambda: site.counters.unknown_reply == 3)


# Groups and slow clients.


@WIRES
async def test_broadcast_reaches_every_socket_in_order(wire: type[Wire]) -> None:
    async with serving(wire=wire) as site:
        sockets = [await site.open() for _ in range(5)]
        for _, reply_channel in sockets:
            await site.layer.agroup_add("room", reply_channel)
        sockets[2][0].push(type=DISCONNECT, code=1000)
        for number in range(3):
            await site.layer.asend_group("room", {"text": str(number)})
        await site.layer.asend_group("room", {"bytes": b"end", "close": 3001})
        for index, (socket, _) in enumerate(sockets):
            if index != 2:
                assert [(await socket.next()).get("text") for _ in range(3)] == ["0", "1", "2"]
                assert (await socket.next())["bytes"] == b"end"
                assert (await socket.next())["code"] == 3001


@WIRES
async def test_slow_client_waits_alone_and_gets_everything_in_order(wire: type[Wire]) -> None:
    async with serving(wire=wire) as site:
        slow, slow_channel = await site.open()
        quick, quick_channel = await site.open()
        slow.gate.clear()
        for number in range(20):
            for reply_channel in (slow_channel, quick_channel):
                await site.send(reply_channel, {"text": str(number)})
        assert [(await quick.next())["text"] for _ in range(20)] == [str(number) for number in range(20)]
        assert len(slow.sent) == 1
        slow.gate.set()
        assert [(await slow.next())["text"] for _ in range(20)] == [str(number) for number in range(20)]
        await site.send(slow_channel, {"text": "again"})
        assert (await slow.next())["text"] == "again"


@WIRES
async def test_client_with_too_much_waiting_is_closed_1013(wire: type[Wire]) -> None:
    backend = MemoryBackend(max_message_size=2000, process_lease=60)
    async with serving(wire=wire, backend=backend, outbound_bytes=1) as site:
        socket, reply_channel = await site.open()
        socket.gate.clear()
        for _ in range(8):  # the limit is at least four messages
            await site.send(reply_channel, {"text": "x" * 1000})
        await until(lambda: site.counters.received >= 9)
        assert site.counters.slow_closed == 0
        await site.send(reply_channel, {"text": "x" * 1000})
        await until(lambda: site.counters.slow_closed == 1)
        gone = await site.taken(DISCONNECT)
        assert gone.content["code"] == 1013
        await socket.ended()


async def test_client_that_takes_nothing_for_too_long_is_closed_1013() -> None:
    async with serving(outbound_timeout=0.1) as site:
        socket, reply_channel = await site.open()
        socket.gate.clear()
        await site.send(reply_channel, {"text": "x"})
        await until(lambda: site.counters.slow_closed == 1)
        socket.gate.set()
        assert await socket.next() == {"type": "websocket.close", "code": 1013}
        assert (await site.taken(DISCONNECT)).content["code"] == 1013


async def test_send_that_fails_ends_no_other_socket() -> None:
    async with serving() as site:
        bad, bad_channel = await site.open()
        good, good_channel = await site.open()
        for name in (bad_channel, good_channel):
            await site.layer.agroup_add("room", name)
        bad.failure = RuntimeError("server bug")
        await site.layer.asend_group("room", {"text": "1"})
        await site.layer.asend_group("room", {"text": "2"})
        assert [(await good.next())["text"] for _ in range(2)] == ["1", "2"]
        bad.push(type=DISCONNECT, code=1006)
        assert (await site.taken(DISCONNECT)).content["reply_channel"] == bad_channel


# Age and end.


async def test_b127_old_sockets_are_closed_only_by_max_age() -> None:
    async with serving(websocket_max_age=0.1) as site:
        socket, _ = await site.open()
        assert await socket.next() == {"type": "websocket.close", "code": 1000}


async def test_cancelled_by_the_server_still_says_goodbye() -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        assert socket.task is not None
        socket.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await socket.task
        assert (await site.taken(DISCONNECT)).content == {
            "reply_channel": reply_channel,
            "code": 1006,
            "path": "/chat",
            "order": 1,
        }


async def test_server_that_never_reports_the_disconnect_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(SteppedWire):
        async def send(self, event: Any) -> None:
            await self.gate.wait()
            self.sent.append(event)
            self._changed.set()

        send.__module__ = "uvicorn.protocols"

    monkeypatch.setattr("channels_core.interface.websocket._CLOSE_PATIENCE", 0.05)
    async with serving(wire=Silent, outbound_timeout=0.2) as site:
        socket, reply_channel = await site.open()
        await site.send(reply_channel, {"close": 4000})
        assert (await site.taken(DISCONNECT)).content["code"] == 4000
        await socket.ended()


async def test_frames_after_the_close_are_not_sent_on() -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        socket.gate.clear()
        await site.send(reply_channel, {"close": True})
        await until(lambda: site.counters.received >= 3)
        socket.push(type="websocket.receive", text="late")
        socket.gate.set()
        assert (await site.taken(DISCONNECT)).content["order"] == 1
        assert await site.nothing_on("websocket.receive")


# A layer across a network.


@WIRES
async def test_waiting_backend_carries_a_whole_conversation(wire: type[Wire]) -> None:
    async with serving(wire=wire, backend=WaitingBackend(process_lease=60)) as site:
        socket, reply_channel = await site.open()
        for text in ("a", "b"):
            socket.push(type="websocket.receive", text=text)
        for text in ("a", "b"):
            frame = await site.taken("websocket.receive")
            site.reply(frame, {"text": text})
            assert (await socket.next())["text"] == text
        socket.push(type=DISCONNECT, code=1000)
        assert (await site.taken(DISCONNECT)).content["reply_channel"] == reply_channel
        await until(lambda: site.application._inbox().is_empty)


async def test_outage_slows_sockets_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    backend = FlakyBackend(process_lease=60)
    async with serving(backend=backend) as site:
        socket, reply_channel = await site.open()
        backend.away()
        socket.push(type="websocket.receive", text="patience")
        refused = site.socket()
        assert status_of(await refused.next())[0] == 503
        await until(lambda: backend.sends > 4)
        backend.back()
        frame = await site.taken("websocket.receive")
        assert frame.content["text"] == "patience"
        site.reply(frame, {"text": "thanks"})
        assert (await socket.next())["text"] == "thanks"
        assert reply_channel
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines[0] == (
        "The channel layer 'default' is away (LayerUnavailable: connection refused). Sockets stay open, their frames"
        " wait, and requests are answered 503 until it is back."
    )
    assert re.fullmatch(r"The channel layer 'default' is back after \d+\.\d s\.", lines[1])
    assert len(lines) == 2


@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
async def test_uncertain_frame_is_repeated_only_where_consumers_bear_it(delivery: Any) -> None:
    backend = FlakyBackend(process_lease=60, delivery={"websocket.receive": delivery})
    async with serving(backend=backend, credit_timeout=0.2) as site:
        socket, _ = await site.open()
        backend.error, backend.is_lost_after_arrival = SendUncertain("no answer"), True
        socket.push(type="websocket.receive", text="once")
        before = backend.sends
        await until(lambda: backend.sends > before)
        backend.error, backend.is_lost_after_arrival = None, False
        first = await site.taken("websocket.receive")
        if delivery == "at-most-once":
            assert await site.nothing_on("websocket.receive")
        else:
            second = await site.taken("websocket.receive")
            assert first.content == second.content
            assert site.counters.credit_lost == 0


async def test_what_is_logged_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    backend = FlakyBackend(process_lease=60)
    async with serving(backend=backend, validator=OnlyExample()) as site:
        refused = site.socket(headers=[(b"host", b"example.com"), (b"origin", b"http://break.me")])
        await refused.ended()
        socket, reply_channel = await site.open()
        await site.send(reply_channel, {"text": "a", "bytes": b"b"})
        await site.send(reply_channel, {"text": "end"})
        await socket.next()
        backend.error = ZeroDivisionError("bug")
        socket.push(type="websocket.receive", text="x")
        before = backend.sends
        await until(lambda: backend.sends > before + 1)
        backend.back()
        site.reply(await site.taken("websocket.receive"))
    lines = {record.getMessage() for record in caplog.records}
    assert lines >= {
        "The origin validator failed; the connection is refused.",
        "A message to a WebSocket has both text and bytes; neither is sent. Send two messages.",
        "The backend failed to send; this is a bug in it.",
    }
