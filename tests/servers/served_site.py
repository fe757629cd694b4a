"""The site that the servers of these tests serve: interface application, memory layer and worker in one process.

Consumers write what they saw to the file named by SERVED_SITE_EVENTS, one JSON list a line.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from channels_core import Group, Message
from channels_core.channel_layer import ChannelLayer
from channels_core.config import InterfaceConfig, WorkerConfig
from channels_core.exceptions import RequestAborted
from channels_core.interface import InterfaceApplication
from channels_core.origins import OriginValidator
from channels_core.transfer import ResponseSender, read_body_chunks
from channels_core.worker import Worker
from channels_layer_memory import MemoryBackend
from channels_router_regex import Router, route

_lock = threading.Lock()


def note(*what: Any) -> None:
    with _lock, open(os.environ["SERVED_SITE_EVENTS"], "a") as file:  # noqa: PTH123 - one line at a time, appended
        file.write(json.dumps(what) + "\n")


def as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


def answer(message: Message, content: bytes, status: int = 200, headers: Any = ()) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"status": status, "headers": list(headers), "content": content})


def request(message: Message) -> None:
    assert message.channel_layer is not None
    path = message["path"]
    if path == "/never":
        note("never", "asked")
    elif path == "/stream":
        number, _, name = message["query_string"].decode().partition("&")
        note("stream taken", name, ResponseSender(message).send_all(chunks(int(number))))
    elif path == "/upload":
        digest = hashlib.sha256(message["body"])
        size = len(message["body"])
        try:
            if "body_channel" in message:
                for chunk in read_body_chunks(message.channel_layer, message["body_channel"], timeout=20):
                    digest.update(chunk)
                    size += len(chunk)
        except RequestAborted:
            note("upload", "aborted")
            return
        answer(message, f"{size} {digest.hexdigest()}".encode())
    elif path == "/split":
        answer(message, b"", headers=[[b"x-a", b"b\r\nset-cookie: evil=1"]])
    elif path == "/cookies":
        answer(message, b"", headers=[[b"Set-Cookie", b"a=1"], [b"Set-Cookie", b"b=2"]])
    elif path == "/empty":
        answer(message, b"", status=204)
    else:
        seen = {key: as_json(value) for key, value in message.items() if key != "reply_channel"}
        answer(message, json.dumps(seen).encode(), headers=[[b"content-type", b"application/json"]])


def chunks(number: int) -> Iterator[dict[str, Any]]:
    for index in range(number):
        content = {"content": bytes([65 + index % 26]) * 2**18, "more_content": index < number - 1}
        yield {"status": 200, **content} if index == 0 else content


def broken_off(message: Message) -> None:
    note("http.disconnect", message["path"])


def connect(message: Message) -> None:
    assert message.reply_channel is not None
    path = message["path"]
    note("connect", path, as_json(message["headers"]))
    if path == "/deny":
        message.reply_channel.send({"close": True})
    elif path == "/text":
        message.reply_channel.send({"text": "welcome"})
    elif path == "/farewell":
        message.reply_channel.send({"text": "and good bye", "close": 4002})
    elif path != "/silent":
        Group("all", channel_layer=message.channel_layer).add(message.reply_channel)
        message.reply_channel.send({"accept": True})


def receive(message: Message) -> None:
    assert message.reply_channel is not None
    text = message.get("text")
    if text is None:
        message.reply_channel.send({"bytes": message["bytes"]})
    elif text.startswith("close "):
        message.reply_channel.send({"text": "bye", "close": json.loads(text[6:])})
    elif text.startswith("all "):
        Group("all", channel_layer=message.channel_layer).send({"text": text[4:]})
    elif text.startswith("flood "):
        for _ in range(int(text[6:])):
            message.reply_channel.send({"text": "x" * 2**18}, immediately=True)
        note("flooded")
    elif text == "order":
        message.reply_channel.send({"text": str(message["order"])})
    else:
        message.reply_channel.send({"text": text})


def disconnect(message: Message) -> None:
    note("disconnect", message["path"], message["code"], message["order"])


class OnlyExample(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return origin == "http://example.com"


layer = ChannelLayer(
    MemoryBackend(),
    routing=[
        route("http.request", request),
        route("http.disconnect", broken_off),
        route("websocket.connect", connect),
        route("websocket.receive", receive),
        route("websocket.disconnect", disconnect),
    ],
    make_router=Router,
)
application = InterfaceApplication(
    layer,
    config=InterfaceConfig(
        websocket_protocols=("chat.v2", "chat.v1"),
        websocket_handshake_timeout=1.0,
        http_timeout=2.0,
        max_frame_size=2**16,
        max_body_size=8 * 2**20,
        outbound_timeout=3.0,
        shutdown_timeout=3.0,
    ),
    origin_validator=OnlyExample(),
)

Worker(layer, config=WorkerConfig(threads=3)).start()
