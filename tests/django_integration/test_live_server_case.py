"""ChannelLiveServerTestCase: on the test site, and in projects of its own under both test runners."""

import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from django.contrib.auth.models import Group as AuthGroup
from django.test import override_settings
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from channels_core import Group, channel_layers
from channels_django.generic import WebsocketConsumer
from channels_django.testing import ChannelLiveServerTestCase, ChannelTestCase
from redis_servers import RedisServer
from testsite.projects import Project

PATIENCE = 10.0


class Counting(WebsocketConsumer):
    """Its second half is asynchronous, and uses the database as well."""

    def receive(self, text: str, **kwargs: Any) -> None:
        AuthGroup.objects.create(name=text)
        self.send(text=f"{AuthGroup.objects.count()} groups")


class AsyncCounting(WebsocketConsumer):
    groups: ClassVar[list[str]] = ["all"]

    async def receive(self, text: str, **kwargs: Any) -> None:
        await AuthGroup.objects.acreate(name=text)
        await self.asend(text=f"{await AuthGroup.objects.acount()} groups")


routes = [Counting.as_route(path="^/plain$"), AsyncCounting.as_route(path="^/async$")]
async_routes = [AsyncCounting.as_route(path="^/async$")]


def layers(**entry: Any) -> dict[str, Any]:
    return {"default": {"BACKEND": "memory", "ROUTING": routes, **entry}}


@override_settings(CHANNEL_LAYERS=layers())
class Live(ChannelLiveServerTestCase):
    def setUp(self) -> None:
        AuthGroup.objects.create(name="of setUp")

    @pytest.mark.timeout(30)
    def test_sockets_consumers_and_the_test_see_one_database(self) -> None:
        for path in ("/plain", "/async"):
            with connect(f"{self.live_server_ws_url}{path}", proxy=None) as socket:
                socket.send(path)
                assert socket.recv(PATIENCE) == f"{AuthGroup.objects.count()} groups"
                assert AuthGroup.objects.filter(name=path).exists()

    def test_it_is_all_new_for_the_next_test(self) -> None:
        assert list(AuthGroup.objects.values_list("name", flat=True)) == ["of setUp"]
        assert channel_layers["default"].group_channels("all") == []

    def test_what_the_test_sends_reaches_the_sockets(self) -> None:
        with connect(f"{self.live_server_ws_url}/async", proxy=None) as socket:
            Group("all").send({"text": "hello"})
            assert socket.recv(PATIENCE) == "hello"

    def test_origins_are_looked_at(self) -> None:
        with connect(f"{self.live_server_ws_url}/plain", origin=Origin(self.live_server_url), proxy=None):
            pass
        with pytest.raises(InvalidStatus):
            connect(f"{self.live_server_ws_url}/plain", origin=Origin("http://example.com"), proxy=None)

    def test_views_answer_http(self) -> None:
        response = httpx.get(f"{self.live_server_url}/nowhere", trust_env=False)
        assert response.status_code == 404
        assert channel_layers["default"].counters.sent > 0


@override_settings(CHANNEL_LAYERS=layers(ROUTING=async_routes))
class AsynchronousOnly(ChannelLiveServerTestCase):
    def test_the_database_of_consumers_on_the_event_loop(self) -> None:
        with connect(f"{self.live_server_ws_url}/async", proxy=None) as socket:
            socket.send("one")
            assert socket.recv(PATIENCE) == "1 groups"


@override_settings(CHANNEL_LAYERS=layers(TEST_CONFIG={"capacity": 33}))
class Configured(ChannelLiveServerTestCase):
    def test_the_layer_is_that_of_test_config(self) -> None:
        assert channel_layers["default"].capacity == 33


class OverSockets(ChannelLiveServerTestCase):
    __test__ = False  # run by tests that have a layer for it

    def test_sockets(self) -> None:
        with connect(f"{self.live_server_ws_url}/plain", proxy=None) as socket:
            socket.send("one")
            assert socket.recv(PATIENCE) == "1 groups"


@pytest.mark.timeout(120)
def test_on_a_layer_that_others_share_each_test_has_a_prefix_of_its_own() -> None:
    with RedisServer() as server:
        entry = layers(BACKEND="redis", TEST_CONFIG={"hosts": [server.url]})
        before = server.do("SET", "of-somebody-else", "1")
        with override_settings(CHANNEL_LAYERS=entry):
            result = results_of(OverSockets("test_sockets"))
        assert result.wasSuccessful(), result.errors
        assert before is not None
        assert server.do("DBSIZE") == 1


