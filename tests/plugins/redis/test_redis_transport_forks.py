"""Forked children speak for themselves: they use none of their parent's connections and close none."""

import asyncio
import os
import threading

import pytest

from channels_layer_redis.transport import Servers, Transport
from redis_servers import eventually

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def in_child(work):
    """Run ``work`` in a forked child; whether it ended well."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  # nothing may leave the child but its exit code
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def ids(transport):
    """The connections that call() of this thread and submit() use."""
    return {transport.for_thread().call([("CLIENT", "ID")])[0], transport.submit([("CLIENT", "ID")])[0]}


def test_a_child_has_connections_of_its_own(server):
    transport = Transport(Servers.from_options(server.address))
    try:
        before = ids(transport)

        def work():
            assert ids(transport).isdisjoint(before)
            transport.wake()

        assert in_child(work) == 0
        assert ids(transport) == before
    finally:
        transport.close()


def test_a_child_does_not_keep_its_parents_connections_open(server):
    transport = Transport(Servers.from_options(server.address))
    release_read, release_write = os.pipe()
    forked_read, forked_write = os.pipe()
    mine = ids(transport)
    pid = os.fork()
    if pid == 0:
        os.write(forked_write, b"x")
        os.read(release_read, 1)
        os._exit(0)
    os.read(forked_read, 1)
    transport.close()

    def known():
        listed = server.do("CLIENT", "LIST").decode()
        return {int(line.split()[0].removeprefix("id=")) for line in listed.splitlines()}

    try:
        eventually(lambda: mine.isdisjoint(known()), "the end of the parent's connections")
    finally:
        os.write(release_write, b"x")
        os.waitpid(pid, 0)
        for descriptor in (release_read, release_write, forked_read, forked_write):
            os.close(descriptor)


async def test_a_child_of_a_running_loop_leaves_the_loops_connections_alone(server):
    transport = Transport(Servers.from_options(server.address))
    client = transport.for_loop()
    (before,) = await client.call([("CLIENT", "ID")])
    reader = asyncio.ensure_future(
        client.block([("XREAD", "BLOCK", 20_000, "STREAMS", "none", "$")], timeout=20)
    )
    await asyncio.sleep(0.05)

    def work():
        async def ask():
            own = transport.for_loop()
            (number,) = await own.call([("CLIENT", "ID")])
            assert number != before
            transport.close()

        thread = threading.Thread(target=lambda: asyncio.run(ask()))  # this thread's loop is the parent's
        thread.start()
        thread.join()
        assert transport._is_closed

    assert in_child(work) == 0
    assert await client.call([("CLIENT", "ID")]) == [before]
    transport.wake()
    assert await reader == [None]
    transport.close()
    await asyncio.sleep(0.01)


def test_a_child_forked_while_threads_send_is_whole(server):
    transport = Transport(Servers.from_options(server.address))
    stop = threading.Event()
    failures = []

    def send():
        number = 0
        while not stop.is_set():
            number += 1
            if transport.submit([("ECHO", number)]) != [str(number).encode()]:
                failures.append(number)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: transport.submit([("PING",)])) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        transport.close()
    assert failures == []
