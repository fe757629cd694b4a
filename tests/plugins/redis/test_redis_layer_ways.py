"""The whole layer over every way to a server: socket file, TLS, a user with few rights, Sentinels, a failing master."""

import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Delivery, Outcome, Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend
from faulty_proxy import FaultyProxy
from redis_servers import RedisSentinel, RedisServer, eventually, tls_files

RIGHTS = ["~channels:*", "+@all", "-@dangerous", "-@admin", "-client", "-config", "-flushall"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["socket file", "tls", "user"])
def options(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Iterator[dict[str, Any]]:
    server.do("FLUSHALL")
    if request.param == "socket file":
        yield {"hosts": [f"unix://{server.socket_path}"]}
    elif request.param == "user":
        server.do("ACL", "SETUSER", "web", "on", ">secret", "resetkeys", *RIGHTS)
        yield {"hosts": [f"redis://web:secret@127.0.0.1:{server.port}"]}
        server.do("ACL", "DELUSER", "web")
    else:
        files = tls_files(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files["cert"], files["key"])
        with FaultyProxy(server.address, tls=context) as front:
            yield {"hosts": [f"rediss://127.0.0.1:{front.port}/0"], "tls": {"ca": files["ca"]}}


def test_everything_works_that_way(options: dict[str, Any]) -> None:
    backend = RedisBackend(**options, delivery={"jobs": "at-least-once"})
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    backend.group_add("g", f"{prefix}x")
    backend.group_add("g", "jobs")
    assert backend.send_one(Send("g", {"n": 1}, {}, 9, True)) is Outcome.SENT
    assert backend.send_batch([Send("jobs", {"b": b"\0" * 200_000}, {}, 200_000)]) == [Outcome.SENT]
    first, second = backend.receive_batch(["jobs"], timeout=1, limit=2, process=process)
    turns = [
        Turn([Send(f"{prefix}x", {"n": 2}, {}, 9)], Settlement(first, Verdict.DONE)),
        Turn([], Settlement(second, Verdict.DEAD, None, "for a test")),
    ]
    exchange = backend.exchange(turns, ["jobs"], timeout=0.05, process=process)
    assert (exchange.outcomes, exchange.deliveries) == ([[Outcome.SENT], []], [])
    received = backend.receive_batch([prefix], timeout=1, limit=5)
    assert [(one.content, one.locals) for one in received] == [({"n": 1}, ("x",)), ({"n": 2}, ("x",))]
    assert backend.renew_process(process) is True
    [letter] = backend.dead_letters()
    assert letter.content == {"b": b"\0" * 200_000}
    assert backend.replay_dead([letter.id]) == 1
    assert [figures.pending for figures in backend.statistics(["jobs"])] == [1]
    assert backend.groups() == {"g": 2}
    backend.close_channel(f"{prefix}x")
    assert backend.group_channels("g") == ["jobs"]
    backend.flush()
    assert backend.statistics() == []
    backend.close_process(process)
    backend.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_failover_keeps_the_process_its_groups_and_its_messages(is_killed: bool) -> None:
    with RedisSentinel() as setup:
        options = {**setup.options, "retry_timeout": 0.5, "delivery": {"jobs": "at-least-once"}}
        backend, other = RedisBackend(**options, durable_sends=1), RedisBackend(**options, durable_sends=1)
        process = backend.open_process("interface")
        prefix = f"in.{process}!"
        for local in "xyz":
            backend.group_add("g", f"{prefix}{local}")
        assert (
            other.send_batch([Send(f"{prefix}x", {"n": n}, {}, 9) for n in range(20)]) == [Outcome.SENT] * 20
        )
        assert other.send_batch([Send("jobs", {"n": n}, {}, 9) for n in range(20)]) == [Outcome.SENT] * 20
        received = backend.receive_batch([prefix], timeout=1, limit=5)
        held = other.receive_batch(["jobs"], timeout=1, limit=5, process=process)
        assert (len(received), len(held)) == (5, 5)
        time.sleep(0.2)  # replicas follow
        if is_killed:
            setup.kill_master()
        else:
            setup.failover()
        done: list[Delivery] = []

        def renewed() -> bool:
            with suppress(LayerUnavailable):
                return backend.renew_process(process)
            return False

        eventually(renewed, "the renewal of the lease", 30)

        def is_complete() -> bool:
            with suppress(LayerUnavailable):
                received.extend(backend.receive_batch([prefix], timeout=0.1, limit=50))
                found = other.receive_batch(["jobs"], timeout=0, limit=50)
                other.settle([Settlement(one, Verdict.DONE) for one in found])
                done.extend(found)
            return len(received) >= 20 and len(done) >= 15

        eventually(is_complete, "what the replica has", 30)
        assert [one.content["n"] for one in received] == list(range(20))
        assert [one.content["n"] for one in done] == list(range(5, 20))

        def is_settled() -> bool:
            with suppress(LayerUnavailable):
                other.settle([Settlement(one, Verdict.DONE) for one in held])
                return other.statistics(["jobs"])[0].leased == 0
            return False

        eventually(is_settled, "the settling of what was leased before", 30)
        assert sorted(other.group_channels("g")) == [f"{prefix}{local}" for local in "xyz"]
        other.send_one(Send("g", {"n": 99}, {}, 9, True))
        [delivery] = backend.receive_batch([prefix], timeout=5)
        assert sorted(delivery.locals) == ["x", "y", "z"]
        backend.close()
        other.close()
