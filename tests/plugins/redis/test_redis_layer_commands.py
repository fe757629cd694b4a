"""The `channels` command against a server: each call a process of its own, as at a prompt."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_core.layers import AT_LEAST_ONCE, Send, Settlement, Verdict
from channels_layer_redis import RedisBackend
from redis_servers import RedisServer

MANY = 1200
COMMAND = Path(sys.executable).with_name("channels")
CONFIG = """
from channels_core import Config, LayerConfig

config = Config(layers={{"default": LayerConfig(backend="redis", config={options!r})}})
"""


class Prompt:
    """The command in a folder with a configuration, and a backend beside it that works with the same server."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        options: dict[str, Any] = {
            "hosts": [server.url],
            "delivery": {"jobs.*": AT_LEAST_ONCE},
            "capacity": MANY,
            "encryption_keys": ["a secret"],
        }
        (folder / "site_config.py").write_text(CONFIG.format(options=options))
        self._folder = folder
        self.server = server
        self.backend = RedisBackend(**options)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(COMMAND), "--config", "site_config:config", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=30, cwd=self._folder
        )

    def prints(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def listed(self, *options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.prints("dead", "list", "--json", *options))
        return found

    def give_up(self, channel: str, number: int, reason: str) -> None:
        self.backend.send_one(Send(channel, {"n": number, "raw": b"\0\xff"}, {"c-kind": "job"}, 9))
        [delivery] = self.backend.receive_batch([channel], timeout=0)
        self.backend.settle([Settlement(delivery, Verdict.DEAD, reason=reason)])


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[Prompt]:
    with RedisServer() as server:
        made = Prompt(server, tmp_path)
        yield made
        made.backend.close()


def test_dead_letters_are_listed_shown_put_back_and_dropped(prompt: Prompt) -> None:
    for channel, number in (("jobs.mail", 1), ("jobs.bill", 2), ("jobs.mail", 3), ("jobs.mail", 4)):
        prompt.give_up(channel, number, f"Number {number} failed.")
    listed = prompt.listed()
    assert [line["reason"] for line in listed] == [f"Number {number} failed." for number in (1, 2, 3, 4)]
    first, second, third, fourth = (line["id"] for line in listed)
    assert [line["id"] for line in prompt.listed("--channel", "jobs.mail", "--limit", "2")] == [first, third]
    heading, *lines = prompt.prints("dead", "list").splitlines()
    assert heading.split() == ["ID", "CHANNEL", "ATTEMPT", "AGE", "REASON"]
    assert [line.split()[:3] for line in lines] == [[line["id"], line["channel"], "1"] for line in listed]

    shown = json.loads(prompt.prints("dead", "show", second, "--json"))
    assert shown["headers"] == {"c-kind": "job"}
    assert shown["content"] == {"n": 2, "raw": {"base64": "AP8="}}
    assert (shown["channel"], shown["attempt"], shown["reason"]) == ("jobs.bill", 1, "Number 2 failed.")
    assert 0 <= shown["age"] < 60
    assert r"'raw': b'\x00\xff'" in prompt.prints("dead", "show", second)

    assert prompt.prints("dead", "replay", first, second) == "2 dead letters put back.\n"
    assert prompt.prints("dead", "drop", third) == "1 dead letter dropped.\n"
    assert [letter.id for letter in prompt.backend.dead_letters()] == [fourth]
    found = prompt.backend.receive_batch(["jobs.mail", "jobs.bill"], limit=9, timeout=0)
    assert sorted((one.channel, one.content["n"], one.attempt) for one in found) == [
        ("jobs.bill", 2, 1),
        ("jobs.mail", 1, 1),
    ]

    again = prompt.run("dead", "replay", first, fourth)
    assert (again.returncode, again.stdout) == (1, "1 dead letter put back.\n")
    assert again.stderr == "1 of 2 are not there.\n"
    assert prompt.prints("dead", "list") == "No dead letters.\n"


def test_more_dead_letters_than_a_page_are_all_put_back(prompt: Prompt) -> None:
    backend = prompt.backend
    backend.send_batch([Send("jobs.many", {"n": number}, {}, 9) for number in range(MANY)])
    found = backend.receive_batch(["jobs.many"], limit=MANY, timeout=0)
    backend.settle([Settlement(one, Verdict.DEAD, reason="It failed.") for one in found])
    assert prompt.prints("dead", "replay", "--all", "--limit", "7") == "7 dead letters put back.\n"
    assert prompt.prints("dead", "replay", "--all") == f"{MANY - 7} dead letters put back.\n"
    [figures] = backend.statistics(["jobs.many"])
    assert (figures.pending, backend.dead_letters()) == (MANY, [])


def test_what_is_of_no_use_is_cleaned_away(prompt: Prompt) -> None:
    prompt.server.do("XGROUP", "CREATE", "channels:c:{q0}used.once", "w", 0, "MKSTREAM")
    prompt.give_up("jobs.mail", 1, "It failed.")
    assert prompt.prints("clean") == "Layer 'default': 1 deleted.\n"
    assert len(prompt.backend.dead_letters()) == 1
