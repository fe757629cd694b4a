"""The interface application and one HTTP request: behaviours 86 to 99, 124 and 126."""

import asyncio
import re
from typing import Any

import pytest

from asgi_wire import PATIENCE, FlakyBackend, FutureWire, Site, SteppedWire, WaitingBackend, Wire, serving
from channels_core.exceptions import SendUncertain
from channels_core.headers import CREDIT, CREDITED, PROCESS, SENT_AT, WINDOW
from channels_core.layers import Delivery, Outcome, Send
from channels_core.transfer import aread_body_chunks
from channels_layer_memory import MemoryBackend

WIRES = pytest.mark.parametrize("wire", [SteppedWire, FutureWire, Wire], ids=["stepped", "future", "task"])
OK = {"status": 200, "headers": [[b"content-type", b"text/plain"]], "content": b"hello"}


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def status_of(request: Wire) -> tuple[int, bytes]:
    start = await request.next()
    body = await request.next()
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], body["body"]


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


# The request.


@WIRES
async def test_b87_to_b92_request_message_and_its_answer(wire: type[Wire]) -> None:
    headers = [
        (b"Host", b"example.com"),
        (b"X-A", b"1 "),
        (b"x-a", b"2"),
        (b"x_a", b"3"),
        (b"Content-Length", b"4"),
    ]
    async with serving(wire=wire) as site:
        request = site.request(
            "/ü",
            part(b"bo", more=True),
            part(b"dy", more=False),
            method="post",
            raw_path=b"/%C3%BC",
            query_string=b"q=%FF",
            headers=headers,
            client=None,
            server=("/run/socket", None),
            root_path="/app",
        )
        message = await site.taken("http.request")
        reply_channel = message.content.pop("reply_channel")
        assert re.fullmatch(r"http\.response\.[a-z2-7]{26}![a-z2-7]{26}", reply_channel)
        assert message.content == {
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/ü",
            "query_string": b"q=%FF",
            "root_path": "/app",
            "headers": [[b"host", b"example.com"], [b"x-a", b"1"], [b"x-a", b"2"], [b"content-length", b"4"]],
            "body": b"body",
            "client": None,
            "server": ["/run/socket", 0],
        }
        assert message.headers.pop(SENT_AT)
        assert message.headers == {WINDOW: 4}
        await site.send(
            reply_channel,
            {"status": 201, "headers": [[b"Set-Cookie", b"a=1"], ["SET-COOKIE", "b=2"]], "content": b"x"},
        )
        assert await request.next() == {
            "type": "http.response.start",
            "status": 201,
            "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
        }
        assert await request.next() == {"type": "http.response.body", "body": b"x", "more_body": False}
        await request.ended()
        assert site.counters.requests == 1
        assert await site.nothing_on("http.disconnect")


@pytest.mark.parametrize(
    ("value", "root_path"), [(b"/sub%20site/", "/sub site"), (b"", ""), (b"/%C3%BC", "/ü")]
)
async def test_b93_root_path_header(value: bytes, root_path: str) -> None:
    async with serving() as site:
        site.request(headers=[(b"Daphne-Root-Path", value)], root_path="/server")
        content = (await site.taken("http.request")).content
        assert content["root_path"] == root_path
        assert content["headers"] == []


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"headers": [(b"a", b"b\nc: d")]}, 400),
        ({"headers": [(b"a", b"b\x00")]}, 400),
        ({"headers": [(b"a", b"\x1c")]}, 400),
        ({"headers": [(b"a", b"b\x85Origin: http://example.com")]}, 400),
        ({"headers": [(b"a", b"\xc2\x85")]}, 400),
        ({"headers": [(b"", b"b")]}, 400),
        ({"headers": [(b"a:", b"b")]}, 400),
        ({"headers": [(b"a", b"b")] * 101}, 431),
        ({"headers": [(b"a", b"b" * 70_000)]}, 431),
        ({"headers": [(b"daphne-root-path", b"evil")]}, 400),
        ({"headers": [(b"daphne-root-path", b"//evil")]}, 400),
        ({"headers": [(b"daphne-root-path", b"/%5cevil")]}, 400),
        ({"headers": [(b"daphne-root-path", b"/%0a")]}, 400),
        ({"headers": [(b"daphne-root-path", b"/%ff")]}, 400),
        ({"headers": [(b"content-length", b"4"), (b"content-length", b"5")]}, 400),
        ({"headers": [(b"content-length", b"-1")]}, 400),
        ({"raw_path": b"/\xc3\xbc"}, 400),
    ],
)
async def test_b94_bad_requests_are_refused_before_the_layer(scope: dict[str, Any], status: int) -> None:
    async with serving() as site:
        request = site.request(**scope)
        assert (await status_of(request))[0] == status
        await request.ended()
        assert await site.nothing_on("http.request")
        assert site.counters.refused == 1


