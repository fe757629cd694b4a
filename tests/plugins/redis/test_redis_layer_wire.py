"""What is on the wire and in the server: version 1, recorded, for releases talk to each other. And foreign keys."""

from collections.abc import Iterator
from typing import Any

import pytest

from channels_core.layers import AT_LEAST_ONCE, Send, Settlement, Verdict
from channels_layer_redis import RedisBackend
from channels_layer_redis.encryption import Unreadable
from channels_layer_redis.envelope import Envelope
from redis_servers import RedisServer

RECORDED = (
    bytes.fromhex("1092") + bytes.fromhex("82a16e01a16292a378c3bcc40100") + bytes.fromhex("81a4632d617405")
)
CONTENT: dict[str, Any] = {"n": 1, "b": ["xü", b"\x00"]}
HEADERS: dict[str, str | int] = {"c-at": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def backend(server: RedisServer) -> Iterator[RedisBackend]:
    server.do("FLUSHALL")
    layer = RedisBackend(hosts=[server.url], delivery={"jobs": AT_LEAST_ONCE})
    yield layer
    layer.close()


def test_a_message_of_version_1_is_the_bytes_that_were_recorded() -> None:
    envelope = Envelope("channels")
    assert envelope.pack(CONTENT, HEADERS, "a") == RECORDED
    assert envelope.unpack(RECORDED, "a") == (CONTENT, HEADERS)
    with_credit = envelope.pack({}, {"c-credit": "in!x"}, "a")
    assert with_credit == b"\x14\x92\x80\x81\xa8c-credit\xa4in!x"


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"", "it is empty"),
        (b"\x20\x92\x80\x80", "it is of a form that this version does not know (0x20)"),
        (b"\x18\x92\x80\x80", "it is of a form that this version does not know (0x18)"),
        (b"\x11\x92\x80\x80", "it is sealed, and this process has no encryption_keys"),
        (b"\x10", "it is no message: Input data was truncated"),
        (b"\x10\x92\x81\x01\x02\x80", "it is no message: Expected `str`, got `int` - at `key` in `$[0]`"),
        (b"\x10" + b"\x91" * 100_000, "it is no message: "),
        (b"\x12\x92\x80\x80", "it cannot be expanded: "),
    ],
)
def test_what_is_no_message_is_unreadable_and_the_reason_is_said(packed: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        Envelope("channels").unpack(packed, "a")
    assert str(caught.value).startswith(reason)


def test_a_recorded_message_of_another_process_is_received(
    server: RedisServer, backend: RedisBackend
) -> None:
    server.do("XADD", "channels:c:{q0}a", "*", "m", RECORDED)
    server.do("XADD", "channels:c:{q0}a", "*", "m", RECORDED, "x", "3:::20::", "later", "unknown")
    first, second = backend.receive_batch(["a"], limit=9, timeout=0)
    assert (first.content, first.headers, first.attempt) == (CONTENT, HEADERS, 1)
    assert (second.content, second.attempt) == (CONTENT, 3)


def test_the_keys_of_everything_are_those_of_version_1(server: RedisServer, backend: RedisBackend) -> None:
    process = backend.open_process("worker", label="w")
    mine = f"in.{process}!x"
    backend.send_batch([Send("jobs", {}, {}, 1), Send("jobs", {}, {}, 1), Send("jobs", {}, {}, 1)])
    backend.send_batch([Send("in!x", {}, {}, 1), Send(mine, {}, {}, 1)])
    backend.group_add("g", mine)
    backend.group_add("g", "jobs")
    lost, dead, kept = backend.receive_batch(["jobs"], limit=3, timeout=0, process=process)
    backend.send_one(Send("jobs", {}, {}, 1))
    backend.settle([Settlement(lost, Verdict.RELEASE), Settlement(dead, Verdict.DEAD, None, "no")])
    assert len(backend.receive_batch(["jobs"], limit=1, timeout=0, process=process)) == 1
    backend.settle([Settlement(kept, Verdict.RELEASE)])
    backend.close_channel(f"in.{process}!closed")
    tag = f"{{{process}}}"
    kinds = {key.decode(): server.do("TYPE", key).decode() for key in server.do("KEYS", "*")}
    assert kinds == {
        "channels:c:{q0}jobs": "stream",
        "channels:f:{q0}jobs": "list",
        "channels:t:{q0}jobs": "stream",
        "channels:n:{q0}jobs": "string",
        "channels:q:{q0}jobs": "stream",
        "channels:c:{q0}in!": "stream",
        "channels:b:{q0}in!": "string",
        f"channels:p:{tag}": "hash",
        f"channels:i:{tag}": "stream",
        f"channels:x:{tag}": "zset",
        f"channels:e:{tag}": "zset",
        f"channels:h:{tag}": "set",
        f"channels:m:{{g.g}}in.{process}!": "zset",
        "channels:r:{g.g}": "zset",
        "channels:o:{g.g}": "zset",
        "channels:k:{g.g}": "hash",
        "channels:v:{g.g}": "hash",
        "channels:l:{registry}": "zset",
    }


def test_a_flush_leaves_other_layers_and_other_peoples_keys_alone(
    server: RedisServer, backend: RedisBackend
) -> None:
    other = RedisBackend(hosts=[server.url], prefix="channels.more")
    foreign = {"channels": "1", "channels:": "2", "channels:c:x": "3", "session:{channels}": "4"}
    for key, value in foreign.items():
        server.do("SET", key, value)
    try:
        other.send_one(Send("a", {"n": 1}, {}, 9))
        process = backend.open_process("interface")
        backend.send_batch([Send("a", {}, {}, 9), Send(f"in.{process}!x", {}, {}, 9)])
        backend.group_add("g", f"in.{process}!x")
        backend.flush()
        assert {key: server.do("GET", key).decode() for key in foreign} == foreign
        left = {key.decode() for key in server.do("KEYS", "*")} - set(foreign)
        assert {key for key in left if not key.startswith("channels.more:")} == {
            "channels:l:{registry}",
            f"channels:p:{{{process}}}",
            f"channels:i:{{{process}}}",
        }
        assert [one.content for one in other.receive_batch(["a"], timeout=0)] == [{"n": 1}]
    finally:
        other.close()


def test_what_nobody_uses_any_more_goes_by_itself(server: RedisServer, backend: RedisBackend) -> None:
    process = backend.open_process("interface")
    backend.send_batch([Send("once?x", {}, {}, 9), Send("in!x", {}, {}, 9)])
    backend.receive_batch(["never?sent"], timeout=0)
    for key in ("channels:c:{q0}once?x", "channels:c:{q0}never?sent", "channels:c:{q0}in!"):
        assert 0 < server.do("PTTL", key) <= 120_000, key
    for key in (f"channels:p:{{{process}}}",):
        assert 0 < server.do("PTTL", key) <= 600_000
    backend.send_one(Send("a", {}, {}, 9))
    assert server.do("PTTL", "channels:c:{q0}a") == -1
    backend.close_process(process)
    assert [key for key in server.do("KEYS", "*") if process.encode() in key] == []
