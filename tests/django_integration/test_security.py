"""What has hurt other servers and frameworks, tried on the whole stack: real server, layer, workers and Django."""

import asyncio
import random
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import override_settings
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from channels_core import channel_layers
from channels_core.interface import InterfaceApplication
from channels_django import get_asgi_application
from channels_django.workers import make_worker

SITE = override_settings(
    ROOT_URLCONF="testsite.visitors",
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    CHANNEL_LAYERS={"default": {"BACKEND": "memory", "ROUTING": "testsite.visitors.routes"}},
)


class Served:
    def __init__(self, application: InterfaceApplication, port: int) -> None:
        self.application = application
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}"

    @property
    def sent(self) -> int:
        return int(self.application.layer.counters.as_dict().get("sent", 0))


@asynccontextmanager
async def site() -> AsyncIterator[Served]:
    """The application as production servers load it, with default settings, and workers beside it."""
    with SITE:
        application = get_asgi_application()
        worker = make_worker(channel_layers["default"], threads=4)
        worker.start()
        server = uvicorn.Server(
            uvicorn.Config(application, port=0, log_level="warning", ws="websockets-sansio")
        )
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield Served(application, server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await running
            assert await asyncio.to_thread(worker.stop, 10)
            await sync_to_async(connections.close_all)()  # of the thread in which this test asked


async def test_cross_site_websockets_are_refused_before_anything_enters_the_layer() -> None:
    origins = [
        "http://evil.example",
        "http://localhost.evil.example",
        "null",
        "file://",
        "http://localhost@x",
        "*",
    ]
    async with site() as served:
        async with connect(f"{served.ws}/", origin="http://localhost", proxy=None):  # type: ignore[arg-type]  # a NewType of text
            pass
        while await Session.objects.filter(session_key__startswith="chn").aexists():
            await asyncio.sleep(0.01)
        sent = served.sent
        for origin in origins:
            with pytest.raises(InvalidStatus) as caught:
                async with connect(f"{served.ws}/", origin=origin, proxy=None):  # type: ignore[arg-type]  # as above
                    pass
            assert caught.value.response.status_code == 403
        assert served.sent == sent


async def test_nobody_ever_sees_the_session_or_the_answer_of_another() -> None:
    chance = random.Random(35681)

    async def visitor(served: Served, name: str) -> None:
        headers = {"Origin": served.http}
        async with httpx.AsyncClient(base_url=served.http, headers=headers, trust_env=False) as client:
            kept = await client.get("/secret", params={"keep": name})
            key = client.cookies["sessionid"]
            assert kept.json() == {"secret": name, "key": None, "mark": None}
            assert "Cookie" in kept.headers["vary"]  # or caches would hand the cookie to others
            cookie = {"Cookie": f"sessionid={key}"}
            where = chance.choice(["/async", "/plain"])
            async with connect(
                f"{served.ws}{where}/{name}",
                origin="http://localhost",  # type: ignore[arg-type]  # as above
                additional_headers=cookie,
                proxy=None,
            ) as socket:
                frames = ""
                for _ in range(chance.randrange(1, 5)):
                    frame = chance.choice(string.ascii_letters)
                    frames += frame
                    mark = f"{name}-{frames}"
                    answer, _ = await asyncio.gather(
                        client.get("/secret", headers={"X-Mark": mark}), socket.send(frame)
                    )
                    assert answer.json() == {"secret": name, "key": key, "mark": mark}
                    assert "set-cookie" not in answer.headers
                    assert await socket.recv() == f"{frame} {name} {frames}"

    async with site() as served:
        await asyncio.gather(*(visitor(served, f"visitor{number}") for number in range(30)))
        async with asyncio.timeout(10):
            while await Session.objects.filter(session_key__startswith="chn").aexists():
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_guessed_and_planted_keys_make_no_session(kind: str) -> None:
    """Fixation: a key that no view has given out is nobody's, wherever it comes from, and stays so."""
    async with site() as served:
        for key in ("a" * 32, "chn" + "0" * 29, "' OR 1=1 --", "x" * 4000):
            headers = {"Cookie": f"sessionid={key}"}
            async with connect(
                f"{served.ws}/{kind}?session_key={'b' * 32}",
                origin="http://localhost",  # type: ignore[arg-type]  # as above
                additional_headers=headers,
                proxy=None,
            ) as socket:
                await socket.send("f")
                assert await socket.recv() == "f None f"
        async with httpx.AsyncClient(base_url=served.http, trust_env=False) as client:
            planted = {"Cookie": f"sessionid={'a' * 32}"}
            answer = await client.get("/secret", params={"keep": "mine"}, headers=planted)
            assert answer.json()["secret"] == "mine"
            assert client.cookies["sessionid"] != "a" * 32
        assert not await Session.objects.filter(session_key__in=["a" * 32, "b" * 32]).aexists()


async def test_header_names_that_look_like_others_are_dropped() -> None:
    """CVE-2015-0219, CVE-2026-3902."""
    async with site() as served, httpx.AsyncClient(base_url=served.http, trust_env=False) as client:
        headers = [
            ("X_Forwarded_User", "admin"),
            ("X-Forwarded_User", "admin"),
            ("X-Real", "1"),
            ("X-Real", "2"),
        ]
        seen = (await client.get("/meta", headers=headers)).json()
    assert "HTTP_X_FORWARDED_USER" not in seen
    assert seen["HTTP_X_REAL"] == "1,2"


async def test_too_many_headers_are_refused() -> None:
    """CVE-2025-14550."""
    async with site() as served, httpx.AsyncClient(base_url=served.http, trust_env=False) as client:
        sent = served.sent
        assert (await client.get("/meta", headers=[("X", "1")] * 200)).status_code in (400, 431)
        assert served.sent == sent


async def test_bodies_are_counted_where_no_length_was_announced() -> None:
    """CVE-2026-33034, CVE-2026-5766: Django's limits hold for what comes, not for what was said."""

    async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    async with site() as served, httpx.AsyncClient(base_url=served.http, trust_env=False) as client:
        assert (await client.post("/body", content=pieces(b"x" * 2_000_000))).text == "2000000"
        assert (await client.post("/body", content=pieces(*[b"x" * 100_000] * 30))).status_code in (400, 413)
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        file = pieces(head, *[b"y" * 100_000] * 30, b"\r\n--x--\r\n")
        assert (await client.post("/upload", content=file, headers=kind)).text == "3000000 True"
        with override_settings(CHANNELS={"MAX_BODY_SIZE": 1000}):
            assert (await client.post("/body", content=pieces(b"x" * 2000))).status_code == 413