async def test_letters_beyond_ascii_in_header_values_are_passed_on() -> None:
    values = ["Å".encode(), "…".encode(), b"\xe9", b"a\tb"]
    async with serving() as site:
        site.request(headers=[(b"x", value) for value in values])
        assert (await site.taken("http.request")).content["headers"] == [[b"x", value] for value in values]


async def test_client_that_leaves_while_sending_the_body_enters_nothing() -> None:
    async with serving() as site:
        request = site.request("/", part(b"half", more=True), {"type": "http.disconnect"})
        await request.ended()
        assert request.sent == []
        assert await site.nothing_on("http.request", "http.disconnect")


@pytest.mark.parametrize("announced", [None, b"3", b"300"])
async def test_body_over_the_limit_is_refused_by_what_is_counted(announced: bytes | None) -> None:
    headers = [] if announced is None else [(b"content-length", announced)]
    async with serving(max_body_size=100) as site:
        request = site.request("/", part(b"x" * 60, more=True), part(b"x" * 60, more=False), headers=headers)
        status, body = await status_of(request)
        assert (status, body) in [
            (413, b"The body has more than 100 bytes."),
            (400, b"The body is longer than announced."),
        ]
        assert await site.nothing_on("http.request")


# The response.


async def test_b95_response_in_many_messages() -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": 200, "content": b"a", "more_content": True})
        await site.send(reply, {"content": b"b", "more_content": True})
        await site.send(reply, {})
        events = [await request.next() for _ in range(3)]
        assert events[0]["headers"] == []
        assert [(event.get("body"), event.get("more_body")) for event in events[1:]] == [
            (b"a", True),
            (b"b", True),
        ]
        assert site.counters.unknown_reply == 0
        await site.send(reply, {"more_content": False})
        assert (await request.next())["more_body"] is False
        await request.ended()
        await site.send(reply, {"content": b"too late"})
        await until(lambda: site.counters.unknown_reply == 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"content": b"x"}, "it is the first of its response and has no status"),
        ({"status": "200"}, "its status is '200'; it must be a number from 200 to 599"),
        ({"status": True}, "its status is True; it must be a number from 200 to 599"),
        ({"status": 101}, "its status is 101; it must be a number from 200 to 599"),
        ({"status": 200, "content": "text"}, "its content is str, not bytes"),
        ({"status": 200, "headers": 5}, "its headers are int, not a list of pairs"),
        ({"status": 200, "headers": [["a"]]}, "its headers hold ['a'], which is no pair of name and value"),
        ({"status": 200, "headers": [[1, b"b"]]}, "its headers hold 1, which is neither bytes nor text"),
        ({"status": 200, "headers": [["a", "\u20ac"]]}, "its header text '\u20ac' does not fit into latin-1"),
        (
            {"status": 200, "headers": [[b"a b", b"c"]]},
            "its header name b'a b' holds characters that are not allowed there",
        ),
        (
            {"status": 200, "headers": [[b"a", b"b\r\nc: d"]]},
            "its header 'a' holds a control character: b'b\\r\\nc: d'",
        ),
        (
            {"status": 200, "headers": [[b"a", b"b\x00"]]},
            "its header 'a' holds a control character: b'b\\x00'",
        ),
        ({"status": 200, "headers": [[b"content-length", b"x"]]}, "its Content-Length is b'x'"),
        (
            {"status": 200, "headers": [[b"content-length", b"1" * 19]]},
            f"its Content-Length is {b'1' * 19!r}",
        ),
        (
            {"status": 200, "headers": [[b"content-length", b"1"], [b"Content-Length", b"2"]]},
            "it has several Content-Lengths, and they differ",
        ),
    ],
)
async def test_b98_bad_first_message_is_a_500(
    content: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, content)
        assert await status_of(request) == (500, b"Internal Server Error")
        await request.ended()
    shown = reply[: reply.index("!") + 5] + "..."
    assert (
        caplog.records[0].getMessage() == f"A response to {shown!r} is refused and answered by 500: {reason}."
    )


