"""Whatever a client sends and whatever consumers answer: the application goes on, and nobody else notices."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_wire import PATIENCE, Site, Wire
from channels_core.headers import CREDIT, CREDITED
from channels_core.layers import Delivery, Send
from channels_core.message import normalise
from channels_core.names import new_id

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | text | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
codes = st.one_of(st.integers(-2, 5001), st.booleans(), st.none(), values)
socket_replies = st.one_of(
    st.dictionaries(text, values, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "accept": st.one_of(st.booleans(), values),
            "text": st.one_of(text, values),
            "bytes": st.one_of(st.binary(max_size=20), values),
            "close": codes,
            "subprotocol": st.one_of(text, values),
            "headers": st.one_of(
                st.lists(st.lists(text | st.binary(max_size=9), max_size=3), max_size=3), values
            ),
        },
    ),
)
response_parts = st.fixed_dictionaries(
    {},
    optional={
        "status": st.one_of(st.integers(90, 610), values),
        "headers": st.one_of(st.lists(st.tuples(text | st.binary(), text | st.binary()), max_size=3), values),
        "content": st.one_of(st.binary(max_size=50), values),
        "more_content": st.one_of(st.booleans(), values),
        "closed": values,
    },
)
reply_headers = st.dictionaries(
    st.sampled_from([CREDIT, CREDITED, "c-unknown", "x"]), st.one_of(text, st.integers(0, 9)), max_size=2
)
frames = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("websocket.receive")},
        optional={
            "text": st.one_of(st.text(max_size=20), values),
            "bytes": st.one_of(st.binary(max_size=20), values),
        },
    ),
    st.dictionaries(text, values, max_size=2),
    st.fixed_dictionaries({"type": values}),
)
raw_headers = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=5)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Refusals are logged as errors; here they are the point."""
    logger = logging.getLogger("channels.interface")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


async def neighbour_is_well(site: Site, socket: Wire, reply_channel: str) -> None:
    """A socket that was there before still has its conversation."""
    socket.push(type="websocket.receive", text="still there?")
    frame = await frame_for(site, reply_channel)
    site.reply(frame, {"text": "yes"})
    assert await socket.next() == {"type": "websocket.send", "text": "yes"}


async def frame_for(site: Site, reply_channel: str) -> Delivery:
    while True:
        frame = await site.taken("websocket.receive")
        if frame.content["reply_channel"] == reply_channel:
            return frame
        site.reply(frame)


@FEW
@given(st.lists(st.tuples(socket_replies, reply_headers), max_size=6), st.lists(frames, max_size=4))
def test_sockets(replies: list[tuple[dict[str, Any], Any]], events: list[dict[str, Any]]) -> None:
    async def run() -> None:
        site = Site(credit_timeout=0.2, websocket_handshake_timeout=0.2)
        neighbour, neighbour_channel = await site.open("/neighbour")
        victim = site.socket("/victim")
        connect = await site.taken("websocket.connect")
        victim_channel = connect.content["reply_channel"]
        for event in events:
            victim.incoming.put_nowait(event)
        for content, headers in replies:
            site.backend.send_one(Send(victim_channel, normalise(content)[0], headers, 50))
        site.reply(connect, {"accept": True})
        await neighbour_is_well(site, neighbour, neighbour_channel)
        await site.layer.agroup_add("all", victim_channel)
        await site.layer.agroup_add("all", neighbour_channel)
        for content, headers in replies:
            if not {"text", "bytes", "close"} & content.keys():
                site.backend.send_one(Send("all", normalise(content)[0], headers, 50, True))
        await neighbour_is_well(site, neighbour, neighbour_channel)
        victim.push(type="websocket.disconnect", code=1000)
        async with asyncio.timeout(PATIENCE):
            await victim.ended()
        assert (await site.taken("websocket.disconnect")).content["reply_channel"] == victim_channel
        await site.application.aclose()

    asyncio.run(run())


