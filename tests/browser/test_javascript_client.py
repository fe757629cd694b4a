"""The JavaScript client in a real browser, against a real server that is stopped, killed and started again."""

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import chromium
from chromium import Window
from ports import free_port
from testsite.projects import Project, Running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

STATIC = Path(__file__).resolve().parents[2] / "channels_django/src/channels_django/static/channels_django"

SETTINGS = """
from pathlib import Path
SECRET_KEY = "of a test"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "project.urls"
USE_TZ = True
INSTALLED_APPS = [
    "channels_django", "channels_model_binding", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.sessions", "django.contrib.staticfiles", "project",
]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db.sqlite3",
    "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
CHANNEL_LAYERS = {"default": {"BACKEND": "memory", "ROUTING": "project.routing.routes"}}
"""

URLS = '''
from django.http import HttpResponse
from django.urls import path

PAGE = """<!doctype html><title>test</title><link rel="icon" href="data:,">
<script type="module">
  import * as all from "/static/channels_django/channels.module.js";
  window.all = all;
</script>"""
PLAIN = """<!doctype html><title>test</title><link rel="icon" href="data:,">
<script src="/static/channels_django/channels.js"></script>"""

urlpatterns = [path("", lambda request: HttpResponse(PAGE)), path("plain", lambda request: HttpResponse(PLAIN))]
'''

MODELS = """
from django.db import models

class Item(models.Model):
    title = models.CharField(max_length=20)
    count = models.IntegerField(default=0)
    secret = models.CharField(max_length=20, default="kept")
"""

BINDINGS = """
from channels_model_binding import WebsocketBinding
from project.models import Item

class ItemBinding(WebsocketBinding):
    model = Item
    stream = "items"
    fields = ["title", "count"]

    @classmethod
    def group_names(cls, instance):
        return ["items"]

    def has_permission(self, user, action, pk):
        return True
"""

ROUTING = """
from channels_core import DenyConnection
from channels_django.generic import JsonWebsocketConsumer, WebsocketDemultiplexer
from channels_router_regex import route
from project.bindings import ItemBinding

class Echo(JsonWebsocketConsumer):
    def connect(self, message, multiplexer, **kwargs):
        pass

    def receive(self, content, multiplexer, **kwargs):
        multiplexer.send(content)

class Streams(WebsocketDemultiplexer):
    groups = ["items"]
    consumers = {"echo": Echo, "items": ItemBinding.consumer}

def echo(message):
    if message.content.get("text") == '"close 1000"':
        message.reply_channel.send({"close": 1000})
    elif message.content.get("text") == '"close 3999"':
        message.reply_channel.send({"close": 3999})
    elif message.content.get("text") == '"no json"':
        message.reply_channel.send({"text": "{"})
    elif message.content.get("bytes") is not None:
        message.reply_channel.send({"bytes": message["bytes"]})
    else:
        message.reply_channel.send({"text": message["text"]})

def refuse(message):
    raise DenyConnection

routes = [
    Streams.as_route(path="^/streams$"),
    route("websocket.connect", refuse, path="^/refused$"),
    route("websocket.receive", echo, path="^/echo$"),
]
"""