async def test_b98_second_status_is_refused_and_the_response_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": 200, "content": b"a", "more_content": True})
        await site.send(reply, {"status": 500, "content": b"b"})
        await site.send(reply, {"content": 7, "more_content": True})
        await site.send(reply, {"content": b"c"})
        bodies = [(await request.next()).get("body") for _ in range(3)]
        assert bodies == [None, b"a", b"c"]
    shown = reply[: reply.index("!") + 5] + "..."
    assert [record.getMessage() for record in caplog.records] == [
        f"A message to {shown!r} is ignored: its response has begun, so it cannot have a status.",
        f"A message to {shown!r} is ignored: its content is int, not bytes.",
    ]


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_none(status: int) -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": status, "content": b"oops"})
        assert await status_of(request) == (status, b"")


async def test_headers_about_the_connection_are_left_out() -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": 200, "headers": {"Transfer-Encoding": b"chunked", "X-A": b"1"}})
        assert (await request.next())["headers"] == [(b"x-a", b"1")]


# http.disconnect.


async def test_b97_broken_off_request_is_followed_by_a_disconnect() -> None:
    async with serving(http_timeout=2) as site:
        request = site.request("/slow")
        reply = (await site.taken("http.request")).content["reply_channel"]
        request.push(type="http.disconnect")
        gone = await site.taken("http.disconnect")
        assert gone.content == {"reply_channel": reply, "path": "/slow"}
        await request.ended()
        assert request.sent == []


async def test_b97_disconnect_after_every_request_when_asked_for() -> None:
    async with serving(http_disconnect="always") as site:
        request = site.request("/x")
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, OK)
        await request.ended()
        assert (await site.taken("http.disconnect")).content == {"reply_channel": reply, "path": "/x"}


async def test_b97_disconnect_that_finds_no_room_is_dropped() -> None:
    backend = MemoryBackend(channel_capacity={"http.disconnect": 1}, process_lease=60)
    async with serving(http_disconnect="always", backend=backend) as site:
        for _ in range(2):
            request = site.request("/x")
            await site.send((await site.taken("http.request")).content["reply_channel"], OK)
            await request.ended()
        await until(lambda: site.counters.full == 1)


# Time, room and workers.


async def test_b126_no_answer_in_time_is_a_503() -> None:
    async with serving(http_timeout=0.1) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        start = await request.next()
        assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"5")
        await request.ended()
        assert (await site.taken("http.disconnect")).content["reply_channel"] == reply
        await site.send(reply, OK)
        await until(lambda: site.counters.unknown_reply == 1)


async def test_body_that_comes_too_slowly_is_a_408() -> None:
    async with serving(http_timeout=0.1) as site:
        request = site.request("/", part(b"h", more=True))
        assert await status_of(request) == (408, b"The request came too slowly.")
        await request.ended()
        assert await site.nothing_on("http.request")