@FEW
@given(st.lists(st.tuples(response_parts, reply_headers), max_size=6), st.booleans())
def test_responses(replies: list[tuple[dict[str, Any], Any]], is_broken_off: bool) -> None:
    async def run() -> None:
        site = Site(http_timeout=0.3, shutdown_timeout=0.1)
        neighbour, neighbour_channel = await site.open("/neighbour")
        victim = site.request("/victim")
        reply_channel = (await site.taken("http.request")).content["reply_channel"]
        for content, headers in replies:
            site.backend.send_one(Send(reply_channel, normalise(content)[0], headers, 50))
        await neighbour_is_well(site, neighbour, neighbour_channel)
        if is_broken_off:
            victim.push(type="http.disconnect")
        site.backend.send_one(Send(reply_channel, {"status": 200}, {}, 50))
        await neighbour_is_well(site, neighbour, neighbour_channel)
        await site.application.aclose()
        await victim.ended()
        starts = [event for event in victim.sent if event["type"] == "http.response.start"]
        assert len(starts) <= 1
        for start in starts:
            assert 200 <= start["status"] <= 599
            for name, value in start["headers"]:
                assert not {0, 10, 13} & set(name + value)

    asyncio.run(run())


@FEW
@given(raw_headers, text, st.binary(max_size=30), st.binary(max_size=30), st.booleans())
def test_requests(
    headers: list[tuple[bytes, bytes]], path: str, raw_path: bytes, query: bytes, is_socket: bool
) -> None:
    """A client's request is refused, or arrives as a message that a layer can carry."""

    async def run() -> None:
        site = Site(shutdown_timeout=0.1)
        scope: dict[str, Any] = {"headers": headers, "raw_path": raw_path, "query_string": query}
        victim = site.socket(path, **scope) if is_socket else site.request(path, **scope)
        channel = "websocket.connect" if is_socket else "http.request"
        for _ in range(20):
            await asyncio.sleep(0)
        deliveries = await site.backend.areceive_batch([channel], limit=1, timeout=0)
        if deliveries:
            content = deliveries[0].content
            assert normalise(content)[0] == content
            for name, value in content["headers"]:
                assert b"_" not in name
                assert name == name.lower()
                assert not {0, 10, 13} & set(name + value)
        else:
            assert site.counters.refused == 1
            assert victim.sent
        await site.application.aclose()
        await victim.ended()

    asyncio.run(run())


@FEW
@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), min_size=1, max_size=8))
def test_bodies(parts: list[tuple[bytes, bool]]) -> None:
    """However a body is cut up on its way in, it comes out whole."""

    async def run() -> None:
        site = Site(body_inline=64, body_chunk=100)
        total = b""
        events: list[dict[str, Any]] = []
        for index, (data, is_there) in enumerate(parts):
            events.append({"type": "http.request", "more_body": index < len(parts) - 1})
            if is_there:
                events[-1]["body"] = data
                total += data
        victim = site.request("/", *events)
        message = await site.taken("http.request")
        body = message.content["body"]
        channel = message.content.get("body_channel")
        while channel:
            chunk = await site.taken(channel)
            body += chunk.content["content"]
            local = message.content["reply_channel"].partition("!")[2]
            site.backend.send_one(Send(message.content["reply_channel"], {}, {CREDITED: local}, 0))
            channel = chunk.content["more_content"] and channel
        assert body == total
        await site.send(message.content["reply_channel"], {"status": 200})
        await victim.ended()
        await site.application.aclose()

    asyncio.run(run())


@FEW
@given(
    st.lists(
        st.tuples(
            st.lists(st.one_of(text, st.sampled_from(["KNOWN"])), max_size=3),
            st.dictionaries(text, values, max_size=2),
            reply_headers,
        ),
        max_size=5,
    )
)
def test_deliveries_to_anybody(deliveries: list[tuple[list[str], dict[str, Any], Any]]) -> None:
    """What the layer hands over is dispatched or dropped, whatever its locals and headers are."""

    async def run() -> None:
        site = Site()
        socket, reply_channel = await site.open()
        prefix, _, local = reply_channel.partition("!")
        site.application._inbox().dispatch(
            Delivery(
                f"{prefix}!",
                {key: value for key, value in content.items() if key not in ("close",)},
                headers,
                tuple(local if name == "KNOWN" else name + new_id() for name in names),
            )
            for names, content, headers in deliveries
        )
        socket.sent[1:] = []
        await neighbour_is_well(site, socket, reply_channel)
        await site.application.aclose()

    asyncio.run(run())