class Site(Project):
    """A project behind ``runserver``, which can be stopped, killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, settings=SETTINGS, urls=URLS, models=MODELS, bindings=BINDINGS, routing=ROUTING
        )
        done = self.run("migrate", "--run-syncdb")
        assert done.returncode == 0, done.stderr
        self.port = free_port()
        self.running: Running | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> None:
        self.running = self.start("runserver", "--noreload", f"127.0.0.1:{self.port}").__enter__()
        deadline = threading.Event()
        for _ in range(400):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(self.origin, timeout=5).raise_for_status()
                return
            deadline.wait(0.05)
        raise AssertionError(f"The site does not answer. It printed:\n{self.running.output}")

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        if self.running is not None:
            self.running.signal(number)
            self.running.wait()
            assert "Traceback" not in self.running.output, self.running.output
            self.running.__exit__()
            self.running = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    chromium.need_browser()
    made = Site(tmp_path_factory.mktemp("javascript"))
    made.serve()
    yield made
    made.end()


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    window = Window(tmp_path_factory.mktemp("profile"))
    yield window
    window.driver.quit()


@pytest.fixture
def page(site: Site, browser: Window) -> Iterator[Window]:
    browser.driver.get(site.origin)
    browser.wait(lambda: browser.script("return 'all' in window"))
    browser.script(
        """
        window.connect = (url, options) => {
          window.log = [];
          window.connection = new all.Connection(url, options);
          for (const type of ["open", "close", "state", "message", "binary", "drain", "invalid"]) {
            connection.on(type, (value) => log.push([type, value instanceof ArrayBuffer ? value.byteLength : value]));
          }
        };
        """
    )
    yield browser
    browser.script("window.connection?.close(); window.connection = undefined")
    assert browser.complaints() == []


def events(page: Window, *types: str) -> list[Any]:
    found: list[Any] = page.script("return log.filter(([type]) => arguments[0].includes(type))", types)
    return found


def states(page: Window) -> list[str]:
    return [event["state"] for _, event in events(page, "state")]


def wait_for_state(page: Window, state: str) -> None:
    page.wait(lambda: page.script("return connection.state") == state)


def test_values_go_out_and_come_back(page: Window) -> None:
    page.script("connect('/echo'); connection.send({early: true})")
    page.wait(lambda: events(page, "message") == [["message", {"early": True}]])
    assert states(page) == ["connecting", "open"]
    assert events(page, "open") == [["open", {"isReturn": False}]]
    sent = page.script(
        "return [connection.send([1, 'ü', null]), connection.send('text'), connection.sendRaw(new Uint8Array(3)),"
        " connection.send('no json')]"
    )
    assert sent == [True] * 4
    page.wait(lambda: events(page, "invalid"))
    assert events(page, "message")[1:] == [["message", [1, "ü", None]], ["message", "text"]]
    assert events(page, "binary", "invalid") == [["binary", 3], ["invalid", "{"]]
    assert page.script("return connection.url").startswith("ws://127.0.0.1:")


def test_a_listener_can_end_and_one_that_throws_disturbs_no_other(page: Window) -> None:
    page.script(
        """
        connect("/echo");
        window.heard = [];
        window.reports = [];
        addEventListener("error", (event) => { reports.push(event.message); event.preventDefault(); });
        const end = connection.on("message", () => { heard.push("ended"); });
        connection.on("message", () => { throw new Error("mine"); });
        connection.on("message", (value) => heard.push(value));
        end();
        connection.send(1);
        """
    )
    page.wait(lambda: page.script("return heard") == [1])
    assert page.script("return reports.length") == 1


def test_it_comes_back_when_the_server_does(site: Site, page: Window) -> None:
    page.script("connect('/echo', {firstWait: 50, longestWait: 400})")
    wait_for_state(page, "open")
    for how in (signal.SIGINT, signal.SIGKILL):
        page.script("log.length = 0")
        site.end(how)
        wait_for_state(page, "waiting")
        code = events(page, "close")[0][1]["code"]
        assert code == (1012 if how == signal.SIGINT else 1006)
        assert page.script("return connection.send({while: 'away'})") is True
        site.serve()
        page.wait(lambda: events(page, "message") == [["message", {"while": "away"}]])
        assert events(page, "open") == [["open", {"isReturn": True}]]


def test_waits_grow_and_are_scattered(page: Window) -> None:
    page.script("connect('/refused', {firstWait: 20, longestWait: 100})")
    page.wait(lambda: states(page).count("waiting") >= 12)
    page.script("connection.close()")
    waits = [event["wait"] for _, event in events(page, "state") if event["state"] == "waiting"]
    for number, wait in enumerate(waits):
        longest = min(100, 20 * 2**number)
        assert longest / 2 <= wait <= longest
    assert len({round(wait, 6) for wait in waits[3:]}) > 5
    assert states(page)[-1] == "closed"
    assert {code["code"] for _, code in events(page, "close")} == {1006}


def test_it_tries_at_once_when_the_network_is_back(page: Window) -> None:
    page.script("connect('/echo', {firstWait: 60_000, longestWait: 60_000})")
    wait_for_state(page, "open")
    page.script("connection.send('close 3999')")
    wait_for_state(page, "waiting")
    assert events(page, "close") == [["close", {"code": 3999, "reason": ""}]]
    page.script("dispatchEvent(new Event('online'))")
    wait_for_state(page, "open")


def test_it_stays_away_when_the_server_means_it_and_after_close(page: Window) -> None:
    page.script("connect('/echo', {firstWait: 10})")
    wait_for_state(page, "open")
    page.script("connection.send('close 1000')")
    wait_for_state(page, "closed")
    assert page.script("return connection.send(1)") is False
    page.script("connection.open()")
    wait_for_state(page, "open")
    page.script("connection.close(3001, 'enough')")
    assert states(page) == ["connecting", "open", "closed"] * 2
    assert events(page, "close")[-1] == ["close", {"code": 3001, "reason": "enough"}]
    page.script("dispatchEvent(new Event('online'))")
    assert page.script("return connection.state") == "closed"
    assert page.script("connect('/echo', {connect: false}); return connection.state") == "closed"
    assert page.script("connection.close(); connection.open(); return connection.state") == "connecting"


def test_what_listeners_of_open_send_goes_before_what_has_waited(page: Window) -> None:
    page.script(
        """
        connect("/echo", {firstWait: 10, connect: false});
        connection.on("open", ({isReturn}) => { connection.send({greeting: 1}); connection.send({greeting: 2}); });
        connection.send("first"); connection.send("second");
        connection.open();
        """
    )
    expected = [{"greeting": 1}, {"greeting": 2}, "first", "second"]
    page.wait(lambda: [value for _, value in events(page, "message")] == expected)


def test_listeners_may_close_and_open_at_any_time(page: Window) -> None:
    page.script(
        """
        connect("/echo", {connect: false});
        const end = connection.on("state", ({state}) => state === "connecting" && connection.close());
        connection.open();
        end();
        """
    )
    assert states(page) == ["connecting", "closed"]
    page.script(
        """
        log.length = 0;
        const ends = [connection.on("state", () => connection.open()),
                      connection.on("state", ({state}) => state === "open" && connection.close())];
        connection.open();
        window.end = () => ends.forEach((end) => end());
        """
    )
    page.wait(lambda: states(page).count("connecting") > 2)
    page.script("end(); connection.close()")
    assert events(page, "open") == []
    assert states(page)[-1] == "closed"


def test_a_close_that_the_browser_refuses_changes_nothing(page: Window) -> None:
    page.script("connect('/echo')")
    wait_for_state(page, "open")
    for arguments in ("1001", "3000, 'x'.repeat(124)"):
        assert (
            page.script(
                f"try {{ connection.close({arguments}); return 'closed' }} catch (error) {{ return connection.state }}"
            )
            == "open"
        )
    page.script("connection.send('still here')")
    page.wait(lambda: events(page, "message") == [["message", "still here"]])
    page.script("connection.close()")
    assert states(page)[-1] == "closed"


def test_the_queue_is_bounded_and_drains(site: Site, page: Window) -> None:
    page.script("connect('/echo', {queueLimit: 3, queueBytes: 30, connect: false})")
    assert page.script("return [1, 2, 3, 4].map((n) => connection.send(n))") == [True, True, True, False]
    assert page.script("return connection.bufferedAmount") == 3
    page.script("connection.open()")
    page.wait(lambda: len(events(page, "message")) == 3)
    assert [value for _, value in events(page, "message")] == [1, 2, 3]
    assert events(page, "drain") == [["drain", None]]
    page.script("connect('/echo', {queueLimit: 3, queueBytes: 30, connect: false})")
    assert page.script("return [connection.send('x'.repeat(20)), connection.send('ü'.repeat(6))]") == [
        True,
        False,
    ]
    assert page.script("connect('/echo', {queueLimit: 0}); return connection.send(1)") is False
    page.wait(lambda: events(page, "drain"))
    assert page.script("return connection.send(2)") is True


def test_a_slow_network_makes_messages_wait_here(page: Window) -> None:
    page.script("connect('/echo', {highWater: 1_000, queueBytes: 10_000_000})")
    wait_for_state(page, "open")
    # More in one go than a socket takes at once: what the browser holds stays small, and all of it arrives in order.
    held = page.script(
        """
        const text = "x".repeat(10_000);
        for (let n = 0; n < 100; n += 1) connection.send([n, text]);
        return connection.bufferedAmount;
        """
    )
    assert held > 900_000
    page.wait(lambda: len(events(page, "message")) == 100)
    assert page.script("return log.filter(([type]) => type === 'message').map(([, value]) => value[0])") == [
        *range(100)
    ]
    page.wait(lambda: page.script("return connection.bufferedAmount") == 0)


def test_a_handshake_that_takes_too_long_is_given_up(page: Window) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        page.script(f"connect('ws://127.0.0.1:{port}/', {{handshakeTimeout: 100, firstWait: 60_000}})")
        wait_for_state(page, "waiting")
    assert events(page, "close") == [["close", {"code": 1006, "reason": "The handshake took too long."}]]


def test_streams_go_their_own_ways(page: Window) -> None:
    page.script(
        """
        connect("/streams");
        window.heard = [];
        const echo = connection.stream("echo");
        echo.listen((payload) => heard.push(payload));
        echo.send({n: 1});
        connection.stream("echo").send({n: 2});
        """
    )
    page.wait(lambda: page.script("return heard") == [{"n": 1}, {"n": 2}])
    assert events(page, "message")[0] == ["message", {"stream": "echo", "payload": {"n": 1}}]


BIND = """
    connect("/streams");
    window.heard = [];
    window.items = connection.binding("items");
    for (const action of ["create", "update", "delete"]) {
      items.on(action, (data, pk, payload) => heard.push([action, pk, data, payload.model]));
    }
    items.on("error", (payload) => heard.push(["error", payload.code, payload.errors]));
