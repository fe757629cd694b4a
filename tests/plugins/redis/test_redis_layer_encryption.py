"""Sealed messages: bound to their channel, readable with any known key, and never fatal when they are not."""

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from channels_core.exceptions import InvalidChannelLayerError
from channels_core.layers import AT_LEAST_ONCE, Send
from channels_layer_redis import RedisBackend
from channels_layer_redis.encryption import Cipher, Unreadable
from channels_layer_redis.envelope import Envelope
from redis_servers import RedisServer

OLD, NEW = "the old secret", b"the new secret"


def sealing(*keys: str | bytes, prefix: str = "channels") -> Envelope:
    return Envelope(prefix, Cipher(keys))


def test_a_sealed_message_is_read_with_any_known_key_and_sealed_with_the_first() -> None:
    old, both, new = sealing(OLD), sealing(NEW, OLD), sealing(NEW)
    assert both.unpack(old.pack({"n": 1}, {}, "a"), "a") == ({"n": 1}, {})
    assert new.unpack(both.pack({"n": 2}, {"h": 1}, "a"), "a") == ({"n": 2}, {"h": 1})
    with pytest.raises(Unreadable, match=r"^it was sealed with a key that is not among encryption_keys$"):
        old.unpack(both.pack({}, {}, "a"), "a")


def test_a_sealed_message_says_nothing_and_is_forty_five_bytes_longer() -> None:
    sealed = sealing(NEW).pack({"text": "hello"}, {}, "a")
    assert b"hello" not in sealed
    assert b"text" not in sealed
    assert len(sealed) == len(Envelope("channels").pack({"text": "hello"}, {}, "a")) + 4 + 16 + 8 + 16


@pytest.mark.parametrize("name", ["b", "A", "a!", "a!y", "g"])
def test_a_sealed_message_is_bound_to_its_channel(name: str) -> None:
    sealed = sealing(NEW).pack({}, {}, "a!x")
    with pytest.raises(
        Unreadable, match=r"^its seal is broken: it was changed, or was sent to another channel$"
    ):
        sealing(NEW).unpack(sealed, name)


def test_a_sealed_message_is_bound_to_the_prefix_of_its_layer() -> None:
    with pytest.raises(Unreadable, match="its seal is broken"):
        sealing(NEW, prefix="other").unpack(sealing(NEW).pack({}, {}, "a"), "a")


def test_no_byte_of_a_sealed_message_can_be_changed() -> None:
    envelope = sealing(NEW)
    sealed = envelope.pack({"n": 1}, {}, "a")
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(Unreadable):
            envelope.unpack(changed, "a")
    for length in range(len(sealed)):
        with pytest.raises(Unreadable):
            envelope.unpack(sealed[:length], "a")


def test_who_has_keys_refuses_what_is_not_sealed() -> None:
    plain = Envelope("channels").pack({}, {}, "a")
    with pytest.raises(Unreadable, match=r"^it is not sealed, and this process has encryption_keys$"):
        sealing(NEW).unpack(plain, "a")


def test_no_two_messages_share_a_key_and_a_nonce() -> None:
    one, two = sealing(NEW), sealing(NEW)
    heads = {envelope.pack({}, {}, "a")[1:29] for envelope in (one, two) for _ in range(500)}
    assert len(heads) == 1000
    assert len({head[4:20] for head in heads}) == 2, "each process derives a key of its own"


def test_a_forked_child_derives_a_key_of_its_own() -> None:
    backend = RedisBackend(hosts=["redis://127.0.0.1:1"], encryption_keys=[NEW])
    cipher = backend._cipher
    assert cipher is not None
    mine = cipher.seal(b"", b"")[:20]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, cipher.seal(b"", b"")[:20])
        os._exit(0)
    os.close(writer)
    theirs = os.read(reader, 100)
    os.close(reader)
    os.waitpid(child, 0)
    backend.close()
    assert len(theirs) == 20
    assert theirs[:4] == mine[:4]
    assert theirs != mine


