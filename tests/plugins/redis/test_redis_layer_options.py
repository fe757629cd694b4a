"""The layer's own options, and what it says about servers that will not do."""

import logging
from typing import Any

import pytest

from channels_core.exceptions import InvalidChannelLayerError
from channels_core.layers import AT_LEAST_ONCE
from channels_core.plugins import PluginManager
from channels_layer_redis import RedisBackend
from channels_layer_redis.servers import problems
from channels_layer_redis.transport import ServerFacts
from redis_servers import RedisServer


def test_it_is_chosen_by_its_name() -> None:
    assert PluginManager(environ={}).load("layer", "redis") is RedisBackend


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"prefix": "a b"},
            "Option prefix of the Redis layer is 'a b': it is 1 to 64 ASCII letters, digits, '.', '-' and '_', with"
            " which all its keys begin.",
        ),
        (
            {"prefix": "{x}"},
            "Option prefix of the Redis layer is '{x}': it is 1 to 64 ASCII letters, digits, '.', '-' and '_', with"
            " which all its keys begin.",
        ),
        (
            {"channel_tags": 0},
            "Option channel_tags of the Redis layer is 0: it must be an integer of at least 1.",
        ),
        (
            {"durable_sends": True},
            "Option durable_sends of the Redis layer is True: it must be an integer of at least 0.",
        ),
        (
            {"dead_letter_limit": "9"},
            "Option dead_letter_limit of the Redis layer is '9': it must be an integer of at least 1.",
        ),
        ({"deduplicate": 1}, "Option deduplicate of the Redis layer is 1: it is True or False."),
        (
            {"compress_above": 0},
            "Option compress_above of the Redis layer is 0: it must be an integer of at least 1.",
        ),
        (
            {"encryption_keys": ["x"], "symmetric_encryption_keys": ["x"]},
            "The Redis layer was given encryption_keys and symmetric_encryption_keys, which are the new and the old"
            " name of one option: remove the old one.",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidChannelLayerError) as caught:
        RedisBackend(**options)
    assert str(caught.value) == text


def facts(**said: Any) -> dict[str, ServerFacts]:
    return {"redis://one:6379": ServerFacts(**said)}


def test_a_server_that_is_too_old_is_an_error() -> None:
    with pytest.raises(InvalidChannelLayerError) as caught:
        list(problems(facts(version=(6, 0, 16)), keeps=False))
    assert str(caught.value) == (
        "The server at redis://one:6379 is Redis 6.0.16; the Redis layer needs 6.2 or later, or any Valkey. Upgrade the"
        " server."
    )
    assert list(problems(facts(version=(6, 2, 0)), keeps=False)) == []


def test_a_server_that_evicts_or_forgets_is_warned_of() -> None:
    assert list(problems(facts(maxmemory_policy="allkeys-lru"), keeps=False)) == [
        "The server at redis://one:6379 throws keys away when its memory is full (maxmemory-policy allkeys-lru):"
        " messages and memberships can vanish. Set maxmemory-policy to noeviction, or use a server of its own for"
        " channels."
    ]
    volatile = facts(maxmemory_policy="noeviction", is_aof=False, is_rdb=False)
    assert list(problems(volatile, keeps=False)) == []
    assert list(problems(volatile, keeps=True)) == [
        "The server at redis://one:6379 writes nothing to disk, and some channels are at-least-once: when it restarts,"
        " their messages are lost. Set appendonly to yes."
    ]
    assert list(problems(facts(maxmemory_policy="noeviction", is_aof=True), keeps=True)) == []


def test_the_warning_comes_once_with_the_first_process(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server, caplog.at_level(logging.WARNING):
        backend = RedisBackend(hosts=[server.url], delivery={"jobs": AT_LEAST_ONCE})
        backend.open_process("worker")
        backend.open_process("worker")
        backend.close()
    assert caplog.messages == [
        f"The server at redis://127.0.0.1:{server.port} writes nothing to disk, and some channels are at-least-once:"
        " when it restarts, their messages are lost. Set appendonly to yes."
    ]


def test_sends_that_too_few_replicas_have_are_uncertain() -> None:
    from channels_core.layers import Outcome, Send, Turn

    with RedisServer() as server:
        backend = RedisBackend(hosts=[server.url], durable_sends=1, capacity=1)
        try:
            send = Send("a", {"n": 1}, {}, 9)
            assert backend.send_one(send) is Outcome.UNCERTAIN
            assert backend.exchange([Turn((send, Send("b", {}, {}, 9)))], ()).outcomes == [
                [Outcome.FULL, Outcome.UNCERTAIN]
            ]
            assert backend.counters.uncertain == 2
        finally:
            backend.close()


def test_sends_that_a_replica_has_are_sent() -> None:
    from channels_core.layers import Outcome, Send
    from redis_servers import eventually

    with RedisServer() as server, RedisServer(replicaof=["127.0.0.1", server.port]) as replica:
        eventually(lambda: replica.do("ROLE")[3] == b"connected", "a replica in step")
        backend = RedisBackend(hosts=[server.url], durable_sends=1)
        try:
            assert backend.send_one(Send("a", {"n": 1}, {}, 9)) is Outcome.SENT
            assert replica.do("XLEN", "channels:c:{q0}a") == 1
        finally:
            backend.close()
