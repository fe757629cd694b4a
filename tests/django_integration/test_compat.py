"""The import package ``channels``: every name at its old place, and what old code reached into."""

import importlib
import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from channels_core import ChannelFull, ChannelLayer, Message
from channels_core.exceptions import LayerUnavailable
from channels_layer_memory.layer import MemoryBackend
from channels_router_regex import route
from testsite.projects import Project

SURFACE = {
    "channels": "Channel Group channel_layers route route_class include DEFAULT_CHANNEL_LAYER __version__",
    "channels.asgi": (
        "get_channel_layer channel_layers ChannelLayerManager ChannelLayerWrapper InvalidChannelLayerError"
    ),
    "channels.channel": "Channel Group",
    "channels.message": "Message pending_message_store",
    "channels.exceptions": (
        "ConsumeLater ResponseLater RequestTimeout RequestAborted DenyConnection ChannelSocketException"
        " WebsocketCloseException SendNotAvailableOnDemultiplexer"
    ),
    "channels.routing": (
        "Router Route route RouteClass route_class Include include null_consumer connect_consumer"
    ),
    "channels.handler": "AsgiRequest AsgiHandler ViewConsumer",
    "channels.sessions": (
        "session_for_reply_channel channel_session http_session channel_and_http_session enforce_ordering"
        " wait_channel_name requeue_messages"
    ),
    "channels.auth": (
        "transfer_user channel_session_user http_session_user channel_session_user_from_http"
        " channel_and_http_session_user_from_http"
    ),
    "channels.security.websockets": "BaseOriginValidator AllowedHostsOnlyOriginValidator allowed_hosts_only",
    "channels.worker": "Worker WorkerGroup",
    "channels.signals": "consumer_started consumer_finished worker_ready worker_process_ready",
    "channels.staticfiles": "StaticFilesHandler StaticFilesConsumer",
    "channels.generic": "BaseConsumer",
    "channels.generic.base": "BaseConsumer",
    "channels.generic.websockets": (
        "WebsocketConsumer JsonWebsocketConsumer WebsocketMultiplexer WebsocketDemultiplexer"
    ),
    "channels.binding": "Binding BindingMetaclass CREATE UPDATE DELETE",
    "channels.binding.base": "Binding BindingMetaclass CREATE UPDATE DELETE",
    "channels.binding.websockets": "WebsocketBinding WebsocketBindingWithMembers",
    "channels.test": (
        "ChannelTestCase TransactionChannelTestCase Client WSClient HttpClient apply_routes ChannelLiveServerTestCase"
    ),
    "channels.tests": (
        "ChannelTestCase TransactionChannelTestCase Client WSClient HttpClient apply_routes ChannelLiveServerTestCase"
    ),
    "channels.utils": "name_that_thing",
    "channels.log": "setup_logger",
}

