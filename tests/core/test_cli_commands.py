"""`channels worker`, `send` and `inspect` without Django: a configuration module, real processes, real signals."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from channels_core import ChannelFull, Config, LayerConfig
from channels_core.channel_layer import ChannelLayer, ChannelLayers
from channels_core.cli import Host, main
from channels_core.plugins import PluginManager

COMMAND = Path(sys.executable).with_name("channels")

CONFIG = """
import os
import sys
import time
from pathlib import Path

from channels_core import Config, LayerConfig, WorkerConfig
from channels_core.layers import Send
from channels_core.middleware import ConsumerMiddleware
from channels_layer_memory.layer import MemoryBackend
from channels_router_regex import route


class Shared(MemoryBackend):
    '''Says that others see its messages too; and has one waiting on each channel when a worker starts.'''

    local_only = False

    def open_process(self, kind, *, label=""):
        process = super().open_process(kind, label=label)
        self.send_batch([Send(name, {"n": 1}, {}, 16) for name in ("tick", "long", "tock")])
        return process


def say(*words):
    print(*words, flush=True)


def tick(message):
    say("tick", os.getpid(), message.content)


def long(message):
    say("begun")
    while not Path("go on").exists():
        time.sleep(0.01)
    say("ended")


class Loud(ConsumerMiddleware):
    def wrap(self, call):
        def loud(message, **kwargs):
            say("before")
            call(message, **kwargs)
            say("after")
        return loud


