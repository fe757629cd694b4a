"""Real processes on one server: each message once, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from channels_core.layers import AT_LEAST_ONCE, Delivery, Send, Settlement, Verdict
from channels_layer_redis import RedisBackend
from redis_servers import RedisServer

WRITERS = READERS = 8
EACH = 250

WRITER = """
import sys, time
from channels_core.layers import Outcome, Send
from channels_layer_redis import RedisBackend

url, writer, each, delivery = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
backend = RedisBackend(hosts=[url], delivery={"work": delivery}, capacity=50)
for number in range(writer * each, (writer + 1) * each):
    while backend.send_one(Send("work", {"n": number}, {}, 9)) is not Outcome.SENT:
        time.sleep(0.002)
"""

READER = """
import sys
from channels_core.layers import Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend

url, delivery = sys.argv[1], sys.argv[2]
backend = RedisBackend(hosts=[url], delivery={"work": delivery}, channel_capacity={"results!": 10_000})
process = backend.open_process("worker")
turns = []
while True:
    exchange = backend.exchange(turns, ["work", "stop"], limit=5, timeout=20, process=process)
    turns = []
    for one in exchange.deliveries:
        if one.channel == "stop":
            backend.exchange(turns, ())
            backend.close_process(process)
            sys.exit()
        turns.append(Turn((Send("results!" + process, one.content, {}, 9),), Settlement(one, Verdict.DONE)))
"""

HOLDER = """
import sys, time
from channels_layer_redis import RedisBackend

backend = RedisBackend(hosts=[sys.argv[1]], delivery={"jobs": "at-least-once"}, process_lease=1.0)
process = backend.open_process("worker")
found = backend.receive_batch(["jobs", "other"], limit=2, timeout=20, process=process)
print(*[one.content["n"] for one in found], flush=True)
time.sleep(60)
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def collect(backend: RedisBackend, channel: str, count: int, seconds: float = 45.0) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += backend.receive_batch([channel], limit=100, timeout=0.5)
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
def test_eight_writers_and_eight_readers_share_the_work_exactly(server: RedisServer, delivery: str) -> None:
    backend = RedisBackend(hosts=[server.url], delivery={"work": AT_LEAST_ONCE})
    children = [start(READER, server.url, delivery) for _ in range(READERS)]
    children += [start(WRITER, server.url, str(number), str(EACH), delivery) for number in range(WRITERS)]
    try:
        results = collect(backend, "results!", WRITERS * EACH)
        assert Counter(one.content["n"] for one in results) == Counter(range(WRITERS * EACH))
        assert len({one.locals for one in results}) > 1
        backend.send_batch(
            [Send("stop", {}, {}, 9) for _ in range(READERS * 5)]
        )  # a reader may take five at once
        assert [child.wait(20) for child in children] == [0] * len(children)
        assert collect(backend, "results!", 1, 0.5) == []
        assert [(one.pending, one.leased) for one in backend.statistics(["work"])] == [(0, 0)]
        assert backend.processes() == []
    finally:
        for child in children:
            child.kill()
            child.communicate()
        backend.close()


def test_what_a_killed_process_held_comes_back_with_its_lease_on_the_layer(server: RedisServer) -> None:
    backend = RedisBackend(hosts=[server.url], delivery={"jobs": AT_LEAST_ONCE}, process_lease=1.0)
    backend.send_batch([Send("jobs", {"n": number}, {}, 0) for number in range(3)])
    holder = start(HOLDER, server.url)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == ["0", "1"]
        holder.send_signal(signal.SIGKILL)
        begun = time.monotonic()
        again: list[Delivery] = []
        while len(again) < 3 and time.monotonic() - begun < 20:
            again += backend.receive_batch(["jobs"], limit=9, timeout=5)
        assert time.monotonic() - begun < 5, "the lease on the layer, not the one on the message, decides"
        assert sorted((one.content["n"], one.attempt) for one in again) == [(0, 2), (1, 2), (2, 1)]
        backend.settle([Settlement(one, Verdict.DONE) for one in again])
        assert server.do("XINFO", "GROUPS", "channels:c:{q0}jobs")[0][5] == 0
    finally:
        holder.kill()
        holder.communicate()
        backend.close()