def results_of(case: unittest.TestCase) -> unittest.TestResult:
    result = unittest.TestResult()
    case.run(result)
    return result


def test_there_is_no_address_outside_a_test() -> None:
    with pytest.raises(RuntimeError) as caught:
        Live("test_views_answer_http").live_server_url  # noqa: B018 - a property
    assert str(caught.value) == (
        "The server of Live runs during a test only, so it has no address now: ask for it in setUp() or in the test."
    )


def test_what_prevents_the_server_is_the_tests_error() -> None:
    class Elsewhere(ChannelLiveServerTestCase):
        host = "192.0.2.1"  # TEST-NET-1: no machine has it

        def test(self) -> None:
            """Never comes to run."""

    class OtherLayer(ChannelTestCase):
        test_channel_aliases: ClassVar[list[str]] = ["othr"]

        def test(self) -> None:
            """Never comes to run."""

    for kind, text in ((Elsewhere, "OSError"), (OtherLayer, "test_channel_aliases names 'othr'")):
        result = results_of(kind("test"))
        ((_, trace),) = result.errors
        assert text in trace
        assert result.testsRun == 1


def test_without_uvicorn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels_django.testing.live.find_spec", lambda name: None)
    ((_, trace),) = results_of(Live("test_views_answer_http")).errors
    assert (
        "Live needs the server uvicorn, which is not installed: pip install 'channels-django[server]'."
        in trace
    )


# Projects of their own, with the database in memory that Django makes for tests

SETTINGS = """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = []
ROOT_URLCONF = "project.urls"
USE_TZ = True
INSTALLED_APPS = [
    "channels_django", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "memory", "ROUTING": "project.routing.routes"}}
"""

ROUTING = """
from channels_django.generic import WebsocketConsumer
from django.contrib.auth.models import User

class SignUp(WebsocketConsumer):
    def receive(self, text, **kwargs):
        User.objects.create_user(text)
        self.send(text=str(User.objects.count()))

class AsyncSignUp(WebsocketConsumer):
    async def receive(self, text, **kwargs):
        await User.objects.acreate(username=text)
        await self.asend(text=str(await User.objects.acount()))

routes = [SignUp.as_route(path="^/plain$"), AsyncSignUp.as_route(path="^/async$")]
"""

TESTS = """
from django.contrib.auth.models import User
from websockets.sync.client import connect

from channels_core import Channel
from channels_django.testing import ChannelLiveServerTestCase, ChannelTestCase, WSClient

class UnitTests(ChannelTestCase):
    def test_consumers(self):
        client = WSClient()
        client.send_and_consume("websocket.connect", path="/plain")
        client.send_and_consume("websocket.receive", text="ada", path="/plain")
        self.assertEqual(client.receive(), 1)

    def test_the_layer_is_empty(self):
        self.assertIsNone(self.get_next_message("jobs"))
        Channel("jobs").send({})

class Live:
    path = ""

    def setUp(self):
        User.objects.create_user("grace")

    def sign_up(self):
        with connect(self.live_server_ws_url + self.path, proxy=None) as socket:
            for number in range(5):
                socket.send(f"user-{number}")
                self.assertEqual(socket.recv(10), str(number + 2))
                self.assertTrue(User.objects.filter(username=f"user-{number}").exists())

    def test_one(self):
        self.sign_up()

    def test_two(self):
        self.sign_up()

class PlainTests(Live, ChannelLiveServerTestCase):
    path = "/plain"

class AsyncTests(Live, ChannelLiveServerTestCase):
    path = "/async"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, settings=SETTINGS, routing=ROUTING, tests=TESTS, urls="urlpatterns = []\n")


@pytest.mark.parametrize("options", [(), ("--parallel", "2")], ids=["one process", "two processes"])
def test_under_djangos_runner(project: Project, options: tuple[str, ...]) -> None:
    ran = project.run("test", "-v", "1", *options, "project")
    assert ran.returncode == 0, ran.stderr
    assert "Ran 6 tests" in ran.stderr
    assert "Warning" not in ran.stderr


def test_under_pytest_django_and_side_by_side(project: Project) -> None:
    project.write(
        "pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = project.settings\nfilterwarnings = error\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "project/tests.py",
    ]
    runs = [
        subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.environment() | {"PYTHONWARNINGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=50)
        assert run.returncode == 0, output
        assert "6 passed" in output