async def test_response_that_has_begun_is_not_subject_to_the_timeout() -> None:
    async with serving(http_timeout=0.1) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": 200, "content": b"a", "more_content": True})
        await asyncio.sleep(0.3)
        await site.send(reply, {"content": b"b"})
        bodies = [(await request.next()).get("body") for _ in range(3)]
        assert bodies == [None, b"a", b"b"]


async def test_b124_full_request_channel_is_a_503() -> None:
    async with serving(backend=MemoryBackend(channel_capacity={"http.request": 1}, process_lease=60)) as site:
        site.request()
        await until(lambda: site.counters.sent == 1)
        second = site.request()
        start = await second.next()
        assert (start["status"], dict(start["headers"])[b"retry-after"]) == (503, b"5")


async def test_no_worker_is_a_503_after_the_grace_time() -> None:
    async with serving(has_worker=False, worker_grace=0) as site:
        assert await status_of(site.request()) == (503, b"No worker is running.")
        assert await site.nothing_on("http.request")


async def test_without_a_worker_requests_wait_during_the_grace_time() -> None:
    async with serving(has_worker=False) as site:
        request = site.request()
        await site.send((await site.taken("http.request")).content["reply_channel"], OK)
        assert (await status_of(request))[0] == 200


async def test_layer_that_never_says_who_lives_holds_up_nobody_for_long() -> None:
    class Silent(WaitingBackend):
        async def aprocesses(self) -> Any:
            await asyncio.Event().wait()

    backend = Silent(process_lease=1.0)
    async with serving(backend=backend) as site:
        for _ in range(2):
            request = site.request()
            await site.send((await site.taken("http.request")).content["reply_channel"], OK)
            assert (await status_of(request))[0] == 200
        await asyncio.sleep(2.5)  # its own lease is renewed all the same
        request = site.request()
        await site.send((await site.taken("http.request")).content["reply_channel"], OK)
        assert (await status_of(request))[0] == 200


async def test_client_that_takes_nothing_is_given_up() -> None:
    async with serving(outbound_timeout=0.1) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        request.gate.clear()
        await site.send(reply, OK)
        await request.ended()
        assert site.counters.slow_closed == 1
        assert (await site.taken("http.disconnect")).content["reply_channel"] == reply


async def test_sender_that_does_not_pace_itself_is_cut_when_too_much_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = MemoryBackend(max_message_size=2000, process_lease=60)
    async with serving(backend=backend, outbound_bytes=1, outbound_timeout=0.1) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        request.gate.clear()
        for _ in range(12):
            await site.send(reply, {"status": 200, "content": b"x" * 1000, "more_content": True})
        await request.ended()
        assert site.counters.slow_closed == 1
    assert (
        "is broken off: its consumer sends faster than the client takes, without pacing."
        in caplog.records[0].getMessage()
    )


def part_of(reply: str, process: str, **content: Any) -> Send:
    """A part of a response, as the worker process sends it."""
    return Send(reply, {"more_content": True, **content}, {PROCESS: process}, 64)


async def test_response_whose_worker_dies_is_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    backend = MemoryBackend(process_lease=1.0)
    async with serving(backend=backend) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        worker = backend.open_process("worker")
        backend.send_one(part_of(reply, worker, status=200, content=b"a"))
        assert [(await request.next()).get("body") for _ in range(2)] == [None, b"a"]
        backend.close_process(worker)  # as the end of its lease does
        await request.ended()
        assert len(request.sent) == 2  # it has no end, so the server breaks the connection off
        assert site.counters.worker_lost == 1
        assert (await site.taken("http.disconnect")).content["reply_channel"] == reply
    assert "is broken off: its worker died in the middle." in caplog.text


async def test_response_whose_worker_dies_when_it_was_complete_is_whole() -> None:
    backend = MemoryBackend(process_lease=1.0)
    async with serving(backend=backend) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        worker = backend.open_process("worker")
        request.gate.clear()
        backend.send_one(part_of(reply, worker, status=200, content=b"a"))
        backend.send_one(part_of(reply, worker, content=b"b", more_content=False))
        backend.close_process(worker)
        await asyncio.sleep(2.0)  # the interface misses the worker
        request.gate.set()
        await request.ended()
        assert [event.get("body") for event in request.sent] == [None, b"a", b"b"]
        assert site.counters.worker_lost == 0


