"""The interface's lease, its receiving task, shutdown and lifespan."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asgi_wire import PATIENCE, FlakyBackend, Site, SteppedWire, WaitingBackend, serving
from channels_core.channel_layer import ChannelLayer, ChannelLayers
from channels_core.config import Config, InterfaceConfig, LayerConfig
from channels_core.interface import InterfaceApplication, make_interface
from channels_core.layers import Delivery, Outcome, Send
from channels_core.origins import OriginValidator
from channels_layer_memory import MemoryBackend

BACKENDS = pytest.mark.parametrize("backend", [MemoryBackend, WaitingBackend])


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@BACKENDS
async def test_lease_is_taken_with_the_first_connection_and_given_back(backend: type[MemoryBackend]) -> None:
    async with serving(backend=backend(process_lease=60)) as site:
        assert [process.kind for process in site.backend.processes()] == ["worker"]
        await site.open()
        (interface,) = [process for process in site.backend.processes() if process.kind == "interface"]
        assert re.fullmatch(r".+:\d+", interface.label)
    assert [process.kind for process in site.backend.processes()] == ["worker"]


@BACKENDS
async def test_lease_is_renewed_with_load_and_counters(backend: type[MemoryBackend]) -> None:
    async with serving(backend=backend(process_lease=0.3), has_worker=False) as site:
        socket, reply_channel = await site.open()
        await asyncio.sleep(0.5)
        (interface,) = site.backend.processes()
        assert interface.counters["connections"] == 1
        assert 0.0 <= interface.load <= 1.0
        await site.send(reply_channel, {"text": "alive"})
        assert (await socket.next())["text"] == "alive"


async def test_lease_that_ran_out_closes_its_sockets_and_the_next_ones_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(backend=MemoryBackend(process_lease=0.3), has_worker=False) as site:
        socket, reply_channel = await site.open()
        request = site.request()
        await site.taken("http.request")
        connecting = site.socket("/connecting")
        await site.taken("websocket.connect")
        socket.push(type="websocket.receive", text="x")
        await site.taken("websocket.receive")
        process = reply_channel.split(".")[2].split("!")[0]
        site.backend.close_process(process)
        assert await socket.next() == {"type": "websocket.close", "code": 1012}
        assert (await request.next())["status"] == 503
        assert (await connecting.next())["status"] == 503
        assert (await site.taken("websocket.disconnect")).content["path"] in ("/chat", "/connecting")
        assert (await site.taken("websocket.disconnect")).content["path"] in ("/chat", "/connecting")
        again, new_channel = await site.open()
        assert process not in new_channel
        await site.send(new_channel, {"text": "new"})
        assert (await again.next())["text"] == "new"
    assert caplog.records[0].getMessage() == (
        "The lease of this interface server ran out: the layer took it for dead, and replies to its connections are"
        " lost. 3 connections are closed (1012); it goes on with a new lease."
    )


async def test_layer_that_is_away_at_first_is_waited_for() -> None:
    backend = FlakyBackend(process_lease=60)
    async with serving(backend=backend, websocket_handshake_timeout=0.2) as site:
        backend.away()
        early = site.socket()
        assert (await early.next())["status"] == 503
        backend.back()
        await until(lambda: site.application._inbox().process is not None)
        await site.open()


async def test_receiving_task_survives_everything_a_backend_does(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryBackend):
        failures = 0

        async def areceive_batch(self, *args: Any, **options: Any) -> list[Delivery]:
            if options.get("process") and self.failures < 2:
                self.failures += 1
                raise ZeroDivisionError("bug")
            return await super().areceive_batch(*args, **options)

    async with serving(backend=Broken(process_lease=60)) as site:
        await site.open()
    assert "The backend failed to receive; the interface tries again." in caplog.text
    assert 1 <= caplog.text.count(" is away (") == caplog.text.count(" is back after ")


async def test_wake_does_not_end_the_receiving_task() -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        for _ in range(3):
            site.backend.wake()
            await site.send(reply_channel, {"text": "x"})
            assert (await socket.next())["text"] == "x"


# Shutdown.


@BACKENDS
async def test_shutdown_closes_sockets_with_1012_and_says_goodbye(backend: type[MemoryBackend]) -> None:
    async with serving(backend=backend(process_lease=60)) as site:
        sockets = [await site.open() for _ in range(3)]
        connecting = site.socket()
        connect = await site.taken("websocket.connect")
        site.reply(connect)
        closing = asyncio.create_task(site.application.aclose())
        for socket, _ in sockets:
            assert await socket.next() == {"type": "websocket.close", "code": 1012}
        assert (await connecting.next())["status"] == 503
        codes = [(await site.taken("websocket.disconnect")).content["code"] for _ in range(4)]
        assert sorted(codes) == [1006, 1012, 1012, 1012]
        await closing
        assert site.application._inboxes == {}


async def test_shutdown_lets_requests_finish() -> None:
    async with serving(shutdown_timeout=5) as site:
        request = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        closing = asyncio.create_task(site.application.aclose())
        await asyncio.sleep(0)
        refused = site.request()
        assert (await refused.next())["status"] == 503
        refused_socket = site.socket()
        assert (await refused_socket.next())["status"] == 503
        await site.send(reply, {"status": 200, "content": b"in time"})
        assert (await request.next())["status"] == 200
        await closing


async def test_shutdown_keeps_its_deadline_whatever_workers_and_clients_do() -> None:
    async with serving(shutdown_timeout=0.1) as site:
        unanswered = site.request()
        await site.taken("http.request")
        begun = site.request()
        reply = (await site.taken("http.request")).content["reply_channel"]
        await site.send(reply, {"status": 200, "content": b"a", "more_content": True})
        assert (await begun.next())["status"] == 200
        uploading = site.request("/", {"type": "http.request", "body": b"half", "more_body": True})
        uncredited, _ = await site.open()
        uncredited.push(type="websocket.receive", text="x")
        await site.taken("websocket.receive")
        stuck, stuck_channel = await site.open()
        stuck.gate.clear()
        await site.send(stuck_channel, {"text": "never taken"})
        started = asyncio.get_running_loop().time()
        await site.application.aclose()
        assert asyncio.get_running_loop().time() - started < 3
        assert (await unanswered.next())["status"] == 503
        assert (await uploading.next())["status"] == 503
        codes = {(await site.taken("websocket.disconnect")).content["code"] for _ in range(2)}
        assert codes == {1012}
        for wire in (unanswered, begun, uploading, uncredited, stuck):
            await wire.ended()


async def test_closing_twice_and_before_the_first_connection_does_nothing() -> None:
    async with serving() as site:
        await site.application.aclose()
        await site.open()
        await asyncio.gather(site.application.aclose(), site.application.aclose())
        await site.application.aclose()


async def test_application_can_be_used_again_after_it_was_closed() -> None:
    async with serving() as site:
        for _ in range(2):
            socket, reply_channel = await site.open()
            await site.send(reply_channel, {"text": "x"})
            assert (await socket.next())["text"] == "x"
            await site.application.aclose()
            await site.taken("websocket.disconnect")


def test_one_application_serves_several_loops_one_after_the_other() -> None:
    site = Site()

    async def once() -> str:
        socket, reply_channel = await site.open()
        await site.send(reply_channel, {"text": "x"})
        assert (await socket.next())["text"] == "x"
        await site.application.aclose()
        await site.taken("websocket.disconnect")
        return reply_channel

    assert asyncio.run(once()) != asyncio.run(once())


async def test_backend_that_fails_to_take_the_lease_back_does_not_stop_the_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stubborn(MemoryBackend):
        async def aclose_process(self, process: str) -> None:
            raise ZeroDivisionError("bug")

    async with serving(backend=Stubborn(process_lease=60)) as site:
        await site.open()
    assert caplog.records[0].getMessage() == "The lease could not be given back (bug); it runs out by itself."


# Lifespan, configuration.


async def test_lifespan() -> None:
    async with serving() as site:
        wire = SteppedWire(site.application, {"type": "lifespan"})
        wire.start({"type": "lifespan.startup"})
        assert await wire.next() == {"type": "lifespan.startup.complete"}
        socket, _ = await site.open()
        wire.push(type="lifespan.shutdown")
        assert await socket.next() == {"type": "websocket.close", "code": 1012}
        assert await wire.next() == {"type": "lifespan.shutdown.complete"}
        await wire.ended()


async def test_other_protocols_are_refused() -> None:
    async with serving() as site:
        with pytest.raises(ValueError) as raised:
            await site.application({"type": "webtransport"}, asyncio.Event().wait, asyncio.sleep)  # type: ignore[arg-type]  # never called
    assert str(raised.value) == (
        "The interface application does not serve 'webtransport' connections: it serves http, websocket and lifespan."
        " Route others elsewhere."
    )


class Nobody(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return False


async def test_make_interface_takes_everything_from_the_configuration() -> None:
    config = Config(
        layers={"default": LayerConfig(backend="memory"), "sockets": LayerConfig(backend="memory")},
        interface=InterfaceConfig(layer="sockets", origin_validator=f"{__name__}.Nobody", max_headers=3),
    )
    layers = ChannelLayers(config)
    application = make_interface(layers)
    assert application.layer is layers["sockets"]
    assert application.config.max_headers == 3
    assert type(application.origin_validator).__name__ == "Nobody"
    layers.configure(None)


def test_make_interface_without_a_validator() -> None:
    config = Config(
        layers={"default": LayerConfig(backend="memory")}, interface=InterfaceConfig(origin_validator=None)
    )
    layers = ChannelLayers(config)
    assert make_interface(layers).origin_validator is None
    layers.configure(None)


def test_make_interface_with_changes_to_the_configuration() -> None:
    layers = ChannelLayers(
        Config(
            layers={"default": LayerConfig(backend="memory")},
            interface=InterfaceConfig(origin_validator=None, http_timeout=5, max_body_size=10),
        )
    )
    config = make_interface(layers, http_timeout=7).config
    assert (config.http_timeout, config.max_body_size) == (7, 10)
    with pytest.raises(TypeError, match="unknown_option"):
        make_interface(layers, unknown_option=1)
    layers.configure(None)


def test_interface_is_sent_to_by_threads() -> None:
    """A worker's thread answers while the loop sleeps in the layer."""
    site = Site()

    async def serve() -> None:
        socket, reply_channel = await site.open()

        def answer() -> Outcome:
            return site.backend.send_one(Send(reply_channel, {"text": "from a thread"}, {}, 20))

        assert await asyncio.to_thread(answer) is Outcome.SENT
        assert (await socket.next())["text"] == "from a thread"
        await site.application.aclose()

    asyncio.run(serve())


def test_application_needs_nothing_but_a_layer() -> None:
    layer = ChannelLayer(MemoryBackend())
    application = InterfaceApplication(layer)
    assert application.config == InterfaceConfig()


ISOLATED = """
import asyncio, sys
from asgi_wire import serving

async def serve() -> None:
    async with serving() as site:
        socket, reply_channel = await site.open()
        await site.send(reply_channel, {"text": "x"})
        assert (await socket.next())["text"] == "x"
        request = site.request()
        await site.send((await site.taken("http.request")).content["reply_channel"], {"status": 200})
        assert (await request.next())["status"] == 200

asyncio.run(serve())
heavy = {"django", "channels_django", "channels_core.worker", "channels_core.testing", "uvicorn", "asgiref"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_interface_that_has_served_has_imported_no_django_and_no_worker() -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent / "site")}
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