MEMBERS = {
    (
        "channels.asgi",
        "ChannelLayerManager",
    ): "configs make_backend make_test_backend set __getitem__ __contains__",
    ("channels.channel", "Channel"): "send",
    ("channels.channel", "Group"): "add discard send",
    ("channels.exceptions", "ChannelSocketException"): "run",
    ("channels.routing", "Router"): "channels match add_route check_default resolve_routing",
    ("channels.handler", "AsgiRequest"): "body_receive_timeout ResponseLater",
    ("channels.handler", "AsgiHandler"): (
        "request_class chunk_size __call__ encode_response chunk_bytes handle_uncaught_exception"
        " process_exception_by_middleware"
    ),
    ("channels.handler", "ViewConsumer"): "handler_class",
    ("channels.security.websockets", "BaseOriginValidator"): "get_header get_origin validate_origin",
    ("channels.worker", "Worker"): "ready run termed in_job apply_channel_filters",
    ("channels.generic.base", "BaseConsumer"): (
        "method_mapping channel_session channel_session_user channel_names as_route get_handler dispatch"
    ),
    ("channels.generic.websockets", "WebsocketConsumer"): (
        "http_user http_user_and_session strict_ordering groups connection_groups connect receive send group_send close"
        " disconnect raw_connect raw_receive raw_disconnect"
    ),
    ("channels.generic.websockets", "JsonWebsocketConsumer"): "encode_json decode_json",
    ("channels.generic.websockets", "WebsocketMultiplexer"): "send encode group_send",
    ("channels.generic.websockets", "WebsocketDemultiplexer"): "consumers multiplexer_class",
    ("channels.binding.websockets", "WebsocketBinding"): (
        "model fields exclude stream group_names has_permission serialize serialize_data deserialize create update"
        " delete trigger_inbound consumer signal_kwargs encode"
    ),
    ("channels.binding.websockets", "WebsocketBindingWithMembers"): "send_members",
    ("channels.test", "ChannelTestCase"): "get_next_message test_channel_aliases",
    ("channels.test", "Client"): (
        "send consume send_and_consume receive join_group get_consumer_by_channel get_next_message channel_layer"
    ),
    ("channels.test", "WSClient"): "login force_login session set_cookie set_header",
    ("channels.test", "ChannelLiveServerTestCase"): "live_server_url live_server_ws_url",
    ("channels_core", "ChannelLayer"): (
        "send receive receive_many new_channel group_add group_discard group_channels send_group flush"
        " global_statistics channel_statistics extensions ChannelFull MessageTooLarge expiry group_expiry capacity"
        " channel_capacity receive_async"
    ),
}


@pytest.mark.parametrize("module", SURFACE)
def test_every_name_is_at_its_old_place(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in SURFACE[module].split() if not hasattr(found, name)] == []
    assert set(SURFACE[module].split()) <= {*found.__all__}


@pytest.mark.parametrize("owner", MEMBERS, ids=".".join)
def test_every_member_is_there(owner: tuple[str, str]) -> None:
    kind = getattr(importlib.import_module(owner[0]), owner[1])
    assert [name for name in MEMBERS[owner].split() if not hasattr(kind, name)] == []


def test_the_names_are_those_of_this_project() -> None:
    import channels
    import channels_core
    import channels_router_regex

    assert channels.Channel is channels_core.Channel
    assert channels.route is channels_router_regex.route
    assert channels.__version__ == "1.1.8"


# Layers


def test_b77_layers_by_alias_and_the_bare_one(layer: ChannelLayer) -> None:
    from channels.asgi import channel_layers as manager
    from channels.asgi import get_channel_layer

    assert manager["default"] is layer
    assert get_channel_layer() is layer
    assert (layer.alias, layer.routing) == ("default", "testsite.routing.routes")
    assert list(manager) == ["default"]
    assert manager.configs["default"]["BACKEND"] == "memory"
    assert manager.make_backend("default") is not layer
    assert manager.make_test_backend("default").capacity == 10
    other = manager.make_backend("default")
    assert manager.set("default", other) is layer
    assert manager.set("default", layer) is other


def test_b76_layers_that_cannot_be_made(layer: ChannelLayer) -> None:
    from django.test import override_settings

    from channels.asgi import InvalidChannelLayerError
    from channels.asgi import channel_layers as manager

    with pytest.raises(KeyError):
        manager["unknown"]
    assert "default" in manager
    assert "unknown" not in manager
    bad: list[dict[str, Any]] = [
        {"ROUTING": []},
        {"BACKEND": "nowhere.Layer", "ROUTING": []},
        {"BACKEND": "memory"},
    ]
    for entry in bad:
        with override_settings(
            CHANNEL_LAYERS={"default": entry, "other": {"BACKEND": "memory", "ROUTING": []}}
        ):
            with pytest.raises(ValueError) as caught:
                manager["default"]
            assert (
                isinstance(caught.value, InvalidChannelLayerError) or entry.get("BACKEND") == "nowhere.Layer"
            )
            assert "default" in manager


