"""HTTP over real sockets, the same on uvicorn, hypercorn, daphne and granian."""

import asyncio
import hashlib
import os
import socket
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest


@pytest.fixture
async def client() -> Any:
    async with httpx.AsyncClient(timeout=20) as one:
        yield one


async def test_b87_to_b91_request_message(server: Any, client: httpx.AsyncClient) -> None:
    response = await client.post(
        f"{server.http}/caf%C3%A9/a%2Fb?q=%FF&r=1",
        content=b"body",
        headers=[("X-Mixed-Case", "padded"), ("X-Twice", "1"), ("X-Twice", "2"), ("X_Spoofed", "1")],
    )
    assert response.status_code == 200
    seen = response.json()
    assert (seen["method"], seen["http_version"], seen["scheme"]) == ("POST", "1.1", "http")
    assert (seen["path"], seen["query_string"], seen["body"]) == ("/café/a/b", "q=%FF&r=1", "body")
    assert seen["root_path"] == ""
    assert seen["client"][0] == "127.0.0.1"
    assert isinstance(seen["client"][1], int)
    if seen["server"] is not None:
        assert seen["server"][1] == server.port
    headers = [tuple(pair) for pair in seen["headers"]]
    assert ("x-mixed-case", "padded") in headers
    assert [value for name, value in headers if name == "x-twice"] == ["1", "2"]
    assert not any("_" in name for name, _ in headers)


async def test_b93_root_path_header(server: Any, client: httpx.AsyncClient) -> None:
    seen = (await client.get(f"{server.http}/x", headers={"Daphne-Root-Path": "/sub"})).json()
    assert seen["root_path"] == "/sub"
    assert not any(name == "daphne-root-path" for name, _ in seen["headers"])


@pytest.mark.parametrize("size", [0, 1, 64 * 2**10, 64 * 2**10 + 1, 2**20, 5 * 2**20 + 7])
async def test_b90_bodies_of_every_size_arrive_whole(
    server: Any, client: httpx.AsyncClient, size: int
) -> None:
    body = os.urandom(size)
    response = await client.post(f"{server.http}/upload", content=body)
    assert response.text == f"{size} {hashlib.sha256(body).hexdigest()}"


async def test_body_without_a_length(server: Any, client: httpx.AsyncClient) -> None:
    async def parts() -> Any:
        for _ in range(20):
            yield b"x" * 10_000

    response = await client.post(f"{server.http}/upload", content=parts())
    assert response.text.startswith("200000 ")


async def test_body_over_the_limit_is_413(server: Any, client: httpx.AsyncClient) -> None:
    """It is refused from what it announces; a client still sending may only notice that the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 1000)
        if server.name == "daphne":  # it reads the whole body before it tells anybody
            sock.sendall(b"x" * 8_999_000)
        answer = await asyncio.to_thread(sock.recv, 100)
    assert answer.startswith(b"HTTP/1.1 413")


async def test_upload_that_is_broken_off(server: Any) -> None:
    before = len(server.events("upload"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 500_000)
        if server.name != "daphne":  # it reads the whole body before it tells anybody
            await asyncio.sleep(0.3)
    if server.name == "daphne":
        assert server.events("upload")[before:] == []
    else:
        assert await server.wait_for("upload", lambda seen: seen[before:]) == [["aborted"]]


@pytest.mark.parametrize("number", [1, 4, 5, 40])
async def test_b95_long_responses_arrive_whole(server: Any, client: httpx.AsyncClient, number: int) -> None:
    response = await client.get(f"{server.http}/stream?{number}")
    assert response.status_code == 200
    expected = b"".join(bytes([65 + index % 26]) * 2**18 for index in range(number))
    assert hashlib.sha256(response.content).digest() == hashlib.sha256(expected).digest()


async def test_response_is_paced_by_the_client_and_not_cut(server: Any) -> None:
    """The worker sends 10 MiB to a client that takes its time."""
    name = uuid4().hex
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(f"GET /stream?40&{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        taken = 0
        for turn in range(100_000):
            data = await asyncio.to_thread(sock.recv, 65536)
            if not data:
                break
            taken += len(data)
            if turn < 20:
                await asyncio.sleep(0.02)
                if server.name != "daphne":  # it buffers without bound
                    assert [name, True] not in server.events("stream taken")
    assert taken >= 40 * 2**18
    assert await server.wait_for("stream taken", lambda seen: [one for one in seen if one[0] == name]) == [
        [name, True]
    ]


async def test_client_that_leaves_a_long_response_stops_the_worker(server: Any) -> None:
    name = uuid4().hex
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(f"GET /stream?2000&{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sock.recv(100_000)
    assert await server.wait_for("stream taken", lambda seen: [one for one in seen if one[0] == name]) == [
        [name, False]
    ]


async def test_b96_repeated_headers_and_b98_split_ones(server: Any, client: httpx.AsyncClient) -> None:
    response = await client.get(f"{server.http}/cookies")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    response = await client.get(f"{server.http}/split")
    assert response.status_code == 500
    assert "set-cookie" not in response.headers


async def test_b99_head_has_no_body(server: Any, client: httpx.AsyncClient) -> None:
    response = await client.head(f"{server.http}/x")
    assert (response.status_code, response.content) == (200, b"")
    response = await client.get(f"{server.http}/empty")
    assert (response.status_code, response.content) == (204, b"")


async def test_b97_broken_off_request(server: Any) -> None:
    before = len(server.events("http.disconnect"))
    asked = len(server.events("never"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.wait_for("never", lambda seen: len(seen) > asked)
    assert await server.wait_for("http.disconnect", lambda seen: seen[before:]) == [["/never"]]


async def test_b126_no_answer_in_time(server: Any, client: httpx.AsyncClient) -> None:
    started = time.monotonic()
    response = await client.get(f"{server.http}/never")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert 1.5 < time.monotonic() - started < 10


async def test_hundred_requests_at_once_get_their_own_answers(server: Any, client: httpx.AsyncClient) -> None:
    async def ask(number: int) -> None:
        response = await client.get(f"{server.http}/path/{number}")
        assert response.json()["path"] == f"/path/{number}"

    await asyncio.gather(*(ask(number) for number in range(100)))


async def test_bad_header_values_enter_nothing(server: Any) -> None:
    """Some servers refuse them, some let them through to us; nobody forges a header."""
    for value in (b"a\x0bOrigin: http://example.com", b"a\x1c", b"a\x00b", b"a\x7f", b"a\x85Origin: x"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: " + value + b"\r\n\r\n")
            answer = await asyncio.to_thread(sock.recv, 100)
        if not answer.startswith(b"HTTP/1.1 4"):
            assert answer == b""


async def test_nothing_was_logged_as_a_bug(server: Any) -> None:
    assert "this is a bug" not in server.output
    assert (
        "channels_core" not in server.output
    )  # servers log failures of their own; none of ours is among them