layers = {
    "default": LayerConfig(
        backend=f"{__name__}.Shared",
        routing=[route("tick", tick), route("long", long), route("tock", tick)],
    ),
    "local": LayerConfig(backend="memory", routing=[route("tick", tick)]),
    "unrouted": LayerConfig(backend=f"{__name__}.Shared"),
}
config = Config(layers=layers)
hasty = Config(layers=layers, worker=WorkerConfig(stop_timeout=0.2))
loud = Config(layers=layers, worker=WorkerConfig(middleware=(f"{__name__}:Loud",)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_config.py").write_text(CONFIG)
    return tmp_path


@contextmanager
def running(folder: Path, *arguments: str, config: str = "config") -> Iterator[subprocess.Popen[str]]:
    """`channels worker` in a session of its own, so that its group can be signalled; killed if it outlives the test."""
    with subprocess.Popen(
        [COMMAND, "--config", f"my_config:{config}", "worker", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


def failing(folder: Path, *arguments: str) -> str:
    """What a command that must fail says."""
    run = subprocess.run(
        [COMMAND, "--config", "my_config:config", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        input="",
    )
    assert (run.returncode, run.stdout) == (1, "")
    return run.stderr


def test_a_worker_runs_consumers_until_a_signal(folder) -> None:
    with running(folder, "--only-channels=tick") as process:
        assert line_of(process) == f"tick {process.pid} {{'n': 1}}"
        process.send_signal(signal.SIGINT)
        status, output, errors = ended(process)
    assert (status, output) == (0, "")
    assert errors.endswith("INFO channels.worker: Worker of layer 'default' reads tick.\n")


def test_a_worker_that_had_to_leave_a_consumer_behind_says_so(folder) -> None:
    with running(folder, "--only-channels=long", config="hasty") as process:
        assert line_of(process) == "begun"
        process.terminate()
        status, _, errors = ended(process)
    assert status == 1
    assert "stopped with 1 consumers still running after 0 s" in errors


def test_a_worker_finishes_what_it_has_in_hand_though_the_request_comes_twice(folder) -> None:
    with running(folder, "--only-channels=long", "--quiet") as process:
        assert line_of(process) == "begun"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        (folder / "go on").touch()
        assert ended(process) == (0, "ended\n", "")


def test_a_second_request_after_a_while_ends_a_worker_at_once(folder) -> None:
    with running(folder, "--only-channels=long", "--quiet") as process:
        assert line_of(process) == "begun"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.2)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (128 + signal.SIGTERM, "", "")


def test_middleware_of_the_configuration_goes_around_consumers(folder) -> None:
    with running(folder, "--only-channels=tick", "--quiet", config="loud") as process:
        assert line_of(process) == "before"
        assert line_of(process) == f"tick {process.pid} {{'n': 1}}"
        assert line_of(process) == "after"
        process.terminate()
        assert ended(process) == (0, "", "")


def test_filters_choose_the_channels(folder) -> None:
    with running(folder, "--only-channels=t*", "--exclude-channels=tick", "--threads=2") as process:
        assert line_of(process).startswith("tick ")
        process.terminate()
        status, output, errors = ended(process)
    assert (status, output) == (0, "")
    assert "Worker of layer 'default' reads tock.\n" in errors


def test_several_processes_are_fresh_interpreters_and_stop_together(folder) -> None:
    with running(folder, "--only-channels=tick", "--processes=2", "--quiet") as process:
        pids = {int(line_of(process).split()[1]) for _ in range(2)}
        assert len(pids) == 2
        assert process.pid not in pids
        os.killpg(process.pid, signal.SIGTERM)
        assert ended(process) == (0, "", "")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_of_a_local_layer_is_refused(folder) -> None:
    assert failing(folder, "worker", "--layer=local") == (
        "channels: Layer 'local' keeps its messages in the memory of one process (MemoryBackend), so a separate worker"
        " would never see any: choose a BACKEND that is shared between processes, or run the worker inside the server's"
        " process, as runserver does.\n"
    )


def test_a_worker_with_nothing_to_read_is_refused(folder) -> None:
    assert failing(folder, "worker", "--only-channels=nix") == (
        "channels: The worker of layer 'default' has nothing to read: of the routed channels ['long', 'tick', 'tock'],"
        " none is left by only_channels=['nix'] and exclude_channels=[]. Route a channel or widen the filters.\n"
    )


def test_a_worker_without_routing_is_refused(folder) -> None:
    assert failing(folder, "worker", "--layer=unrouted").startswith(
        "channels: The channel layer 'unrouted' has no routing, so no worker can serve it."
    )


@pytest.mark.parametrize(
    "command", [["worker"], ["send", "tick", "{}"], ["inspect"]], ids=lambda value: value[0]
)
def test_an_unknown_layer_is_named_with_those_there_are(folder, command) -> None:
    assert failing(folder, *command, "--layer=nix") == (
        "channels: No channel layer has the alias 'nix'. Configured: default, local, unrouted. Add it to"
        " CHANNEL_LAYERS.\n"
    )


def test_without_a_configuration_the_command_says_where_one_goes(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CHANNELS_CONFIG"}
    run = subprocess.run(
        [COMMAND, "inspect"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (
        1,
        "channels: Channel layers are not configured. With Django, put 'channels_django' into INSTALLED_APPS and call"
        " django.setup(); without, set CHANNELS_CONFIG to 'module:attribute' of a channels_core.Config.\n",
    )


@pytest.mark.parametrize("number", ["0", "-1", "two", ""])
def test_a_number_of_threads_is_a_number(number, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["worker", f"--threads={number}"])
    assert caught.value.code == 2
    assert f"argument --threads: {number!r} is not a whole number of at least 1" in capsys.readouterr().err


def test_sending_to_a_local_layer_is_refused(folder) -> None:
    assert failing(folder, "send", "tick", "{}", "--layer=local") == (
        "channels: Layer 'local' keeps its messages in the memory of one process (MemoryBackend): what this command"
        " sends would end with it. Choose a BACKEND that is shared between processes.\n"
    )


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChannelLayer]:
    """The memory layer of this process, taken for a shared one."""
    layers = ChannelLayers(Config(layers={"default": LayerConfig(backend="memory", config={"capacity": 2})}))
    layer = layers["default"]
    monkeypatch.setattr(type(layer.backend), "local_only", False)
    yield layer
    layer.close()


def host_of(layer: ChannelLayer) -> Host:
    layers = ChannelLayers(Config(), plugins=PluginManager(search_path=[], environ={}))
    layers.set("default", layer)
    return Host(layers=layers, command=["channels"])


def test_send_puts_a_message_on_a_channel(layer, capsys) -> None:
    assert main(["send", "thumbnails", '{"photo": 5, "sizes": [1, 2.5]}'], host=host_of(layer)) == 0
    assert layer.receive(["thumbnails"]) == ("thumbnails", {"photo": 5, "sizes": [1, 2.5]})
    assert capsys.readouterr() == ("", "")


def test_send_reads_standard_input(layer, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"photo": 5}\n'))
    assert main(["send", "thumbnails", "-"], host=host_of(layer)) == 0
    assert layer.receive(["thumbnails"]) == ("thumbnails", {"photo": 5})


def test_send_to_a_group_reaches_its_members(layer) -> None:
    layer.group_add("watchers", "thumbnails")
    assert main(["send", "--group", "watchers", '{"photo": 5}'], host=host_of(layer)) == 0
    assert layer.receive(["thumbnails"]) == ("thumbnails", {"photo": 5})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["tick", "{nix}"],
            "channels: The message '{nix}' is not JSON: Expecting property name enclosed in double quotes: line 1"
            ' column 2 (char 1). Write an object, such as \'{"text": "hello"}\'.\n',
        ),
        (
            ["tick", "[1]"],
            "channels: The message '[1]' is not a JSON object, and a message is one: write '{\"text\": \"hello\"}', for"
            " example.\n",
        ),
    ],
)
def test_what_is_no_message_is_not_sent(layer, arguments, text, capsys) -> None:
    assert main(["send", *arguments], host=host_of(layer)) == 1
    assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize("content", ['{"n": NaN}', '{"n": 9223372036854775808}'])
def test_values_no_layer_carries_are_refused(layer, content, capsys) -> None:
    assert main(["send", "tick", content], host=host_of(layer)) == 1
    assert "'n'" in capsys.readouterr().err


def test_a_bad_name_is_refused(layer, capsys) -> None:
    assert main(["send", "no blanks", "{}"], host=host_of(layer)) == 1
    assert "'no blanks'" in capsys.readouterr().err


def test_a_full_channel_is_an_error(layer, capsys) -> None:
    layer.send("tick", {})
    layer.send("tick", {})
    with pytest.raises(ChannelFull) as caught:
        layer.send("tick", {})
    assert main(["send", "tick", "{}"], host=host_of(layer)) == 1
    assert capsys.readouterr().err == f"channels: {caught.value}\n"


def test_inspect_shows_channels_groups_and_processes(layer, capsys) -> None:
    process = layer.backend.open_process("worker", label="mars:17")
    layer.send("thumbnails", {"photo": 1})
    layer.send("thumbnails", {"photo": 2})
    layer.send("mail", {"to": "a"})
    secret = layer.new_channel("answer?")
    layer.send(secret, {})
    layer.group_add("room", f"websocket.send.{process}!one")
    layer.group_add("room", f"websocket.send.{process}!two")
    assert main(["inspect"], host=host_of(layer)) == 0
    output = capsys.readouterr().out
    table = [line.split() for line in output.splitlines()]
    assert ["CHANNEL", "PENDING", "LEASED", "OLDEST", "AGE"] in table
    assert ["thumbnails", "2", "0", "0.0"] in table
    assert ["mail", "1", "0", "0.0"] in table
    assert ["room", "2"] in table
    assert [process, "worker", "0.0", "0.0", "mars:17"] in table
    assert "No dead letters." in output
    assert secret not in output
    assert f"{secret[:11]}..." in output


def test_inspect_tells_programs_the_same(layer, capsys) -> None:
    layer.send("thumbnails", {"photo": 1})
    assert main(["inspect", "--json"], host=host_of(layer)) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["channels", "groups", "processes", "dead_letters"]
    (channel,) = report["channels"]
    assert channel.pop("oldest_age") < 10
    assert channel == {"channel": "thumbnails", "pending": 1, "leased": 0}


def test_inspect_of_an_empty_layer_says_so(layer, capsys) -> None:
    assert main(["inspect"], host=host_of(layer)) == 0
    assert capsys.readouterr() == ("No channels.\nNo groups.\nNo processes.\nNo dead letters.\n", "")


def test_inspect_warns_that_a_local_layer_is_not_seen_from_elsewhere(layer, monkeypatch, capsys) -> None:
    monkeypatch.setattr(type(layer.backend), "local_only", True)
    assert main(["inspect"], host=host_of(layer)) == 0
    assert capsys.readouterr().err == (
        "Layer 'default' keeps its messages in the memory of one process, and these are the figures of this one.\n"
    )
