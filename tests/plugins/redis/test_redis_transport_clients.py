"""Both clients and submit() on real servers: replies, blocking reads, waking, scripts, loss and return."""

import asyncio
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from channels_layer_redis.transport import (
    AsyncClient,
    CommandError,
    Script,
    Servers,
    Transport,
    TransportError,
    Unanswered,
    Unsent,
)
from faulty_proxy import FaultyProxy
from ports import free_port
from redis_servers import RedisServer, eventually

FACES = ["async", "sync", "submit"]
READERS = ["async", "sync"]
ADD = Script("add", "return redis.call('RPUSH', KEYS[1], ARGV[1])")


def read(key, milliseconds, start="0"):
    return ("XREAD", "BLOCK", milliseconds, "STREAMS", key, start)


@pytest.mark.parametrize("face", FACES)
def test_replies_come_in_order_with_errors_in_their_places(any_server, speak, face):
    speaker = speak(face, hosts=any_server.url, scripts=[ADD])
    any_server.do("FLUSHALL")

    replies = speaker.call(
        [
            ("PING",),
            ("NOSUCH", "x"),
            ("SET", "k", 1.5),
            ("GET", b"k"),
            ADD.call(["list"], ["é"]),
            ("LRANGE", "list", 0, -1),
        ]
    )

    assert replies[0] == b"PONG"
    assert isinstance(replies[1], CommandError)
    assert replies[1].code == "ERR"
    assert "unknown command" in replies[1].text
    assert replies[2:] == [b"OK", b"1.5", 1, ["é".encode()]]


@pytest.mark.parametrize("face", FACES)
def test_no_commands_are_no_replies(server, speak, face):
    assert speak(face, hosts=server.url).call([]) == []


@pytest.mark.parametrize("face", FACES)
def test_what_cannot_be_packed_is_the_callers_error_and_harms_nobody(server, speak, face):
    speaker = speak(face, hosts=server.url)

    with pytest.raises(TypeError):
        speaker.call([("SET", "k", object())])

    assert speaker.call([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("face", FACES)
def test_bodies_of_all_sizes_arrive_whole(any_server, speak, face):
    speaker = speak(face, hosts=any_server.url)
    bodies = [bytes([65 + size % 26]) * size for size in (0, 1, 65_000, 65_536, 70_000, 3_000_000, 5)]

    speaker.call([("SET", f"body{number}", body) for number, body in enumerate(bodies)])
    replies = speaker.call([("GET", f"body{number}") for number in range(len(bodies))])

    assert replies == bodies


def test_many_tasks_get_each_their_own_reply(server, speak):
    speaker = speak("async", hosts=server.url)

    async def ask(number):
        client = speaker.transport.for_loop()
        for turn in range(20):
            assert await client.call([("ECHO", f"{number}-{turn}"), ("PING",)]) == [
                f"{number}-{turn}".encode(),
                b"PONG",
            ]

    async def ask_all():
        await asyncio.gather(*[ask(number) for number in range(200)])

    speaker.run(ask_all())
    clients = server.do("CLIENT", "LIST").decode()
    assert clients.count("name=channels") == 1


def test_one_turn_of_the_loop_is_one_write(server):
    """Hundred calls made at once reach the server in so few reads that they cannot have been written one by one."""

    async def main():
        transport = Transport(Servers.from_options(server.address))
        client = transport.for_loop()
        await client.call([("PING",)])
        before = reads(server)
        await asyncio.gather(*[client.call([("PING",)]) for _ in range(100)])
        after = reads(server)
        transport.close()
        return after - before

    assert asyncio.run(main()) < 20


def reads(server):
    info = server.do("INFO", "stats").decode()
    return int(info.partition("total_reads_processed:")[2].split()[0])


def test_many_threads_get_each_their_own_reply_over_one_connection(server, speak):
    speaker = speak("submit", hosts=server.url)

    def ask(number):
        return [speaker.call([("ECHO", f"{number}-{turn}")]) for turn in range(50)]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))

    assert answers == [[[f"{number}-{turn}".encode()] for turn in range(50)] for number in range(16)]
    assert server.do("CLIENT", "LIST").decode().count("name=channels") == 1


# Blocking reads


@pytest.mark.parametrize("face", READERS)
def test_a_blocking_read_brings_what_comes_with_the_replies_before_it(any_server, speak, face):
    any_server.do("FLUSHALL")
    speaker = speak(face, hosts=any_server.url)
    timer = threading.Timer(0.2, any_server.do, ("XADD", "stream", "1-1", "f", "v"))
    timer.start()

    replies = speaker.block([("SET", "k", "v"), read("stream", 10_000, "$")], timeout=10)

    timer.join()
    assert replies == [b"OK", [[b"stream", [[b"1-1", [b"f", b"v"]]]]]]


