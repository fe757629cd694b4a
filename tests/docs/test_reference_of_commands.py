"""docs/reference/cli.md and the commands say the same: every option, and the output that the page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management.base import BaseCommand

from channels_core.channel_layer import ChannelLayer, ChannelLayers
from channels_core.cli import Host, main
from channels_core.layers import Send, Settlement, Verdict
from channels_layer_memory.layer import MemoryBackend

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
CHANNELS = Path(sys.executable).with_name("channels")
MANAGE = (sys.executable, ROOT / "examples" / "chat" / "manage.py")


def section(title: str) -> str:
    """What stands under a heading, up to the next."""
    found = re.search(rf"^## `{re.escape(title)}`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def documented(title: str) -> set[str]:
    """The options in the first column of a section's tables."""
    cells = re.findall(r"^\| (`-.*?) \|", section(title), re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"`(-[-\w]+)", cell)}


def shown(title: str, command: str) -> str:
    """The output that the page shows of a command."""
    found = re.search(rf"```console\n\$ {re.escape(command)}\n(.*?)```", section(title), re.DOTALL)
    assert found is not None, command
    return found[1]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as from a shell: without the settings that tests of this process have chosen."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def offered(*command: str | Path) -> set[str]:
    """The options that a command's --help lists, without --help itself and what all management commands have."""
    page = run(*command, "--help")
    assert page.returncode == 0, page.stderr
    listed = [line.strip().split("  ")[0] for line in page.stdout.splitlines() if re.match(r"  -", line)]
    django = BaseCommand().create_parser("manage.py", "command")
    common = {option for action in django._actions for option in action.option_strings}
    return {option for entry in listed for option in re.findall(r"(?<![\w-])--?[-\w]+", entry)} - common


@pytest.mark.parametrize("command", ["plugins", "worker", "send", "inspect", "clean"])
def test_every_option_of_a_sub_command_is_documented_and_none_else(command: str) -> None:
    assert documented(f"channels {command}") == offered(CHANNELS, command)


def test_every_option_of_what_dead_does_is_documented_with_what_takes_it() -> None:
    rows = re.findall(r"^\| `(--\w+).*?` \| (.*?) \|", section("channels dead"), re.MULTILINE)
    actions = ("list", "show", "replay", "drop")
    for action in actions:
        taken = {option for option, takers in rows if takers == "all" or f"`{action}`" in takers}
        assert taken == offered(CHANNELS, "dead", action)


def test_the_options_before_a_sub_command_are_documented() -> None:
    assert documented("channels") == offered(CHANNELS)


@pytest.mark.parametrize("command", ["runserver", "runworker"])
def test_every_option_of_a_management_command_is_documented_and_none_else(command: str) -> None:
    assert documented(f"manage.py {command}") == offered(*MANAGE, command)


def test_the_list_of_plugins_is_what_the_command_prints() -> None:
    found = run(CHANNELS, "plugins")
    assert found.returncode == 0, found.stderr

    def lines(output: str) -> list[list[str]]:
        return [re.sub(r"\d+\.\d+\.\d+\S*", "VERSION", line).split() for line in output.splitlines()]

    assert [
        line
        for line in lines(shown("channels plugins", "channels plugins"))
        if line not in lines(found.stdout)
    ] == []


def test_what_inspect_shows_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1_000.0
    backend = MemoryBackend(clock=lambda: now, delivery={"orders.*": "at-least-once"}, max_attempts=5)
    layer = ChannelLayer(backend)
    interface = backend.open_process("interface", label="web1:4711")
    worker = backend.open_process("worker", label="web1:4712")
    layer.send("orders.charge", {"order": 1})
    for attempt in range(1, 6):
        [delivery] = backend.receive_batch(["orders.charge"], process=worker)
        assert delivery.attempt == attempt
        ends = attempt == 5
        backend.settle(
            [
                Settlement(
                    delivery,
                    Verdict.DEAD if ends else Verdict.RELEASE,
                    reason="ConnectionError: the bank does not answer" if ends else "",
                    is_begun=True,
                )
            ]
        )
    for number in range(3):
        layer.send("thumbnails.create", {"number": number})
    layer.send(f"websocket.send.{interface}!local", {"text": "hi"})
    for local in ("one", "two"):
        layer.group_add("room.lobby", f"websocket.send.{interface}!{local}")
    for at in (1_006.0, 1_012.5):
        now = at
        assert backend.renew_process(interface)
        assert backend.renew_process(worker, load=0.5)
    layer.send("orders.charge", {"order": 2})
    backend.receive_batch(["orders.charge"], process=worker)

    layers = ChannelLayers()
    layers.set("default", layer)
    assert main(["inspect"], host=Host(layers=layers, command=[])) == 0

    def without_ids(output: str) -> list[str]:
        return re.sub(r"\b[a-z2-7]{26}\b", "ID", output).splitlines()

    assert without_ids(capsys.readouterr().out) == without_ids(shown("channels inspect", "channels inspect"))


def test_what_dead_shows_is_what_the_commands_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 1_000.0
    backend = MemoryBackend(clock=lambda: now, delivery={"*.*": "at-least-once"}, max_attempts=5)
    layer = ChannelLayer(backend)

    def give_up(channel: str, content: dict[str, int]) -> None:
        backend.send_batch([Send(channel, content, {"c-at": 1_735_689_600_000}, 16)])
        for attempt in range(1, 6):
            [delivery] = backend.receive_batch([channel])
            verdict = Verdict.RELEASE if attempt < 5 else Verdict.DEAD
            reason = "ConnectionError: the bank does not answer"
            backend.settle([Settlement(delivery, verdict, reason=reason, is_begun=True)])

    give_up("orders.charge", {"order": 7})
    now += 12.5
    layers = ChannelLayers()
    layers.set("default", layer)
    [letter] = backend.dead_letters()

    def printed(*arguments: str) -> str:
        assert main(["dead", *arguments], host=Host(layers=layers, command=[])) == 0
        return "".join([f"$ channels dead {' '.join(arguments)}\n", capsys.readouterr().out])

    output = printed("list") + printed("show", letter.id) + printed("replay", letter.id)
    for _ in range(3):
        give_up("mail.out", {"mail": 1})
    now += 12.5
    output += printed("drop", "--all", "--channel", "mail.out")
    found = re.search(r"```console\n(.*?)```", section("channels dead"), re.DOTALL)
    assert found is not None
    assert output.replace(letter.id, "ID") == re.sub(r"\b[a-z2-7]{26}\b", "ID", found[1])
    assert layer.receive(["orders.charge"]) == ("orders.charge", {"order": 7})


def test_what_runworker_says_to_a_layer_in_memory_is_what_it_prints() -> None:
    found = run(*MANAGE, "runworker", "--no-color")
    assert found.returncode == 1
    assert found.stderr == shown("manage.py runworker", "python manage.py runworker")
