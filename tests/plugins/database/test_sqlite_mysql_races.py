"""SQLite and MariaDB between real processes: exactly one reader for each message, and nobody waits for long."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_core.layers import AT_LEAST_ONCE, AT_MOST_ONCE, Outcome, Send, Settlement, Verdict
from serial_sites import SerialSite, on_engine

PATIENCE = 60.0
WRITERS = READERS = 8
MESSAGES = 40


@pytest.fixture(params=["sqlite", "mariadb"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SerialSite]:
    with on_engine(request.param, tmp_path) as site:
        yield site


def sending(channel: str, number: int) -> Send:
    return Send(channel, {"n": number}, {}, 20)


def numbers(deliveries: Any) -> list[int]:
    return [delivery.content["n"] for delivery in deliveries]


@pytest.mark.parametrize("delivery", [AT_MOST_ONCE, AT_LEAST_ONCE])
def test_eight_writers_and_eight_readers_each_message_once(site: SerialSite, delivery: str) -> None:
    config = {"capacity": 100, "delivery": {"work": delivery}}
    layer = site.layer(**config)
    layer.flush()
    readers = [site.start("read", limit=5, config=config) for _ in range(READERS)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    writers = [
        site.start("write", writer=writer, count=MESSAGES, batch=4, config=config)
        for writer in range(WRITERS)
    ]
    for writer in writers:
        assert writer.communicate(timeout=PATIENCE)[0] == "done\n"
    stops = [Send("work", {"w": -1, "n": 0}, {}, 20)] * READERS
    while stops:
        stops = stops[: layer.send_batch(stops).count(Outcome.FULL)]
    found: Counter[tuple[int, int]] = Counter()
    for reader in readers:
        for line in reader.communicate(timeout=PATIENCE)[0].splitlines():
            found.update((writer, number) for writer, number in json.loads(line))
    assert found == Counter((writer, number) for writer in range(WRITERS) for number in range(MESSAGES))
    assert layer.statistics() == []
    layer.close()


def test_no_send_waits_for_long_behind_other_writers(site: SerialSite) -> None:
    layer = site.layer(capacity=100_000)
    layer.flush()
    config = {"capacity": 100_000}
    writers = [site.start("write", writer=writer, count=600, batch=3, config=config) for writer in range(3)]
    longest = 0.0
    while any(writer.poll() is None for writer in writers):
        begun = time.monotonic()
        assert layer.send_one(sending("other", 1)) is Outcome.SENT
        longest = max(longest, time.monotonic() - begun)
    assert longest < 2.0, "goal: a quarter of a second on two cores that nobody else uses"
    layer.close()


def test_what_no_bell_told_of_is_found_within_the_poll_interval(site: SerialSite) -> None:
    """A sender that cannot ring is what a lost poke looks like, and a sender on another host."""
    reader, sender = site.layer(), site.layer(doorbell=False)
    assert reader.doorbell.reaches_others
    reader.receive_batch(["a"], timeout=0)
    for number in range(2):
        begun = time.monotonic()
        sender.send_one(sending("a", number))
        assert numbers(reader.receive_batch(["a"], timeout=10)) == [number]
        assert time.monotonic() - begun < 1.0 + 1.0  # the interval, and a busy machine
    reader.close()
    sender.close()


def test_leases_of_a_reader_that_was_killed_come_back(site: SerialSite) -> None:
    config = {"delivery": {"work": AT_LEAST_ONCE}, "process_lease": 1.0}
    layer = site.layer(**config)
    layer.send_one(sending("work", 7))
    holder = site.start("hold", config=config)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holds 7\n"
    assert layer.receive_batch(["work"], timeout=0) == []
    holder.kill()
    mine = layer.open_process("worker")
    again = None
    deadline = time.monotonic() + PATIENCE
    while again is None and time.monotonic() < deadline:
        assert layer.renew_process(mine)
        for again in layer.receive_batch(["work"], timeout=0.2, process=mine):
            break
    assert again is not None
    assert (again.content, again.attempt) == ({"n": 7}, 2)
    layer.settle([Settlement(again, Verdict.DONE)])
    layer.close()


def test_a_bell_that_nobody_answers_any_more_is_taken_down(site: SerialSite) -> None:
    holder = site.start("rest")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "rests\n"
    layer = site.layer()
    assert layer.doorbell.reaches_others
    directory = layer.doorbell.directory
    key = directory / "k" / "=work"
    deadline = time.monotonic() + PATIENCE
    while not (key.exists() and any(key.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    holder.kill()
    holder.wait()
    [name] = [path.name for path in key.iterdir()]
    layer.send_one(sending("work", 1))
    assert not (directory / "b" / name).exists()
    assert not (key / name).exists()
    assert numbers(layer.receive_batch(["work"], timeout=1)) == [1]
    layer.close()
