"""``runserver`` as a process: pages, sockets, static files, reloads, and clean ends."""

import asyncio
import logging
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from django.core.management import CommandError, call_command
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ports import free_port
from testsite.projects import Project, Running

ADDRESS = re.compile(r"http://(\S+?):(\d+)/")
STARTED = "Quit the server with"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def port_of(server: Running) -> int:
    server.wait_for(STARTED)
    found = ADDRESS.search(server.output)
    assert found is not None
    return int(found[2])


@asynccontextmanager
async def open_socket(port: int, path: str = "/chat") -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as socket_:
        yield socket_


async def fetch(url: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(url)


async def write_until_closed(project: Project, urls: str, client: ClientConnection) -> None:
    """Django's reloader does not see what changes before its first look around: write again, then."""
    for _ in range(10):
        project.write("project/urls.py", urls)
        with suppress(TimeoutError):
            await asyncio.wait_for(client.recv(), 2)


async def test_it_serves_pages_and_sockets_and_ends_cleanly(project: Project) -> None:
    with project.start("runserver", "0", "--noreload") as server:
        port = port_of(server)
        page = await fetch(f"http://127.0.0.1:{port}/?x=%0d")
        assert page.text.startswith("hello from ")
        assert (await fetch(f"http://127.0.0.1:{port}/broken")).status_code == 500
        async with open_socket(port, "/chat?room=1") as client:
            await client.send("hi")
            assert await client.recv() == "hi"
            server.signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert server.wait() == 0
        output = server.output
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    assert "System check identified no issues" in output
    assert '"GET /?x=%0d HTTP/1.1" 200' in output
    assert '"GET /broken HTTP/1.1" 500 0' in output
    assert re.search(r"WebSocket CONNECT /chat\?room=1 \[127\.0\.0\.1:\d+\]", output)
    assert re.search(r"WebSocket DISCONNECT /chat\?room=1 1012 \[127\.0\.0\.1:\d+\]", output)
    assert "left with 1012" in output, "consumers of the closing sockets still ran"
    assert "Traceback" not in output


def test_ctrl_c_ends_it_cleanly(project: Project) -> None:
    with project.start("runserver", "0", "--noreload") as server:
        port_of(server)
        server.interrupt_group()
        assert server.wait() == 0
        assert "Traceback" not in server.output


async def test_a_reload_closes_sockets_with_1012_and_serves_the_new_code(project: Project) -> None:
    port = free_port()
    with project.start("runserver", str(port)) as server:
        server.wait_for(STARTED)
        async with open_socket(port) as client:
            changed = (project.folder / "project/urls.py").read_text().replace("hello", "hi")
            with pytest.raises(ConnectionClosed) as caught:
                await write_until_closed(project, changed, client)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        server.wait_for(STARTED, times=2)
        assert (await fetch(f"http://127.0.0.1:{port}/")).text.startswith("hi from ")
        assert "left with 1012" in server.output
        server.interrupt_group()
        assert server.wait() == 0
        assert "Traceback" not in server.output


async def test_sigterm_to_the_reloader_ends_both_processes_cleanly(project: Project) -> None:
    port = free_port()
    with project.start("runserver", str(port)) as server:
        server.wait_for(STARTED)
        async with open_socket(port) as client:
            server.signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert server.wait() == 0
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012


def test_static_files_are_served_in_development(project: Project) -> None:
    project.write("project/static/site.css", "body { color: teal }" * 10_000)
    project.write("project/settings.py", (project.folder / "project/settings.py").read_text() + STATIC)
    with project.start("runserver", "0", "--noreload") as server:
        port = port_of(server)
        found = httpx.get(f"http://127.0.0.1:{port}/static/site.css")
        assert (found.status_code, len(found.content), found.headers["content-type"]) == (
            200,
            200_000,
            "text/css",
        )
        assert httpx.get(f"http://127.0.0.1:{port}/static/none.css").status_code == 404
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    with project.start("runserver", "0", "--noreload", "--nostatic") as server:
        assert httpx.get(f"http://127.0.0.1:{port_of(server)}/static/site.css").status_code == 404


def test_static_files_without_debug_need_insecure(project: Project) -> None:
    project.write("project/static/site.css", "body {}")
    project.write(
        "project/settings.py",
        (project.folder / "project/settings.py").read_text() + STATIC + "DEBUG = False\n",
    )
    with project.start("runserver", "0", "--noreload") as server:
        assert httpx.get(f"http://127.0.0.1:{port_of(server)}/static/site.css").status_code == 404
    with project.start("runserver", "0", "--noreload", "--insecure") as server:
        assert httpx.get(f"http://127.0.0.1:{port_of(server)}/static/site.css").text == "body {}"


STATIC = """
from pathlib import Path
STATICFILES_DIRS = [Path(__file__).parent / "static"]
"""


async def test_without_workers_a_request_is_answered_503_in_time(project: Project) -> None:
    with project.start(
        "runserver",
        "0",
        "--noreload",
        "--noworker",
        "--http_timeout=0.3",
        "--websocket_handshake_timeout=0.3",
    ) as server:
        port = port_of(server)
        assert "without workers (--noworker)" in server.output
        assert (await fetch(f"http://127.0.0.1:{port}/")).status_code == 503
        with pytest.raises(InvalidStatus) as caught:
            async with open_socket(port):
                pass
        assert caught.value.response.status_code in (403, 503)
        server.wait_for("WebSocket REJECT /chat")


async def test_a_refused_origin_never_gets_in(project: Project) -> None:
    with project.start("runserver", "0", "--noreload") as server:
        port = port_of(server)
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"ws://127.0.0.1:{port}/chat", origin="https://evil.example", proxy=None):  # type: ignore[arg-type]  # a NewType of text
                pass
        assert caught.value.response.status_code == 403
        server.wait_for("WebSocket REJECT /chat 403")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6(project: Project) -> None:
    with project.start("runserver", "[::1]:0", "--noreload") as server:
        port = port_of(server)
        assert f"http://[::1]:{port}/" in server.output
        assert httpx.get(f"http://[::1]:{port}/").status_code == 200