def test_a_wrapper_made_by_hand() -> None:
    from channels.asgi import ChannelLayerWrapper

    def consumer(message: Message) -> None:
        """Nothing."""

    for bare in (MemoryBackend(), ChannelLayer(MemoryBackend())):
        wrapper = ChannelLayerWrapper(channel_layer=bare, alias="mine", routing=[route("jobs", consumer)])
        wrapper.send("jobs", {"a": 1})
        assert wrapper.channel_layer is bare
        assert wrapper.receive_many(["jobs"]) == ("jobs", {"a": 1})
        assert wrapper.router.channels == {"jobs"}
        assert wrapper.router.match(Message({}, "jobs", wrapper)) == (consumer, {})


def test_the_routes_can_be_looked_through() -> None:
    from channels.routing import Router, include, null_consumer
    from channels_django.default_routes import with_default_routes

    entries = [route("jobs", null_consumer), include([route("more", null_consumer)])]
    router = Router(entries)
    assert router.root.routing == entries
    assert with_default_routes(router, null_consumer).root.routing == entries  # type: ignore[attr-defined]  # handed on
    router.check_default(null_consumer)
    assert len(router.root.routing) == 5


# Messages


def test_messages_made_by_hand() -> None:
    message = Message({"a": 1}, None, None)
    assert (message.content, message.channel, message.reply_channel, message.channel_layer) == (
        {"a": 1},
        None,
        None,
        None,
    )


def test_text_or_bytes_for_paths_names_and_patterns(layer: ChannelLayer) -> None:
    from channels import Channel, route
    from channels.handler import AsgiRequest
    from channels.routing import Router, null_consumer

    request = {"reply_channel": "r", "method": "get", "headers": {"host": b"testserver"}}
    for path in ("/grüße/", "/grüße/".encode()):
        made = AsgiRequest({**request, "path": path})
        assert (made.path, made.method, made.get_host()) == ("/grüße/", "GET", "testserver")
    assert Channel(b"jobs").name == "jobs"
    router = Router([route(b"jobs", null_consumer, path=b"^/a")])
    assert router.match(Message({"path": b"/a"}, "jobs", None)) == (null_consumer, {})
    assert router.match(Message({"path": "/a"}, "jobs", None)) == (null_consumer, {})