async def test_response_goes_on_when_its_worker_has_taken_a_new_lease() -> None:
    backend = MemoryBackend(process_lease=1.0)
    async with serving(backend=backend) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        before, after = backend.open_process("worker"), backend.open_process("worker")
        backend.send_one(part_of(reply, before, status=200, content=b"a"))
        backend.close_process(before)
        backend.send_one(part_of(reply, after, content=b"b"))
        for _ in range(10):
            backend.renew_process(after)
            await asyncio.sleep(0.2)
        await site.send(reply, {"content": b"c"})
        await request.ended()
        assert [event.get("body") for event in request.sent] == [None, b"a", b"b", b"c"]
        assert site.counters.worker_lost == 0


async def test_response_of_a_request_that_is_run_again_is_not_mixed_with_the_first() -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        first, second = site.backend.open_process("worker"), site.backend.open_process("worker")
        site.backend.send_one(part_of(reply, first, status=200, content=b"a"))
        assert [(await request.next()).get("body") for _ in range(2)] == [None, b"a"]
        paced = part_of(reply, second, status=200, content=b"a")
        paced.headers[CREDIT] = "credit?x"
        site.backend.send_batch([paced, part_of(reply, second, content=b"b", more_content=False)])
        await request.ended()
        assert len(request.sent) == 2
        assert site.counters.worker_lost == 1
        assert (await site.taken("credit?x")).content == {"closed": True}


async def test_client_that_leaves_in_the_middle_of_the_response() -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": 200, "content": b"a", "more_content": True})
        assert (await request.next())["status"] == 200
        request.failure = OSError("client left")
        await site.send(reply, {"content": b"b", "more_content": True})
        assert (await site.taken("http.disconnect")).content["reply_channel"] == reply
        await request.ended()


@pytest.mark.parametrize("backend", [MemoryBackend, WaitingBackend])
async def test_hundred_requests_at_once_get_their_own_answers(backend: type[MemoryBackend]) -> None:
    async with serving(backend=backend(process_lease=60)) as site:
        requests = [site.request(f"/{number}") for number in range(100)]
        for _ in range(100):
            message = await site.taken("http.request")
            await site.send(
                message.content["reply_channel"], {"status": 200, "content": message.content["path"].encode()}
            )
        for number, request in enumerate(requests):
            assert await status_of(request) == (200, f"/{number}".encode())
            await request.ended()


