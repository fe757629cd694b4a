"""What production servers load, and that it knows nothing of the project."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from django.test import override_settings

from channels_core import ConfigurationError
from channels_core.interface import InterfaceApplication
from channels_django import get_asgi_application
from testsite.projects import Project

ASGI = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
from channels_django import get_asgi_application
application = get_asgi_application()
"""

# The server and, for answers, a worker whose consumers are no part of the project.
ISOLATED = """
import asyncio, sys
import uvicorn, httpx
from channels_core.worker import Worker
from channels_router_regex import route
from channels_router_regex.router import Router
from websockets.asyncio.client import connect
from project.asgi import application

layer = application.layer
layer.router = Router([
    route("http.request", lambda message: message.reply_channel.send({"status": 200, "content": b"page"})),
    route("websocket.connect", lambda message: message.reply_channel.send({"accept": True})),
    route("websocket.receive", lambda message: message.reply_channel.send({"text": message["text"]})),
])
worker = Worker(layer)
worker.start()

async def main():
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient() as client:
        print((await client.get(f"http://127.0.0.1:{port}/")).text)
    async with connect(f"ws://127.0.0.1:{port}/x", origin="http://localhost", proxy=None) as client:
        await client.send("frame")
        print(await client.recv())
    server.should_exit = True
    await serving

asyncio.run(main())
worker.stop()

from django.apps import apps
assert not apps.ready and not apps.apps_ready and not apps.app_configs, "the apps registry was populated"
mine = sorted(name for name in sys.modules if name.split(".")[0] in ("project", "shop"))
assert mine == ["project", "project.asgi", "project.settings"], mine
heavy = [name for name in ("django.db.models", "django.contrib.auth.models", "django.urls") if name in sys.modules]
assert not heavy, heavy
print("isolated")
"""


def test_an_interface_process_imports_nothing_but_the_settings(tmp_path: Path) -> None:
    project = Project(tmp_path, asgi=ASGI)
    project.write(
        "project/settings.py", (tmp_path / "project/settings.py").read_text() + 'INSTALLED_APPS += ["shop"]'
    )
    project.write("shop/__init__.py", "raise AssertionError('an application was imported')")
    project.write("isolated.py", ISOLATED)
    done = subprocess.run(
        [sys.executable, "-W", "error", "isolated.py"],
        cwd=tmp_path,
        env=project.environment() | {"PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "page\nframe\nisolated\n", done.stderr


def test_a_local_layer_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "channels.interface"):
        application = get_asgi_application()
    assert isinstance(application, InterfaceApplication)
    assert caplog.messages == [
        "The channel layer 'default' keeps its messages inside this process, so no runworker process can answer what"
        " this server receives. Name a layer that reaches across processes as its BACKEND, or use runserver."
    ]


def test_it_is_configured_by_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    layers = {"sockets": {"BACKEND": "memory", "ROUTING": []}}
    chosen = {"LAYER": "sockets", "HTTP_TIMEOUT": 3, "ORIGIN_VALIDATOR": None}
    with override_settings(CHANNEL_LAYERS=layers, CHANNELS=chosen):
        application = get_asgi_application()
    assert application.layer.alias == "sockets"
    assert application.config.http_timeout == 3
    assert application.origin_validator is None


def test_wrong_settings_are_an_error_at_import() -> None:
    with override_settings(CHANNELS={"HTTP_TIMEOUT": "soon"}):
        with pytest.raises(ConfigurationError, match=re.escape("CHANNELS['HTTP_TIMEOUT'] is 'soon' (str)")):
            get_asgi_application()


async def test_http_in_process_is_answered_by_django_and_says_so_in_the_checks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with override_settings(CHANNELS={"HTTP": "in-process"}, ROOT_URLCONF="testsite.http_views"):
        application = get_asgi_application()
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            assert (await client.get("/")).text == "hello"
        await application.aclose()


def test_the_package_is_importable_before_settings_exist() -> None:
    code = (
        "import channels_django, sys; from channels_django import get_asgi_application;"
        " assert 'AsgiRequest' in dir(channels_django); assert 'django.http' not in sys.modules; print('ok')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    import channels_django

    with pytest.raises(AttributeError, match="module 'channels_django' has no attribute 'Nothing'"):
        channels_django.Nothing  # noqa: B018 - the access is the test
    assert channels_django.__all__ == ["AsgiHandler", "AsgiRequest", "ViewConsumer", "get_asgi_application"]