def test_the_store_of_pending_messages(layer: ChannelLayer) -> None:
    from channels import Channel, Group
    from channels.message import pending_message_store

    assert not pending_message_store.active
    pending_message_store.send_and_flush()
    pending_message_store.prepare()
    try:
        assert pending_message_store.active
        Channel("jobs").send({"n": 1})
        pending_message_store.append(Channel("jobs"), {"n": 2})
        layer.group_add("all", "jobs")
        pending_message_store.append(Group("all"), {"n": 3})
        assert layer.receive(["jobs"]) == (None, None)
    finally:
        pending_message_store.send_and_flush()
    assert not pending_message_store.active
    assert [layer.receive(["jobs"])[1] for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_the_store_gives_a_full_channel_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from channels import Channel
    from channels.message import PendingMessageStore

    store = PendingMessageStore()
    store.retry_time, store.retry_interval = 0.05, 0.01
    full = ChannelLayer(MemoryBackend(capacity=1))
    full.send("jobs", {})
    store.prepare()
    Channel("jobs", channel_layer=full).send({})
    with pytest.raises(RuntimeError, match=r"The channel 'jobs' stayed full for 0\.05 seconds") as caught:
        store.send_and_flush()
    assert isinstance(caught.value.__cause__, ChannelFull)
    assert not store.active


def test_the_store_inside_a_consumer(layer: ChannelLayer) -> None:
    from channels import Channel
    from channels.message import pending_message_store
    from channels.test import Client, apply_routes

    seen: list[Any] = []

    def consumer(message: Message) -> None:
        Channel("other").send({"n": 1})
        pending_message_store.send_and_flush()
        seen.append((pending_message_store.active, layer.receive(["other"])[1]))
        Channel("other").send({"n": 2})
        seen.append(layer.receive(["other"])[1])

    with apply_routes([route("jobs", consumer)]):
        Client().send_and_consume("jobs")
    assert seen == [(True, {"n": 1}), None]
    assert layer.receive(["other"])[1] == {"n": 2}


# Handlers


def test_handlers_may_override_get_response_and_chunk_size(layer: ChannelLayer) -> None:
    from django.http import HttpResponse

    from channels.handler import AsgiHandler

    class Handler(AsgiHandler):
        chunk_size = 3

        def get_response(self, request: Any) -> HttpResponse:
            return HttpResponse(f"{request.path}!")

    message = Message({"reply_channel": "r", "method": "GET", "path": "/abc"}, "http.request", layer)
    assert [part["content"] for part in Handler(message)] == [b"/ab", b"c!"]


# Workers


def consumed(message: Message) -> None:
    message.channel_layer.send("done", {"n": message["n"]})  # type: ignore[union-attr]  # it has one


async def aconsumed(message: Message) -> None:
    await message.channel_layer.asend("done", {"n": message["n"]})  # type: ignore[union-attr]  # it has one


@pytest.mark.parametrize("consumer", [consumed, aconsumed])
def test_a_worker_whose_termed_counts_down(consumer: Any) -> None:
    from channels.asgi import ChannelLayerWrapper
    from channels.signals import worker_ready
    from channels.worker import Worker

    class Patched(Worker):
        left = 0

        @property
        def termed(self) -> bool:
            self.left -= 1
            return self.left < 0

        @termed.setter
        def termed(self, value: int) -> None:
            self.left = value

    layer = ChannelLayerWrapper(MemoryBackend(), "default", [route("jobs", consumer)])
    for number in range(3):
        layer.send("jobs", {"n": number})
    seen: list[Any] = []

    def on_ready(sender: Any, **_: Any) -> None:
        seen.append(sender)

    worker_ready.connect(on_ready)
    worker = Patched(layer, callback=lambda channel, message: seen.append(channel), signal_handlers=False)
    worker.termed = 2
    worker.run()
    assert seen == [worker, "jobs", "jobs"]
    assert [layer.receive(["done"])[1] for _ in range(3)] == [{"n": 0}, {"n": 1}, None]
    assert not worker.in_job


class AwayOnce(MemoryBackend):
    """Does not answer the first time it is read."""

    is_away = True

    def receive_batch(self, *args: Any, **options: Any) -> Any:
        if self.is_away:
            self.is_away = False
            raise LayerUnavailable("nobody answers")
        return super().receive_batch(*args, **options)


def test_a_worker_with_a_termed_of_its_own_outlives_outages_and_hears_signals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from channels.asgi import ChannelLayerWrapper
    from channels.worker import Worker

    class Own(Worker):
        termed = False  # as old code overrides it

    def interrupt(message: Message) -> None:
        consumed(message)
        signal.raise_signal(signal.SIGTERM)

    layer = ChannelLayerWrapper(AwayOnce(), "default", [route("jobs", interrupt)])
    for number in range(2):
        layer.send("jobs", {"n": number})
    before = signal.getsignal(signal.SIGTERM)
    Own(layer).run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert layer.receive(["done"])[1] == {"n": 0}
    assert layer.receive(["done"]) == (None, None)
    assert "is away (LayerUnavailable: nobody answers). Messages wait until it is back." in caplog.text


def test_a_worker_that_reads_nothing_rests() -> None:
    import threading
    import time

    from channels.asgi import ChannelLayerWrapper
    from channels.worker import Worker

    class Own(Worker):
        termed = False  # as old code overrides it

    worker = Own(ChannelLayerWrapper(MemoryBackend(), "default", []))
    running = threading.Thread(target=worker.run)
    spent = time.process_time()
    running.start()
    running.join(0.5)
    assert time.process_time() - spent < 0.25
    worker.termed = True
    running.join(10)
    assert not running.is_alive()


@pytest.mark.parametrize("threads", [None, 3])
def test_a_worker_runs_until_it_is_termed(threads: int | None) -> None:
    import threading

    from channels.asgi import ChannelLayerWrapper
    from channels.worker import Worker, WorkerGroup

    busy: list[bool] = []

    def ask(message: Message) -> None:
        busy.append(worker.in_job)
        consumed(message)

    layer = ChannelLayerWrapper(MemoryBackend(), "default", [route("jobs", ask), route("never", consumed)])
    worker = (
        Worker(layer, exclude_channels=["never"])
        if threads is None
        else WorkerGroup(layer, n_threads=threads, exclude_channels=["never"])
    )
    assert worker.apply_channel_filters(["jobs", "never"]) == ["jobs"]
    running = threading.Thread(target=worker.run)
    running.start()
    layer.send("jobs", {"n": 1})
    assert layer.receive(["done"], block=True, timeout=10)[1] == {"n": 1}
    assert not worker.termed
    worker.termed = True
    running.join(10)
    assert not running.is_alive()
    assert busy == [True]


# Odds and ends


class Thing:
    def method(self) -> None:
        """Nothing."""


def test_things_have_names() -> None:
    from channels.utils import name_that_thing

    assert name_that_thing(name_that_thing) == "channels.utils.name_that_thing"
    assert name_that_thing(Thing) == f"{__name__}.Thing"
    assert name_that_thing(Thing()) == f"{__name__}.Thing"
    assert name_that_thing(Thing().method) == f"{__name__}.Thing.method"
    assert name_that_thing("text") == "'text'"


def test_a_logger_for_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from channels.log import setup_logger

    for verbosity, level in ((0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG)):
        logger = setup_logger("test.of.compat", verbosity)
        assert (logger.level, len(logger.handlers), logger.propagate) == (level, 1, False)
    logger.handlers[0].stream = logging.sys.stdout  # type: ignore[attr-defined]  # what is captured
    logger.info("hello")
    assert capsys.readouterr().out.endswith(" - INFO - test_compat - hello\n")


# A project that lists "channels" alone

SETTINGS = """
SECRET_KEY = "of a test"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "project.urls"
USE_TZ = True
INSTALLED_APPS = [
    "channels", "channels.delay", "project",
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "asgiref.inmemory.ChannelLayer", "ROUTING": "project.routing.routes"}}
"""

ROUTING = """
from channels import route

def echo(message):
    message.reply_channel.send({"text": message["text"]})

routes = [route("websocket.receive", echo)]
"""

MODELS = """
from channels.binding.websockets import WebsocketBinding

class GroupBinding(WebsocketBinding):
    model = "auth.Group"
    stream = "groups"
    fields = ["name"]

    @classmethod
    def group_names(cls, instance):
        return ["groups"]

    def has_permission(self, user, action, pk):
        return False
"""

TESTS = """
from channels.delay.models import DelayedMessage
from django.contrib.auth.models import Group as AuthGroup
from channels.test import ChannelTestCase, WSClient

class Tests(ChannelTestCase):
    def test_echo(self):
        client = WSClient()
        client.send_and_consume("websocket.receive", text="hello")
        self.assertEqual(client.receive(json=False), {"text": "hello"})
        self.assertEqual(DelayedMessage.objects.is_due().count(), 0)

    def test_bindings_are_connected(self):
        from channels import Group
        Group("groups").add("inbox")
        with self.captureOnCommitCallbacks(execute=True):
            AuthGroup.objects.create(name="readers")
        self.assertIn('"name": "readers"', self.get_next_message("inbox", require=True)["text"])
"""


def test_a_project_that_lists_channels_alone(tmp_path: Path) -> None:
    project = Project(
        tmp_path, settings=SETTINGS, routing=ROUTING, tests=TESTS, models=MODELS, urls="urlpatterns = []\n"
    )
    checked = project.run("check")
    assert "channels.W008" in checked.stderr
    assert checked.returncode == 0
    tested = project.run("test", "project")
    assert tested.returncode == 0, tested.stderr
    helped = project.run("runserver", "--help").stdout
    assert "--noworker" in helped
    assert "--websocket_handshake_timeout" in helped
    assert "--only-channels" in project.run("runworker", "--help").stdout
    assert "--sleep" in project.run("rundelay", "--help").stdout
    assert "channels_delay" in project.run("showmigrations").stdout