async def test_http_in_process() -> None:
    async def here(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async with serving(http=here) as site:
        assert await status_of(site.request("/here")) == (200, b"/here")
        assert await site.nothing_on("http.request")


async def test_uncertain_request_is_waited_for_and_not_sent_twice() -> None:
    backend = FlakyBackend(process_lease=60)
    async with serving(backend=backend) as site:
        await site.open()
        backend.error, backend.is_lost_after_arrival = SendUncertain("no answer"), True
        site.application._inbox().workers._looked_at = None
        request = site.request()
        sends = backend.sends
        await until(lambda: backend.sends > sends)
        backend.error, backend.is_lost_after_arrival = None, False
        await site.send((await site.taken("http.request")).content["reply_channel"], OK)
        assert (await status_of(request))[0] == 200
        assert await site.nothing_on("http.request")


# Bodies in chunks.


async def body_of(site: Site, message: Delivery) -> bytes:
    body = message.content["body"]
    async for chunk in aread_body_chunks(site.layer, message.content["body_channel"], timeout=PATIENCE):
        body += chunk
    return bytes(body)


@WIRES
@pytest.mark.parametrize(
    "pieces", [[64], [65], [64, 1], [1000], [10] * 100, [65, 256], [64 + 256], [300, 0, 300]]
)
async def test_b90_large_bodies_come_in_chunks(pieces: list[int], wire: type[Wire]) -> None:
    async with serving(wire=wire, body_inline=64, body_chunk=256) as site:
        data = [bytes([65 + index % 26]) * size for index, size in enumerate(pieces)]
        events = [part(piece, more=index < len(data) - 1) for index, piece in enumerate(data)]
        request = site.request("/", *events)
        message = await site.taken("http.request")
        total = b"".join(data)
        if len(total) <= 64:
            assert "body_channel" not in message.content
            assert message.content["body"] == total
        else:
            assert len(message.content["body"]) == 64
            assert re.fullmatch(r"http\.request\.body\?[a-z2-7]{26}", message.content["body_channel"])
            assert await body_of(site, message) == total
        await site.send(message.content["reply_channel"], OK)
        assert (await status_of(request))[0] == 200
        await request.ended()
        assert await site.nothing_on("http.disconnect")


async def test_at_most_four_chunks_are_unread() -> None:
    async with serving(body_inline=10, body_chunk=10) as site:
        request = site.request("/", *[part(b"x" * 10, more=number < 19) for number in range(20)])
        message = await site.taken("http.request")
        channel = message.content["body_channel"]
        await until(lambda: request.incoming.qsize() < 15)
        for _ in range(3):
            figures = await site.backend.astatistics([channel])
            assert figures[0].pending == 4
            chunk = await site.taken(channel)
            assert chunk.headers[CREDIT] == message.content["reply_channel"]
            assert figures[0].pending == 4
            credit: dict[str, str | int] = {CREDITED: message.content["reply_channel"].partition("!")[2]}
            site.backend.send_one(Send(message.content["reply_channel"], {}, credit, 0))
            await until(lambda: site.backend.statistics([channel])[0].pending == 4)
        assert request.incoming.qsize() >= 8


async def test_client_that_leaves_in_the_middle_of_a_chunked_body_closes_the_channel() -> None:
    async with serving(body_inline=10, body_chunk=10) as site:
        request = site.request("/", part(b"x" * 25, more=True), {"type": "http.disconnect"})
        message = await site.taken("http.request")
        chunk = await site.taken(message.content["body_channel"])
        assert chunk.content == {"content": b"x" * 10, "more_content": True}
        assert (await site.taken(message.content["body_channel"])).content == {"closed": True}
        assert (await site.taken("http.disconnect")).content["path"] == "/"
        await request.ended()


async def test_answer_before_the_body_is_complete() -> None:
    async with serving(body_inline=10, body_chunk=10, http_timeout=2) as site:
        request = site.request("/", part(b"x" * 25, more=True))
        message = await site.taken("http.request")
        await site.send(message.content["reply_channel"], {"status": 413, "content": b"enough"})
        assert await status_of(request) == (413, b"enough")
        await request.ended()


# Pacing.


async def test_paced_chunk_is_acknowledged_when_the_client_has_it() -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        request.gate.clear()
        credit = "http.response.credit?test"
        site.backend.send_one(
            Send(reply, {"status": 200, "content": b"a", "more_content": True}, {CREDIT: credit}, 20)
        )
        await until(lambda: site.counters.received >= 2)
        assert await site.nothing_on(credit)
        request.gate.set()
        acknowledgement = await site.taken(credit)
        assert (acknowledgement.content, acknowledgement.headers) == ({}, {CREDITED: credit})
        await site.send(reply, {"content": b"b"})
        await request.ended()


async def test_paced_sender_learns_that_nobody_is_there() -> None:
    async with serving() as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        request.push(type="http.disconnect")
        await request.ended()
        credit = "http.response.credit?test"
        outcome = site.backend.send_one(
            Send(reply, {"content": b"a", "more_content": True}, {CREDIT: credit}, 20)
        )
        assert outcome is Outcome.SENT
        assert (await site.taken(credit)).content == {"closed": True}