"""


def test_two_windows_see_what_one_of_them_changes(site: Site, page: Window, tmp_path: Path) -> None:
    other = Window(tmp_path / "other")
    try:
        other.driver.get(site.origin)
        other.wait(lambda: other.script("return 'all' in window"))
        other.script(BIND.replace("connect(", "window.connection = new all.Connection("))
        other.wait(lambda: other.script("return connection.state") == "open")
        page.script(BIND)
        wait_for_state(page, "open")

        def both(count: int) -> Any:
            page.wait(lambda: len(page.script("return heard")) == count)
            other.wait(lambda: len(other.script("return heard")) == count)
            assert page.script("return heard") == other.script("return heard")
            return page.script("return heard")[-1]

        page.script("items.create({title: 'tea', count: 1, secret: 'broken into'})")
        action, pk, data, model = both(1)
        assert (action, data, model) == ("create", {"title": "tea", "count": 1}, "project.item")
        other.script("items.update(arguments[0], {count: 2})", pk)
        assert both(2) == ["update", pk, {"title": "tea", "count": 2}, "project.item"]
        page.script("items.update(arguments[0], {count: 'many'})", pk)
        page.wait(lambda: len(page.script("return heard")) == 3)
        assert page.script("return heard[2].slice(0, 2)") == ["error", "invalid"]
        assert page.script("return Object.keys(heard[2][2])") == ["count"]
        page.script("heard.pop(); items.delete(arguments[0])", pk)
        assert both(3) == ["delete", pk, {"title": "tea", "count": 2}, "project.item"]
        assert other.complaints() == []
    finally:
        other.driver.quit()


def test_the_bridge_of_channels_1_as_a_plain_script(site: Site, page: Window) -> None:
    page.driver.get(f"{site.origin}/plain")
    page.script(
        """
        window.heard = [];
        const bridge = new channels.WebSocketBridge();
        bridge.listen((value, stream) => heard.push(["rest", value, stream ?? null]));
        bridge.demultiplex("items", (payload, stream) => heard.push([stream, payload.action]));
        bridge.connect("/streams");
        bridge.stream("echo").send({n: 1});
        bridge.stream("items").send({action: "explode", pk: 1});
        bridge.send({stream: "echo", payload: {n: 2}});
        window.connection = bridge.connection;
        """
    )
    page.wait(lambda: len(page.script("return heard")) == 3)
    assert page.script("return heard") == [
        ["rest", {"n": 1}, "echo"],
        ["items", "error"],
        ["rest", {"n": 2}, "echo"],
    ]
    assert page.script(
        "try { new channels.WebSocketBridge().send(1) } catch (error) { return error.message }"
    ) == ("Call connect(url) before you send.")


def test_what_is_wrong_is_said_at_once(page: Window) -> None:
    def said(code: str) -> Any:
        return page.script(
            f"try {{ {code} }} catch (error) {{ return `${{error.name}}: ${{error.message}}` }}"
        )

    assert said("new all.Connection('/x', {retry: 1})") == (
        "TypeError: new Connection() has no option retry. There are: connect, protocols, firstWait, longestWait,"
        " handshakeTimeout, stableAfter, giveUpOn, queueLimit, queueBytes, highWater."
    )
    assert said("new all.Connection('/x', {connect: false}).send(undefined)") == (
        "TypeError: undefined cannot be sent: it has no JSON."
    )
    assert said("new all.Connection('/x', {connect: false}).on('open', 1)") == (
        "TypeError: A listener is a function, not 1."
    )


def test_a_page_that_is_left_is_gone_and_one_that_comes_back_returns(site: Site, page: Window) -> None:
    page.script("connect('/echo', {firstWait: 60_000, longestWait: 60_000})")
    wait_for_state(page, "open")
    page.script("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    wait_for_state(page, "waiting")
    page.script("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    wait_for_state(page, "open")


def test_types_know_every_public_name() -> None:
    import re

    script, types = (STATIC / "channels.js").read_text(), (STATIC / "channels.module.d.ts").read_text()
    exported = re.search(r"globalThis\.channels = \{ \.\.\.globalThis\.channels, (.*?) \}", script)
    assert exported is not None
    names = exported[1].split(", ")
    assert names == re.findall(
        r"\w+", (STATIC / "channels.module.js").read_text().split("{")[1].split("}")[0]
    )

    def members(text: str, name: str) -> set[str]:
        body = re.search(rf"^( *)(?:export )?class {name}\b.*?^\1\}}$", text, re.MULTILINE | re.DOTALL)
        assert body is not None, name
        indent = len(body[1]) + 2
        found = re.findall(
            rf"^ {{{indent}}}(?:readonly |get )?(\w+)(?:<[^>]*>[^(]*)?[(:]", body[0], re.MULTILINE
        )
        return {*found} - {"constructor", "receive", "if", "for"}

    for name in names:
        declared = members(types, name)
        written = members(script, name)
        if name == "Stream":
            written |= {"connection", "name"}
        assert written <= declared, name
        assert declared - written <= {"connection"}, name
    options = re.search(r"const DEFAULTS = \{(.*?)\};", script, re.DOTALL)
    assert options is not None
    for option in re.findall(r"^    (\w+):", options[1], re.MULTILINE):
        assert f"  {option}?:" in types
        assert f"`{option}`" in (STATIC.parents[4] / "docs/how-to/javascript.md").read_text()