def test_a_port_in_use_is_an_error_with_a_remedy(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for options in (["--noreload"], []):
            done = project.run("runserver", str(port), *options)
            assert done.returncode == 1
            assert (
                f"Cannot listen on 127.0.0.1:{port}: that port is already in use. Choose another, as in: runserver"
                " 127.0.0.1:8001" in done.stdout + done.stderr
            )
            assert "Traceback" not in done.stdout + done.stderr


def test_wrong_settings_stop_it_with_the_checks_text(project: Project) -> None:
    project.write(
        "project/settings.py",
        (project.folder / "project/settings.py").read_text() + "CHANNELS = {'THREDS': 2}\n",
    )
    done = project.run("runserver", "0", "--noreload")
    assert done.returncode == 1
    assert "(channels.E003) CHANNELS has the unknown key 'THREDS'." in done.stderr
    assert "Did you mean 'THREADS'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan"])
def test_timeouts_are_numbers_above_zero(seconds: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("runserver", "0", f"--http_timeout={seconds}")
    assert str(caught.value) == (
        f"Error: argument --http_timeout: {seconds!r} is not a number of seconds above 0"
    )


def test_noasgi_is_djangos_own_server(project: Project) -> None:
    port = free_port()
    with project.start("runserver", str(port), "--noreload", "--noasgi") as server:
        server.wait_for("development server at")
        assert httpx.get(f"http://127.0.0.1:{port}/").text.startswith("hello from ")


def test_without_a_layer_it_is_djangos_own_server_and_says_so(project: Project) -> None:
    project.write(
        "project/settings.py", (project.folder / "project/settings.py").read_text() + "CHANNEL_LAYERS = {}\n"
    )
    port = free_port()
    with project.start("runserver", str(port), "--noreload") as server:
        server.wait_for(
            "CHANNEL_LAYERS has no 'default', so this is Django's own server, without WebSockets."
        )
        server.wait_for("development server at")
        assert httpx.get(f"http://127.0.0.1:{port}/").text.startswith("hello from ")


def test_http_in_process_is_served_by_django(project: Project) -> None:
    project.write("project/static/site.css", "body {}")
    project.write(
        "project/settings.py",
        (project.folder / "project/settings.py").read_text() + STATIC + "CHANNELS = {'HTTP': 'in-process'}\n",
    )
    with project.start("runserver", "0", "--noreload", "--noworker") as server:
        port = port_of(server)
        assert httpx.get(f"http://127.0.0.1:{port}/").text.startswith("hello from ")
        assert httpx.get(f"http://127.0.0.1:{port}/static/site.css").text == "body {}"


def test_without_uvicorn_it_says_what_to_install(project: Project) -> None:
    project.write("uvicorn/__init__.py", "raise ImportError('not here')")
    done = project.run("runserver", "0", "--noreload")
    assert done.returncode == 1
    assert (
        "CommandError: runserver needs the server uvicorn, which is not installed: pip install"
        " 'channels-django[server]', or use --noasgi to serve plain Django without WebSockets." in done.stderr
    )


async def test_the_log_colours_by_status_and_survives_forgery(caplog: pytest.LogCaptureFixture) -> None:
    from channels_django.request_log import RequestLog

    async def application(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})  # type: ignore[operator]  # ASGI
        await send({"type": "http.response.body", "body": b"none"})  # type: ignore[operator]  # ASGI

    async def nothing(*_: object) -> dict[str, object]:
        return {}

    scope = {
        "type": "http",
        "method": "GET",
        "path": '/a\n[22/Nov/2026] "GET /admin',
        "query_string": b"x=\x1b[31m",
        "http_version": "1.1",
    }
    with caplog.at_level(logging.INFO, "django.server"):
        await RequestLog(application)(scope, nothing, nothing)  # type: ignore[arg-type]  # as loose as a server's
    (record,) = caplog.records
    assert record.getMessage() == (
        '"GET /a%0A%5B22/Nov/2026%5D%20%22GET%20/admin?x=%1B%5B31m HTTP/1.1" 404 4'
    )
    assert (record.levelno, record.status_code) == (logging.WARNING, 404)  # type: ignore[attr-defined]  # what the formatter takes its colour from
