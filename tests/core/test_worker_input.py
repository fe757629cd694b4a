"""Wrong input around workers: names, headers, options, what people pipe in, and calls that are cut short."""

import asyncio
import enum
import io
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from channels_core import Channel, ChannelLayer, Config, Group, InterfaceConfig, MessageTooLarge, WorkerConfig
from channels_core.exceptions import ConfigurationError
from channels_core.message import check_headers
from channels_layer_memory.layer import MemoryBackend
from waiting_memory import LoopMemory, ThreadMemory
from workbench import WAIT


class Name(str, enum.Enum):  # noqa: UP042 - formats as 'Name.CHAT', unlike StrEnum
    CHAT = "chat"
    ROOM = "room"


def test_names_that_are_subclasses_of_text_reach_the_backend_as_text() -> None:
    layer = ChannelLayer(MemoryBackend())
    for name in ("chat", Name.CHAT):
        send = layer.prepare(name, {})
        assert (type(send.channel), send.channel) == (str, "chat")
    for name in ("room", Name.ROOM):
        send = layer.prepare_group(name, {})
        assert (type(send.channel), send.channel) == (str, "room")
    Group(Name.ROOM, channel_layer=layer).add(Name.CHAT)
    assert [type(member) for member in layer.group_channels(Name.ROOM)] == [str]
    Channel(Name.CHAT, channel_layer=layer).send({"n": 1})
    assert layer.receive(["chat"]) == ("chat", {"n": 1})


def test_headers_of_subclasses_become_plain() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    headers: Mapping[str, str | int] = check_headers({Name.CHAT: Name.ROOM, "level": Level.HIGH})

    assert headers == {"chat": "room", "level": 3}
    assert {type(part) for pair in headers.items() for part in pair} == {str, int}


def test_headers_count_towards_the_size_of_a_message() -> None:
    layer = ChannelLayer(MemoryBackend(max_message_size=1000))
    Channel("chat", channel_layer=layer).send({}, headers={"trace": "x" * 900})
    for target in (Channel("chat", channel_layer=layer), Group("chat", channel_layer=layer)):
        with pytest.raises(MessageTooLarge):
            target.send({}, headers={"trace": "x" * 1000})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
@pytest.mark.parametrize(
    ("name", "section"),
    [("stop_timeout", "worker"), ("prefetch_time", "worker"), ("http_timeout", "interface")],
)
def test_times_without_end_are_no_times(name: str, section: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError) as caught:
        WorkerConfig(**options) if section == "worker" else InterfaceConfig(**options)
    bound = "of at least 0" if name == "prefetch_time" else "above 0"
    assert str(caught.value) == f"Option {name} of the {section} is {value}: it must be a number {bound}."


def test_a_section_of_the_configuration_is_its_own_record() -> None:
    options: Any = {"threads": 4}
    with pytest.raises(ConfigurationError) as caught:
        Config(worker=options)
    assert str(caught.value) == "Config(worker=...) holds dict: make it WorkerConfig(...)."


def test_closing_a_layer_of_the_loop_kind_lets_no_thread_wait_for_ever() -> None:
    backend = LoopMemory()
    ended = threading.Event()
    backend.group_count("warm")  # its loop runs

    def wait() -> None:
        try:
            backend.receive_batch(["nothing"], timeout=None)
        except BaseException:  # noqa: BLE001 - cancelled, which is the point
            ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not backend.engine._waiting:
        threading.Event().wait(0.005)
    backend.close()

    assert ended.wait(WAIT)
    thread.join(WAIT)


def test_what_a_cancelled_reader_takes_goes_back_though_its_loop_is_closed() -> None:
    taken, let_go = threading.Event(), threading.Event()

    class Slow(ThreadMemory):
        def receive_batch(self, channels: Any, **options: Any) -> Any:
            found = super().receive_batch(channels, **options)
            if threading.current_thread() is not threading.main_thread():
                taken.set()
                assert let_go.wait(WAIT)
            return found

    async def give_up() -> None:
        reading = asyncio.create_task(backend.areceive_batch(["in"], timeout=WAIT))
        await asyncio.to_thread(taken.wait, WAIT)
        reading.cancel()
        await asyncio.wait([reading])

    backend = Slow()
    layer = ChannelLayer(backend)
    layer.send("in", {"n": 1})
    asyncio.run(give_up())
    let_go.set()

    assert layer.receive(["in"], block=True, timeout=WAIT) == ("in", {"n": 1})
    backend.close()


def test_standard_input_that_is_no_text_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from channels_core.channel_layer import ChannelLayers
    from channels_core.cli import Host, main

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"n": "\xff"}'), encoding="utf-8"))
    assert main(["send", "chat", "-"], host=Host(layers=ChannelLayers(Config()), command=[])) == 1
    assert capsys.readouterr().err == (
        "channels: Standard input is no text: 'utf-8' codec can't decode byte 0xff in position 7: invalid start byte."
        " Pipe in JSON, in UTF-8.\n"
    )


def test_a_table_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from channels_core.cli.host import print_table

    print_table(["REASON"], [["ValueError: \x1b[2J\nnaïve\x07"]])
    assert capsys.readouterr().out == "REASON\nValueError: \\x1b[2J\\nnaïve\\x07\n"
