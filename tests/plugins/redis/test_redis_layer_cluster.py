"""A cluster's two steps, and its parts: each may fail by itself."""

from collections.abc import Iterator
from typing import Any

import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Outcome, Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend, inbox
from channels_layer_redis.transport import Unsent
from redis_servers import RedisCluster, RedisServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    options: dict[str, Any] = {"cluster-require-full-coverage": "no"}
    with RedisCluster(**options) as running:
        yield running


@pytest.fixture
def backend(cluster: RedisCluster) -> Iterator[RedisBackend]:
    for master in cluster.masters:
        master.do("FLUSHALL")
    made = RedisBackend(cluster=cluster.hosts, retry_timeout=0.3, connect_timeout=0.5, channel_tags=64)
    yield made
    made.close()


def owner_of(cluster: RedisCluster, key: str) -> RedisServer:
    return cluster.owner_of(cluster.masters[0].do("CLUSTER", "KEYSLOT", key))


def tell_group_only(backend: RedisBackend, verb: str, group: str, channel: str) -> None:
    """What a worker leaves behind that ends between the two steps of a change."""
    steps = backend._groups._change(verb, group, channel)
    request = next(steps)
    assert isinstance(request, list)
    [reply] = backend._transport.submit(request)
    assert reply != 0
    steps.close()


def test_a_change_that_broke_off_between_its_steps_is_whole_when_it_is_made_again(
    backend: RedisBackend,
) -> None:
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    backend.group_add("g", f"{prefix}x")
    tell_group_only(backend, "+", "g", f"{prefix}y")
    backend.group_add("g", f"{prefix}y")
    backend.send_one(Send("g", {"n": 1}, {}, 9, True))
    [delivery] = backend.receive_batch([prefix], timeout=0)
    assert sorted(delivery.locals) == ["x", "y"]
    tell_group_only(backend, "-", "g", f"{prefix}x")
    backend.group_discard("g", f"{prefix}x")
    backend.send_one(Send("g", {"n": 2}, {}, 9, True))
    [delivery] = backend.receive_batch([prefix], timeout=0)
    assert delivery.locals == ("y",)
    tell_group_only(backend, "-", "g", f"{prefix}y")
    backend.close_channel(f"{prefix}y")
    assert backend.group_channels("g") == []
    assert backend.send_one(Send("g", {"n": 3}, {}, 9, True)) is Outcome.SENT
    assert backend.receive_batch([prefix], timeout=0) == []


def test_a_process_that_is_gone_leaves_its_groups_in_time(
    cluster: RedisCluster, backend: RedisBackend
) -> None:
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    backend.group_add("g", f"{prefix}x")
    for letter in "pxi":
        key = backend._engine.keys.of_process(letter, process)
        owner_of(cluster, key).do("DEL", key)
    group = backend._engine.keys.of_group("r", "g")
    backend.send_one(Send("g", {"n": 1}, {}, 9, True))
    assert (
        owner_of(cluster, group).do("EXISTS", group) == 1
    )  # it may only be telling the server anew that it lives
    owner_of(cluster, group).do("ZADD", group, 1, prefix)
    backend.send_one(Send("g", {"n": 2}, {}, 9, True))
    for letter, rest in (("r", ""), ("m", prefix), ("v", "")):
        key = backend._engine.keys.of_group(letter, "g", rest)
        assert owner_of(cluster, key).do("EXISTS", key) == 0


def test_groups_that_were_left_are_forgotten_after_a_while(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    monkeypatch.setattr(inbox, "_LATEST_CHANGE", -1.0)
    for number in range(20):
        backend.group_add(f"g{number}", f"{prefix}x")
        backend.group_discard(f"g{number}", f"{prefix}x")
        backend.group_discard(f"g{number}", f"{prefix}stranger")
    assert backend.receive_batch([prefix], timeout=0) == []
    assert backend._processes.inbox(process)._members == {}


def test_an_inbox_notices_that_its_slot_is_served_by_another_server(
    cluster: RedisCluster, backend: RedisBackend
) -> None:
    process = backend.open_process("interface")
    key = backend._engine.keys.of_process("i", process)
    assert backend.receive_batch([f"in.{process}!"], timeout=0) == []
    before = backend._transport.epoch_of(key)
    slot = cluster.masters[0].do("CLUSTER", "KEYSLOT", key)
    source = cluster.owner_of(slot)
    cluster.move(slot, next(master for master in cluster.masters if master is not source))
    backend.send_one(Send(f"in.{process}!x", {"n": 1}, {}, 9))
    assert backend._transport.epoch_of(key) != before
    assert [one.content["n"] for one in backend.receive_batch([f"in.{process}!"], timeout=1)] == [1]


def test_a_question_that_was_not_answered_leaves_sends_unsent(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsent(*args: Any) -> Any:
        raise Unsent("Not sent: there is no server.")

    monkeypatch.setattr(backend._transport, "submit", unsent)
    with pytest.raises(LayerUnavailable, match=r"^Not sent"):
        backend.send_one(Send("g", {"n": 1}, {}, 9, True))


def test_what_one_part_of_a_batch_sent_is_not_reported_as_unsent(
    cluster: RedisCluster, backend: RedisBackend
) -> None:
    names: dict[int, str] = {}
    for number in range(200):
        name = f"c{number}"
        names.setdefault(owner_of(cluster, backend._engine.keys.of_channel("c", name)).port, name)
    here, there = list(names.values())[:2]
    assert (
        backend.send_batch([Send(here, {"n": 0}, {}, 9), Send(there, {"n": 0}, {}, 9)]) == [Outcome.SENT] * 2
    )
    assert (
        len(backend.receive_batch([here, there], timeout=1, limit=2))
        + len(backend.receive_batch([here, there], timeout=0, limit=2))
        == 2
    )
    away = owner_of(cluster, backend._engine.keys.of_channel("c", there))
    away.kill()
    try:
        sends = [Send(here, {"n": 1}, {}, 9), Send(there, {"n": 1}, {}, 9)]
        sent, refused = backend.send_batch(sends)
        assert sent is Outcome.SENT
        assert refused in (Outcome.FULL, Outcome.UNCERTAIN)
        [[sent, refused]] = backend.exchange([Turn(sends)], ()).outcomes
        assert sent is Outcome.SENT
        assert refused is Outcome.FULL
        with pytest.raises(LayerUnavailable):
            backend.send_batch([sends[1]])
        received = backend.receive_batch([here, there], timeout=0, limit=5)
        assert [one.content["n"] for one in received] == [1, 1]
        settlement = Settlement(received[0], Verdict.RELEASE)
        backend.settle([settlement])
        assert len(backend.receive_batch([here], timeout=0)) == 1
    finally:
        away.start()
