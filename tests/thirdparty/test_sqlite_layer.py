"""What the author of the SQLite layer has for tests: the kit, and what only fresh processes can show."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from channels_core import ChannelLayer
from channels_core.layers import AT_LEAST_ONCE, Delivery, Send
from channels_core.plugins import PluginManager
from channels_core.testing.conformance import LayerConformance
from sqlite_layer.layer import SqliteBackend


class TestSqliteLayer(LayerConformance):
    @pytest.fixture(autouse=True)
    def engine(self, tmp_path: Path) -> None:
        self.path = tmp_path / "layer.sqlite3"

    def make_backend(self, **options: Any) -> SqliteBackend:
        return SqliteBackend(path=self.path, **options)


def test_it_is_chosen_by_its_name(tmp_path: Path) -> None:
    info = tmp_path / "sqlite_layer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sqlite-layer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[channels_core]\nsqlite = sqlite_layer.plugin\n")
    backend = PluginManager(search_path=[str(tmp_path)], environ={}).load("layer", "sqlite")
    assert backend is SqliteBackend
    layer = ChannelLayer(SqliteBackend(path=tmp_path / "layer.sqlite3"))
    layer.send("chat", {"text": "hi", "data": b"\xff"})
    assert layer.receive(["chat"]) == ("chat", {"text": "hi", "data": b"\xff"})
    layer.close()


READER = """
import sys
from channels_core.layers import Send
from sqlite_layer.layer import SqliteBackend

backend = SqliteBackend(path=sys.argv[1])
is_first = True
while True:
    for delivery in backend.receive_batch(["work", "stop"], limit=1, timeout=None):
        if delivery.channel == "stop":
            sys.exit()
        backend.send_one(Send("results!" + sys.argv[2], delivery.content, {}, 0))
        if is_first:  # not before the others have had one too
            is_first = not backend.receive_batch(["go"], timeout=20)
"""

HOLDER = """
import sys, time
from sqlite_layer.layer import SqliteBackend

backend = SqliteBackend(path=sys.argv[1], delivery={"jobs": "at-least-once"}, process_lease=1.0)
process = backend.open_process("worker")
print(*[one.content["n"] for one in backend.receive_batch(["jobs"], limit=2, timeout=20, process=process)], flush=True)
time.sleep(60)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=environ, stdout=subprocess.PIPE, text=True
    )


def collect(backend: SqliteBackend, channel: str, count: int) -> list[Delivery]:
    """The next ``count`` messages; fewer, where they do not come."""
    found: list[Delivery] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        found += backend.receive_batch([channel], limit=count - len(found), timeout=1.0)
    return found


def test_fresh_processes_share_the_work(tmp_path: Path) -> None:
    path = str(tmp_path / "layer.sqlite3")
    backend = SqliteBackend(path=path, capacity=1000)
    readers = [start(READER, path, str(number)) for number in range(3)]
    try:
        backend.send_batch([Send("work", {"n": number}, {}, 0) for number in range(300)])
        results = collect(backend, "results!", 3)
        backend.send_batch([Send("go", {}, {}, 0)] * 3)
        results += collect(backend, "results!", 297)
        backend.send_batch([Send("stop", {}, {}, 0)] * 3)
        assert [reader.wait(20) for reader in readers] == [0, 0, 0]
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    assert Counter(one.content["n"] for one in results) == Counter(range(300))
    assert {one.locals for one in results[:3]} == {("0",), ("1",), ("2",)}
    backend.close()


def test_what_a_killed_process_held_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "layer.sqlite3")
    backend = SqliteBackend(path=path, delivery={"jobs": AT_LEAST_ONCE}, process_lease=1.0)
    backend.send_batch([Send("jobs", {"n": number}, {}, 0) for number in range(3)])
    holder = start(HOLDER, path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == ["0", "1"]
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.communicate()
    again = collect(backend, "jobs", 3)
    assert sorted((one.content["n"], one.attempt) for one in again) == [(0, 2), (1, 2), (2, 1)]
    backend.close()