@pytest.mark.parametrize("face", READERS)
def test_a_blocking_read_ends_with_its_time(server, speak, face):
    speaker = speak(face, hosts=server.url)
    begin = time.monotonic()

    assert speaker.block([read("none", 200)], timeout=0.2) == [None]

    assert 0.15 < time.monotonic() - begin < 3


@pytest.mark.parametrize("face", READERS)
def test_wake_ends_blocking_reads_from_another_thread(any_server, speak, face):
    speaker = speak(face, hosts=any_server.url)
    threading.Timer(0.2, speaker.transport.wake).start()
    begin = time.monotonic()

    assert speaker.block([read("none", 20_000)], timeout=20) == [None]

    assert time.monotonic() - begin < 5
    assert speaker.call([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("face", READERS)
def test_a_wake_that_comes_before_the_read_is_not_lost(server, speak, face):
    speaker = speak(face, hosts=server.url)
    speaker.block([read("none", 10)], timeout=0.01)

    speaker.transport.wake()
    begin = time.monotonic()

    assert speaker.block([read("none", 20_000)], timeout=20) == [None]
    assert time.monotonic() - begin < 5


def test_wake_works_from_a_signal_handler(server, speak):
    speaker = speak("sync", hosts=server.url)
    previous = signal.signal(signal.SIGALRM, lambda *_: speaker.transport.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begin = time.monotonic()
        assert speaker.block([read("none", 20_000)], timeout=20) == [None]
        assert time.monotonic() - begin < 5
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_wake_reaches_every_reader(server, speak):
    speaker = speak("async", hosts=server.url)

    async def many():
        client = speaker.transport.for_loop()
        readers = [asyncio.ensure_future(client.block([read("none", 20_000)], timeout=20)) for _ in range(10)]
        await asyncio.to_thread(
            eventually,
            lambda: server.do("INFO", "clients").decode().count("blocked_clients:10"),
            "ten readers",
        )
        speaker.transport.wake()
        return await asyncio.gather(*readers)

    assert speaker.run(many()) == [[None]] * 10


def test_a_cancelled_read_loses_no_message(any_server, speak):
    """The read is ended in the server, its connection serves on, and what it had brought comes to on_salvaged."""
    any_server.do("FLUSHALL")
    any_server.do("XGROUP", "CREATE", "work", "w", "0", "MKSTREAM")
    speaker = speak("async", hosts=any_server.url)
    take = ("XREADGROUP", "GROUP", "w", "me", "NOACK", "COUNT", 1, "BLOCK", 20_000, "STREAMS", "work", ">")
    count = 60
    got = []

    async def read_and_cancel():
        client = speaker.transport.for_loop()
        for number in range(count):
            reader = asyncio.ensure_future(client.block([take], timeout=20))
            adding = asyncio.ensure_future(client.call([("XADD", "work", "*", "n", number)]))
            for _ in range(number % 12):
                await asyncio.sleep(0)
            if number % 3 == 0:
                await asyncio.sleep(0.001)
            if not reader.done():
                reader.cancel()
            await adding
            try:
                got.append(await reader)
            except asyncio.CancelledError:
                continue

    speaker.run(read_and_cancel())
    eventually(lambda: any_server.do("INFO", "clients").decode().count("blocked_clients:0"), "no reader left")
    taken = [
        entry
        for replies in [*got, *(replies for _, replies in speaker.salvaged)]
        for entry in entries(replies)
    ]
    remaining = entries(
        speaker.call([("XREADGROUP", "GROUP", "w", "me", "NOACK", "COUNT", count, "STREAMS", "work", ">")])
    )
    assert sorted(map(int, taken + remaining)) == list(range(count))
    assert len(speaker.salvaged) > 0


def entries(replies):
    return [
        fields[1]
        for reply in replies
        if isinstance(reply, list) and reply and isinstance(reply[0], list)
        for _, found in reply
        for _, fields in found
    ]


def test_an_interrupted_read_of_a_thread_loses_no_message(server, speak):
    """An exception out of a signal handler breaks off a blocking read: what the server sent is salvaged."""
    server.do("FLUSHALL")
    server.do("XGROUP", "CREATE", "work", "w", "0", "MKSTREAM")
    speaker = speak("sync", hosts=server.url)
    take = ("XREADGROUP", "GROUP", "w", "me", "NOACK", "COUNT", 1, "BLOCK", 20_000, "STREAMS", "work", ">")

    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        server.do("XADD", "work", "*", "n", "7")  # on its way when the interrupt strikes
        raise Interrupted

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            speaker.block([take], timeout=20)
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert [entries(replies) for _, replies in speaker.salvaged] == [[b"7"]]
    assert speaker.call([("PING",)]) == [b"PONG"]


def test_a_thread_interrupted_before_the_first_reply_gets_all_replies_of_the_next_call(server, speak):
    speaker = speak("sync", hosts=server.url)
    assert speaker.call([("PING",)]) == [b"PONG"]

    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        server.resume()
        raise Interrupted

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        server.pause()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            speaker.block([("PING",), read("none", 20_000)], timeout=20, suffices=lambda replies: False)
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert speaker.call([("PING",), ("ECHO", "x")]) == [b"PONG", b"x"]


@pytest.mark.parametrize("suffices", [None, lambda replies: False])
def test_a_wake_that_comes_before_the_first_reply_ends_the_read_behind_it(server, speak, suffices):
    refused: list[object] = []

    def refuse_once(command):
        if not refused and command[:2] == [b"CLIENT", b"UNBLOCK"] and command[2] != b"0":
            refused.append(command)
            return b":0\r\n"
        return None

    with FaultyProxy(server.address, answer=refuse_once) as proxy:
        speaker = speak("sync", hosts=[proxy.address])
        assert speaker.call([("PING",)]) == [b"PONG"]
        speaker.transport.for_thread().wake()
        begin = time.monotonic()
        assert speaker.block([("PING",), read("none", 9_000)], timeout=9, suffices=suffices) == [
            b"PONG",
            None,
        ]
        assert time.monotonic() - begin < 4
    assert len(refused) == 1


@pytest.mark.parametrize("face", READERS)
def test_where_unblocking_is_refused_reads_are_short(server, speak, face):
    server.do("ACL", "SETUSER", "guest", "on", ">pw", "~*", "&*", "+@all", "-client|unblock")
    speaker = speak(face, hosts=server.url, username="guest", password="pw")
    begin = time.monotonic()

    assert speaker.block([("PING",), read("none", 20_000)], timeout=20) == [b"PONG", None]

    assert time.monotonic() - begin < 5
    assert speaker.transport.facts.can_unblock is False


# Scripts


@pytest.mark.parametrize("face", FACES)
def test_a_flushed_script_is_loaded_again_and_only_what_did_not_run_is_repeated(any_server, speak, face):
    any_server.do("FLUSHALL")
    speaker = speak(face, hosts=any_server.url, scripts=[ADD])
    speaker.call([("PING",)])
    any_server.do("SCRIPT", "FLUSH")

    replies = speaker.call(
        [
            ("RPUSH", "other", "x"),
            ADD.call(["list"], ["a"]),
            ADD.call(["list"], ["b"]),
            ("RPUSH", "other", "y"),
        ]
    )

    assert replies == [1, 1, 2, 2]
    assert any_server.do("LRANGE", "list", 0, -1) == [b"a", b"b"]
    assert any_server.do("LRANGE", "other", 0, -1) == [b"x", b"y"]


@pytest.mark.parametrize("face", READERS)
def test_a_flushed_script_before_a_blocking_read_is_repeated_and_the_read_is_not(server, speak, face):
    server.do("FLUSHALL")
    server.do("XADD", "stream", "1-1", "f", "v")
    speaker = speak(face, hosts=server.url, scripts=[ADD])
    speaker.call([("PING",)])
    server.do("SCRIPT", "FLUSH")

    replies = speaker.block([ADD.call(["list"], ["a"]), read("stream", 1000)], timeout=1)

    assert replies == [1, [[b"stream", [[b"1-1", [b"f", b"v"]]]]]]
    assert server.do("LRANGE", "list", 0, -1) == [b"a"]


def test_an_unknown_script_stays_an_error(server, speak):
    unknown = Script("unknown", "return 'nobody loaded this'")
    (reply,) = speak("sync", hosts=server.url).call([unknown.call([], [])])
    assert isinstance(reply, CommandError)
    assert reply.code == "NOSCRIPT"


# Loss and return


@pytest.mark.parametrize("face", FACES)
def test_nobody_there_is_unsent_with_who_and_why(speak, face):
    port = free_port()
    speaker = speak(face, hosts=f"redis://:secret@127.0.0.1:{port}/3")

    with pytest.raises(Unsent) as caught:
        speaker.call([("PING",)])

    assert str(caught.value).startswith(f"Not sent: redis://127.0.0.1:{port}/3 cannot be reached: ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("face", FACES)
def test_a_server_that_returns_is_used_again_with_one_line_in_the_log_each_way(speak, face, caplog):
    caplog.set_level(logging.DEBUG)
    with RedisServer() as server:
        speaker = speak(face, hosts=server.url)
        assert speaker.call([("PING",)]) == [b"PONG"]
        server.kill()
        for _ in range(3):
            with pytest.raises(TransportError):
                speaker.call([("PING",)])
        server.start()
        begin = time.monotonic()
        eventually(lambda: attempt(speaker) == [b"PONG"], "the connection's return")
        assert time.monotonic() - begin < 5
        assert speaker.transport.epoch_of() >= 1

    place = f"'redis://127.0.0.1:{server.port}'"
    lines = [record for record in caplog.records if record.name == "channels.redis"]
    assert [record.levelname for record in lines] == ["ERROR", "WARNING"]
    assert lines[0].getMessage().startswith(f"The channel layer {place} is away (Unsent: Not sent: ")
    assert lines[1].getMessage().startswith(f"The channel layer {place} is back after ")


def attempt(speaker):
    try:
        return speaker.call([("PING",)])
    except TransportError:
        return None


@pytest.mark.parametrize("face", FACES)
def test_a_connection_that_the_server_closed_at_rest_is_not_noticed(server, speak, face):
    speaker = speak(face, hosts=server.url)
    speaker.call([("PING",)])
    rest = 1.1 if face == "sync" else 0.1
    server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    time.sleep(rest)  # the blocking client looks at a connection only after it has rested

    assert speaker.call([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("face", READERS)
def test_a_server_killed_under_a_blocking_read_is_unanswered(speak, face):
    with RedisServer() as server:
        speaker = speak(face, hosts=server.url)
        speaker.call([("PING",)])
        timer = threading.Timer(0.3, server.kill)
        timer.start()
        replies = speaker.block([("PING",), read("none", 20_000)], timeout=20)
        timer.join()

    assert replies[0] == b"PONG"
    assert isinstance(replies[1], Unanswered)


@pytest.mark.parametrize("face", FACES)
def test_a_stalled_server_is_waited_for_until_the_deadline(speak, face):
    with RedisServer() as server:
        speaker = speak(face, hosts=server.url, answer_timeout=1.0)
        speaker.call([("PING",)])
        server.pause()
        threading.Timer(0.4, server.resume).start()
        assert speaker.call([("PING",)]) == [b"PONG"]

        server.pause()
        begin = time.monotonic()
        with pytest.raises(Unanswered, match=r"^No answer: 127\.0\.0\.1:\d+ has not answered for 1 s$"):
            speaker.call([("INCR", "k")])
        assert 0.8 < time.monotonic() - begin < 4
        server.resume()
        eventually(lambda: attempt(speaker), "the return")


async def test_closing_ends_who_waits(server):
    transport = Transport(Servers.from_options(server.address))
    client = transport.for_loop()
    await client.call([("PING",)])
    reader = asyncio.ensure_future(client.block([read("none", 20_000)], timeout=20))
    await asyncio.sleep(0.1)

    transport.close()

    with pytest.raises(Unanswered, match=r"^No answer: the client was closed$"):
        await reader
    with pytest.raises(Unsent, match=r"^Not sent: the client was closed\.$"):
        await client.call([("PING",)])
    with pytest.raises(Unsent, match=r"^Not sent: the transport was closed\.$"):
        transport.for_loop()
    transport.close()


def test_facts_of_every_kind_of_server(any_server, speak):
    speaker = speak("sync", hosts=any_server.url)
    before = speaker.transport.facts
    speaker.call([("PING",)])

    facts = speaker.transport.facts
    assert before is None
    assert facts is not None
    kind, _, version = any_server.kind.partition("-")
    assert facts.is_valkey == (kind == "valkey")
    assert facts.version[:2] == tuple(map(int, version.split("."))) if version else facts.version >= (9,)
    assert facts.role == "master"
    assert facts.maxmemory_policy == "noeviction"
    assert facts.is_persistent is False
    assert facts.is_cluster is False
    assert facts.can_unblock is True
    assert speaker.transport.all_facts == {f"redis://127.0.0.1:{any_server.port}": facts}


def test_clients_are_the_loops_and_the_threads_own(server):
    transport = Transport(Servers.from_options(server.address))
    try:
        mine = transport.for_thread()
        assert transport.for_thread() is mine
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(transport.for_thread).result() is not mine

        async def of_loop() -> AsyncClient:
            assert transport.for_loop() is transport.for_loop()
            return transport.for_loop()

        assert asyncio.run(of_loop()) is not asyncio.run(of_loop())
    finally:
        transport.close()


def test_a_threads_connection_ends_with_it(server, speak):
    speaker = speak("sync", hosts=server.url)
    thread = threading.Thread(target=speaker.call, args=([("PING",)],))
    thread.start()
    thread.join()

    eventually(lambda: b"name=channels" not in server.do("CLIENT", "LIST"), "the connection's end")
