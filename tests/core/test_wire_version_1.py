"""Messages as release 0.1 put them on a layer: later releases send no less, and understand all of it.

The recordings are never changed, only added to. What a newer release adds, here as keys and headers that nobody knows,
is carried along and ignored.
"""

import queue
import re
from typing import Any

import pytest

from asgi_wire import serving
from channels_core import headers
from channels_core.channel_layer import ChannelLayer
from channels_core.layers import Delivery, Send
from channels_core.message import Message
from channels_core.transfer import read_body_chunks
from channels_core.worker import Worker
from channels_layer_memory import MemoryBackend
from channels_router_regex import Router

PROCESS = "a" * 26
SOCKET = f"websocket.send.{PROCESS}!{'b' * 26}"
REQUEST = f"http.response.{PROCESS}!{'c' * 26}"

RECORDED: dict[str, tuple[dict[str, Any], dict[str, str | int]]] = {
    "websocket.connect": (
        {
            "reply_channel": SOCKET,
            "path": "/chat",
            "query_string": b"a=1",
            "headers": [[b"host", b"example.com"]],
            "client": ["127.0.0.1", 40000],
            "server": ["127.0.0.1", 8000],
            "order": 0,
        },
        {"c-at": 1767225600000, "c-alone": 1, "c-credit": SOCKET},
    ),
    "websocket.receive": (
        {"reply_channel": SOCKET, "path": "/chat", "order": 1, "text": "hello"},
        {"c-at": 1767225600000, "c-alone": 1, "c-credit": SOCKET},
    ),
    "websocket.disconnect": (
        {"reply_channel": SOCKET, "path": "/chat", "order": 2, "code": 1001},
        {"c-at": 1767225600000, "c-alone": 1},
    ),
    "http.request": (
        {
            "reply_channel": REQUEST,
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            "root_path": "",
            "headers": [[b"host", b"example.com"]],
            "body": b"",
            "client": ["127.0.0.1", 40000],
            "server": ["127.0.0.1", 8000],
        },
        {"c-at": 1767225600000, "c-window": 4},
    ),
}
FUTURE: dict[str, str | int] = {"c-tomorrow": "unheard of"}


def neutral(value: Any) -> Any:
    """The value without what is different each time: ids and times."""
    if isinstance(value, str):
        return re.sub(r"[a-z2-7]{26}", "ID", value)
    return "a time" if isinstance(value, int) and value > 10**12 else value


def assert_no_less(delivery: Delivery) -> None:
    content, stamps = RECORDED[delivery.channel]
    for key, value in content.items():
        assert neutral(delivery.content[key]) == neutral(value), key
    for name, stamp in stamps.items():
        assert neutral(delivery.headers[name]) == neutral(stamp), name


def test_the_names_of_headers_stay() -> None:
    assert (headers.WIRE_VERSION, headers.VERSION, headers.SENT_AT) == (1, "c-v", "c-at")
    assert (headers.CREDIT, headers.CREDITED, headers.FRAME, headers.WINDOW, headers.ALONE) == (
        "c-credit",
        "c-credited",
        "c-frame",
        "c-window",
        "c-alone",
    )
    assert headers.DELAYED == "c-delayed"
    assert headers.PROCESS == "c-process"
    assert headers.RETRIES_KEY == "__retries__"


async def test_the_interface_sends_no_less_than_it_did() -> None:
    async with serving() as site:
        wire = site.socket()
        connect = await site.taken("websocket.connect")
        assert_no_less(connect)
        site.reply(connect, {"accept": True})
        await wire.next()
        wire.push(type="websocket.receive", text="hello")
        receive = await site.taken("websocket.receive")
        assert_no_less(receive)
        site.reply(receive)
        wire.push(type="websocket.disconnect", code=1001, reason="")
        assert_no_less(await site.taken("websocket.disconnect"))

        request = site.request()
        taken = await site.taken("http.request")
        assert_no_less(taken)
        site.reply(taken, {"status": 204}, credit=False)
        await request.ended()


@pytest.mark.parametrize(
    ("content", "event"),
    [
        ({"text": "hi"}, {"type": "websocket.send", "text": "hi"}),
        ({"bytes": b"hi"}, {"type": "websocket.send", "bytes": b"hi"}),
        ({"text": "hi", "close": 4000}, {"type": "websocket.send", "text": "hi"}),
        ({"close": True}, {"type": "websocket.close", "code": 1000}),
    ],
)
async def test_the_interface_understands_recorded_replies(content: Any, event: Any) -> None:
    async with serving() as site:
        wire, reply_channel = await site.open()
        site.backend.send_one(Send(reply_channel, content, {"c-at": 1767225600000, **FUTURE}, 64))
        assert await wire.next() == event


async def test_the_interface_understands_a_recorded_response() -> None:
    async with serving() as site:
        request = site.request()
        name = (await site.taken("http.request")).content["reply_channel"]
        head = {
            "status": 200,
            "headers": [(b"content-type", b"text/plain")],
            "content": b"a",
            "more_content": True,
        }
        for content in (head, {"content": b"b", "more_content": False}):
            site.backend.send_one(Send(name, content, {"c-at": 1767225600000, **FUTURE}, 64))
        await request.ended()
        assert [(event.get("status"), event.get("body")) for event in request.sent] == [
            (200, None),
            (None, b"a"),
            (None, b"b"),
        ]


def of_process(process: str, values: dict[str, Any]) -> dict[str, Any]:
    """The recording as it would be for this interface server."""
    return {
        key: value.replace(PROCESS, process) if isinstance(value, str) else value
        for key, value in values.items()
    }


@pytest.mark.parametrize("channel", RECORDED)
def test_a_worker_understands_recorded_messages(channel: str) -> None:
    seen: queue.SimpleQueue[Message] = queue.SimpleQueue()
    layer = ChannelLayer(MemoryBackend(), routing={channel: seen.put}, make_router=Router)
    process = layer.backend.open_process("interface")
    content = of_process(process, {**RECORDED[channel][0], "tomorrow": [1]})
    stamps = of_process(process, {**RECORDED[channel][1], **FUTURE})
    layer.backend.send_one(Send(channel, content, stamps, 200))
    worker = Worker(layer)
    worker.start()
    message = seen.get(timeout=5)
    assert worker.stop()
    assert (message.content, message.headers) == (content, stamps)
    assert message.reply_channel is not None
    assert message.reply_channel.name == content["reply_channel"]
    returned = layer.backend.receive_batch([f"websocket.send.{process}!"], limit=9, timeout=0)
    owed = [("b" * 26,)] if "c-credit" in stamps else []
    assert [credit.locals for credit in returned] == owed
    assert all((one.content, one.headers["c-credited"]) == ({}, "b" * 26) for one in returned)


def test_recorded_body_chunks_are_read() -> None:
    layer = ChannelLayer(MemoryBackend())
    for content in ({"content": b"a", "more_content": True}, {"content": b"b", "more_content": False}):
        layer.backend.send_one(Send("http.request.body?x", content, {"c-credit": REQUEST, **FUTURE}, 64))
    assert b"".join(read_body_chunks(layer, "http.request.body?x")) == b"ab"