def test_large_messages_are_compressed_before_they_are_sealed() -> None:
    content = {"text": "x" * 10_000}
    packed = Envelope("channels", Cipher([NEW]), 1000).pack(content, {}, "a")
    assert len(packed) < 200
    assert sealing(NEW).unpack(packed, "a") == (content, {})
    noise = {"data": os.urandom(2000)}
    assert Envelope("channels", None, 1000).pack(noise, {}, "a")[0] == 0x10, (
        "what does not shrink stays as it is"
    )


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def test_what_cannot_be_read_is_counted_and_never_fatal(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"hosts": [server.url], "delivery": {"jobs": AT_LEAST_ONCE}}
    stranger = RedisBackend(**options, symmetric_encryption_keys=[OLD])
    mine = RedisBackend(**options, encryption_keys=[NEW])
    try:
        process = mine.open_process("interface")
        for backend in (stranger, mine):
            for channel in ("a", "jobs", "in!x", f"in.{process}!x"):
                backend.send_one(Send(channel, {"from": "me" if backend is mine else "stranger"}, {}, 9))
        with caplog.at_level(logging.ERROR):
            received = mine.receive_batch(["a", "jobs", "in!"], limit=9, timeout=0)
            received += mine.receive_batch([f"in.{process}!"], limit=9, timeout=0)
        assert [one.content for one in received] == [{"from": "me"}] * 4
        assert mine.counters.dead == 4
        assert (
            caplog.messages.count(
                "A message on 'a' cannot be read and is given up: it was sealed with a key that is not among"
                " encryption_keys."
            )
            == 1
        )
        [letter] = mine.dead_letters()
        assert (letter.channel, letter.content) == ("jobs", {})
        assert letter.reason == (
            "It cannot be read: it was sealed with a key that is not among encryption_keys."
        )
        [readable] = stranger.dead_letters("jobs")
        assert readable.content == {"from": "stranger"}
    finally:
        stranger.close()
        mine.close()


def test_a_broadcast_is_read_by_members_of_every_kind(server: RedisServer) -> None:
    backend = RedisBackend(hosts=[server.url], encryption_keys=[NEW], prefix="sealed")
    try:
        prefix = f"in.{backend.open_process('interface')}!"
        for member in ("a", "in!x", f"{prefix}x"):
            backend.group_add("g", member)
        backend.send_one(Send("g", {"n": 1}, {}, 9, True))
        received = backend.receive_batch(["a", "in!", prefix], limit=9, timeout=0)
        assert sorted(one.channel for one in received) == sorted(["a", "in!", prefix])
    finally:
        backend.close()


@pytest.mark.parametrize("keys", [[], "one secret", [""], [b""], [1], [None]])
def test_keys_that_are_none_are_an_error(keys: object) -> None:
    with pytest.raises(InvalidChannelLayerError) as caught:
        RedisBackend(encryption_keys=keys)  # type: ignore[arg-type]  # that is the test
    assert str(caught.value) == (
        "Option encryption_keys of the Redis layer is not a list of keys: give one or more secrets, each text or bytes"
        " and not empty; the first one seals, all of them open."
    )


def test_without_the_packages_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InvalidChannelLayerError) as caught:
        RedisBackend(encryption_keys=["x"])
    assert str(caught.value) == (
        "Option encryption_keys of the Redis layer needs the package 'cryptography', which is not installed: run 'pip"
        " install channels-layer-redis[crypto]'."
    )
    with pytest.raises(InvalidChannelLayerError) as caught:
        RedisBackend(compress_above=100)
    assert str(caught.value) == (
        "Option compress_above of the Redis layer needs the package 'zstandard', which is not installed: run 'pip"
        " install channels-layer-redis[zstd]'."
    )
    with pytest.raises(Unreadable, match=r"^it is compressed, and the package 'zstandard' is not installed$"):
        Envelope("channels").unpack(b"\x12xyz", "a")
