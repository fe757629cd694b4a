"""Bodies and responses in chunks, from the consumer's side, against a real interface application and by hand."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from asgi_wire import PATIENCE, FlakyBackend, Site, serving
from channels_core.channel_layer import ChannelLayer
from channels_core.exceptions import LayerUnavailable, MessageTooLarge, RequestAborted, RequestTimeout
from channels_core.headers import CREDIT, CREDITED, WINDOW
from channels_core.layers import Delivery, Outcome, Send
from channels_core.message import Message
from channels_core.transfer import CHUNK_SIZE, ResponseSender, aread_body_chunks, read_body_chunks
from channels_layer_memory import MemoryBackend

BODY = "http.request.body?x"


def layer_with(**options: Any) -> ChannelLayer:
    return ChannelLayer(MemoryBackend(**{"process_lease": 60, **options}))


def message_of(layer: ChannelLayer, delivery: Delivery) -> Message:
    return Message(delivery.content, delivery.channel, layer, headers=delivery.headers)


def by_hand(layer: ChannelLayer, *, reply: str = "reply.test!a", window: int | None = 1) -> Message:
    headers: dict[str, str | int] = {} if window is None else {WINDOW: window}
    return Message({"reply_channel": reply}, "http.request", layer, headers=headers)


# Bodies.


@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
def test_chunks_are_read_in_order_and_their_credit_given_back(delivery: Any) -> None:
    layer = layer_with(delivery={"http.request.body*": delivery})
    for number, data in enumerate([b"a", b"b", b""]):
        content = {"content": data, "more_content": number < 2}
        layer.backend.send_one(Send(BODY, content, {CREDIT: "reply.test!local"}, 20))
    layer.send(BODY, {"content": b"left"})
    assert list(read_body_chunks(layer, BODY)) == [b"a", b"b", b""]
    credits_ = layer.backend.receive_batch(["reply.test!"], limit=10, timeout=0)
    assert [(one.content, one.headers) for one in credits_] == [({}, {CREDITED: "local"})] * 3
    assert layer.receive([BODY]) == (BODY, {"content": b"left"})


async def test_chunks_are_read_in_a_loop_as_they_come() -> None:
    layer = layer_with()
    chunks = aread_body_chunks(layer, BODY)
    layer.send(BODY, {"content": b"a", "more_content": True})
    assert await anext(chunks) == b"a"
    layer.send(BODY, {})
    assert [chunk async for chunk in chunks] == [b""]


def test_body_that_was_broken_off() -> None:
    layer = layer_with()
    layer.send(BODY, {"content": b"a", "more_content": True})
    layer.send(BODY, {"closed": True})
    chunks = read_body_chunks(layer, BODY)
    assert next(chunks) == b"a"
    with pytest.raises(RequestAborted) as raised:
        next(chunks)
    assert str(raised.value) == "The client went away before its request body was complete."


def test_body_that_takes_too_long_in_all() -> None:
    layer = layer_with()
    with pytest.raises(RequestTimeout) as raised:
        list(read_body_chunks(layer, BODY, timeout=0.05))
    assert str(raised.value) == "The request body was not complete after 0.05 s."


def test_reading_waits_for_an_engine_that_is_away() -> None:
    class Away(MemoryBackend):
        failures = 2

        def receive_batch(self, *args: Any, **options: Any) -> list[Delivery]:
            if self.failures:
                self.failures -= 1
                raise LayerUnavailable("away")
            return super().receive_batch(*args, **options)

    layer = ChannelLayer(Away())
    layer.send(BODY, {"content": b"x"})
    assert list(read_body_chunks(layer, BODY)) == [b"x"]


def test_credit_for_a_dead_interface_is_not_insisted_on() -> None:
    layer = layer_with()
    process = layer.backend.open_process("interface")
    layer.backend.close_process(process)
    layer.backend.send_one(Send(BODY, {"content": b"x"}, {CREDIT: f"http.response.{process}!a"}, 20))
    assert list(read_body_chunks(layer, BODY)) == [b"x"]


# Responses.


def test_sender_needs_somebody_to_answer() -> None:
    with pytest.raises(ValueError) as raised:
        ResponseSender(Message({}, "http.request", layer_with()))
    assert (
        str(raised.value)
        == "The message on 'http.request' has no reply_channel, so there is nobody to answer."
    )


def parts(sizes: list[int]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [
        {"content": bytes([65 + number % 26]) * size, "more_content": number < len(sizes) - 1}
        for number, size in enumerate(sizes)
    ]
    messages[0]["status"] = 200
    return messages


@pytest.mark.parametrize(
    ("sizes", "asks"),
    [
        ([5], []),
        ([CHUNK_SIZE] * 4, []),
        ([CHUNK_SIZE] * 5, [3]),
        ([10] * 64, []),
        ([10] * 70, [63]),
    ],
)
def test_response_asks_for_credit_at_the_end_of_each_window(sizes: list[int], asks: list[int]) -> None:
    layer = layer_with()
    sender = ResponseSender(by_hand(layer, window=4))
    taken: list[Delivery] = []

    def client() -> None:
        while len(taken) < len(sizes):
            for delivery in layer.backend.receive_batch(["reply.test!"], limit=1, timeout=PATIENCE):
                taken.append(delivery)
                if CREDIT in delivery.headers:
                    credit = str(delivery.headers[CREDIT])
                    layer.backend.send_one(Send(credit, {}, {CREDITED: credit}, 0))

    thread = threading.Thread(target=client)
    thread.start()
    assert sender.send_all(parts(sizes))
    thread.join(PATIENCE)
    assert [index for index, one in enumerate(taken) if CREDIT in one.headers] == asks
    assert [len(one.content["content"]) for one in taken] == sizes


def test_sender_goes_on_only_when_the_window_was_taken() -> None:
    layer = layer_with()
    sender = ResponseSender(by_hand(layer))
    messages = parts([CHUNK_SIZE] * 3)
    assert sender.send(messages[0])
    second = threading.Thread(target=sender.send, args=(messages[1],))
    second.start()
    (first,) = layer.backend.receive_batch(["reply.test!"], limit=10, timeout=PATIENCE)
    assert layer.backend.receive_batch(["reply.test!"], limit=10, timeout=0.1) == []
    credit = str(first.headers[CREDIT])
    layer.backend.send_one(Send(credit, {}, {CREDITED: credit}, 0))
    second.join(PATIENCE)
    assert not second.is_alive()
    layer.backend.send_one(
        Send(str(layer.backend.receive_batch(["reply.test!"])[0].headers[CREDIT]), {"closed": True}, {}, 0)
    )
    assert sender.send(messages[2]) is False


def test_without_a_window_nothing_is_waited_for() -> None:
    layer = layer_with()
    assert ResponseSender(by_hand(layer, window=None)).send_all(parts([CHUNK_SIZE] * 20))
    taken = layer.backend.receive_batch(["reply.test!"], limit=100, timeout=0)
    assert not any(CREDIT in one.headers for one in taken)


def test_sender_stops_when_the_interface_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels_core.transfer._LOOK_AGAIN", 0.05)
    layer = layer_with()
    process = layer.backend.open_process("interface")
    closed = False

    def messages() -> Iterator[dict[str, Any]]:
        nonlocal closed
        try:
            yield {"status": 200, "content": b"x" * CHUNK_SIZE, "more_content": True}
            layer.backend.close_process(process)
            yield {"content": b"y", "more_content": True}
            pytest.fail("nobody takes this")
        finally:
            closed = True

    sender = ResponseSender(by_hand(layer, reply=f"http.response.{process}!a"))
    assert sender.send_all(messages()) is False
    assert closed
    assert sender.send({"content": b"z"}) is False


def test_sender_gives_up_an_acknowledgement_that_was_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("channels_core.transfer._LOOK_AGAIN", 0.01)
    monkeypatch.setattr("channels_core.transfer._LONGEST_WAIT", 0.05)
    sender = ResponseSender(by_hand(layer_with()))
    assert sender.send_all(parts([CHUNK_SIZE] * 3)) is False
    assert caplog.messages == [
        "The response to 'reply.test!a' is given up: it is not known whether its client took the last part."
    ]


def test_sender_waits_for_room() -> None:
    layer = layer_with(channel_capacity={"reply.test!": 1})
    sender = ResponseSender(by_hand(layer))
    assert sender.send({"status": 200, "content": b"a", "more_content": True})
    waiting = threading.Thread(target=sender.send, args=({"content": b"b"},))
    waiting.start()
    deadline = time.monotonic() + PATIENCE
    while layer.counters.full == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert waiting.is_alive()
    taken = [layer.receive(["reply.test!"], block=True, timeout=PATIENCE)[1] for _ in range(2)]
    waiting.join(PATIENCE)
    assert [content and content["content"] for content in taken] == [b"a", b"b"]


def test_part_over_the_message_limit_is_cut() -> None:
    layer = layer_with(max_message_size=1000)
    data = bytes(range(256)) * 10
    assert ResponseSender(by_hand(layer)).send_all([{"status": 200, "content": data, "more_content": False}])
    taken = [one.content for one in layer.backend.receive_batch(["reply.test!"], limit=100, timeout=0)]
    assert b"".join(content["content"] for content in taken) == data
    assert [content["more_content"] for content in taken] == [True] * (len(taken) - 1) + [False]
    assert ["status" in content for content in taken] == [True] + [False] * (len(taken) - 1)


def test_headers_over_the_message_limit_cannot_be_cut() -> None:
    layer = layer_with(max_message_size=1000)
    with pytest.raises(MessageTooLarge):
        ResponseSender(by_hand(layer)).send({"status": 200, "headers": [[b"a", b"b" * 1000]]})


def test_sender_tries_again_while_the_engine_is_away_and_then_raises() -> None:
    backend = FlakyBackend()
    layer = ChannelLayer(backend)
    sender = ResponseSender(by_hand(layer), patience=0.1)
    backend.away()
    with pytest.raises(LayerUnavailable):
        sender.send({"status": 200})
    assert backend.sends > 1
    backend.back()
    assert sender.send({"status": 200})


async def test_asynchronous_sender_through_a_real_interface() -> None:
    async with serving(response_window=1) as site:
        request = site.request()
        message = message_of(site.layer, await site.taken("http.request"))

        async def messages() -> AsyncIterator[dict[str, Any]]:
            for one in parts([CHUNK_SIZE] * 6):
                yield one

        request.gate.clear()
        sending = asyncio.create_task(ResponseSender(message).asend_all(messages()))
        await asyncio.sleep(0.05)
        assert not sending.done()
        request.gate.set()
        assert await sending is True
        await request.ended()
        assert sum(len(event.get("body", b"")) for event in request.sent) == 6 * CHUNK_SIZE
        await site.nothing_on("http.response.credit?")


async def test_asynchronous_sender_stops_for_a_client_that_left() -> None:
    async with serving(response_window=1) as site:
        request = site.request()
        message = message_of(site.layer, await site.taken("http.request"))
        produced = 0

        async def messages() -> AsyncIterator[dict[str, Any]]:
            nonlocal produced
            yield {"status": 200, "content": b"x" * CHUNK_SIZE, "more_content": True}
            while True:
                produced += 1
                yield {"content": b"x" * CHUNK_SIZE, "more_content": True}

        sending = asyncio.create_task(ResponseSender(message).asend_all(messages()))
        assert (await request.next())["status"] == 200
        request.failure = OSError("gone")
        async with asyncio.timeout(PATIENCE):
            assert await sending is False
        assert produced < 10
        await request.ended()


def test_synchronous_worker_thread_against_a_slow_client() -> None:
    """Never cut because the client is slower than the worker."""
    site = Site()

    async def run() -> None:
        request = site.request()
        message = message_of(site.layer, await site.taken("http.request"))
        request.gate.clear()
        sending = asyncio.create_task(
            asyncio.to_thread(ResponseSender(message).send_all, parts([CHUNK_SIZE] * 12))
        )
        for _ in range(12):
            await asyncio.sleep(0.01)
            request.gate.set()
            await request.next()
            request.gate.clear()
        request.gate.set()
        assert await sending is True
        await request.ended()
        assert request.sent[-1]["more_body"] is False
        assert site.counters.slow_closed == 0
        await site.application.aclose()

    asyncio.run(run())


def test_outcome_gone_ends_the_response() -> None:
    layer = layer_with()
    process = layer.backend.open_process("interface")
    layer.backend.close_process(process)
    assert ResponseSender(by_hand(layer, reply=f"http.response.{process}!a")).send({"status": 200}) is False
    assert layer.backend.send_one(Send(f"http.response.{process}!a", {}, {}, 0)) is Outcome.GONE


def test_response_that_fails_in_the_middle_is_broken_off() -> None:
    layer = layer_with()

    def messages() -> Iterator[dict[str, Any]]:
        yield {"status": 200, "content": b"a", "more_content": True}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ResponseSender(by_hand(layer)).send_all(messages())
    taken = layer.backend.receive_batch(["reply.test!"], limit=10, timeout=0)
    assert [one.content.get("closed") for one in taken] == [None, True]


def test_response_that_fails_before_it_begins_is_a_500() -> None:
    layer = layer_with()

    def messages() -> Iterator[dict[str, Any]]:
        raise ZeroDivisionError
        yield {}

    with pytest.raises(ZeroDivisionError):
        ResponseSender(by_hand(layer)).send_all(messages())
    (one,) = layer.backend.receive_batch(["reply.test!"], limit=10, timeout=0)
    assert (one.content["status"], one.content["content"]) == (500, b"500 Internal Server Error")


async def test_response_that_is_broken_off_ends_incomplete() -> None:
    async with serving() as site:
        request = site.request()
        message = message_of(site.layer, await site.taken("http.request"))

        async def messages() -> AsyncIterator[dict[str, Any]]:
            yield {"status": 200, "content": b"a", "more_content": True}
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await ResponseSender(message).asend_all(messages())
        await request.ended()
        assert [event.get("more_body") for event in request.sent] == [None, True]
