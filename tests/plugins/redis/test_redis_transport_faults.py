"""The clients behind a proxy that cuts, swallows, delays and lies: no reply goes astray, nothing hangs, nothing stays.

Every command carries an id of its own, which the server writes into a list. So the server's own list says, for each
command, how often it ran: an answered one once, one called unsent never, an unanswered one once or never.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from channels_layer_redis.transport import CommandError, Script, TransportError, Unanswered, Unsent
from faulty_proxy import Fault, FaultyProxy
from redis_servers import RedisServer, eventually

FACES = ["async", "sync", "submit"]
READERS = ["async", "sync"]
NOTE = Script("note", "redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")

_numbers = itertools.count()


@pytest.fixture(scope="module")
def noted():
    with RedisServer() as server:
        server.do("XADD", "ready", "1-1", "f", "v")
        yield server


class Notes:
    """Conversations in which every command has an id, and what came of each."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.key = f"notes{next(_numbers)}"
        self.fates: dict[str, str] = {}
        self._ids = itertools.count()

    def request(self, count=2):
        ids = [f"id{next(self._ids)}" for _ in range(count)]
        return ids, [NOTE.call([self.key], [name]) for name in ids]

    def record(self, ids, outcome):
        """``outcome``: the replies, or the exception instead."""
        replies = [outcome] * len(ids) if isinstance(outcome, TransportError) else outcome
        assert len(replies) == len(ids)
        for name, reply in zip(ids, replies, strict=True):
            if isinstance(reply, Unsent):
                self.fates[name] = "unsent"
            elif isinstance(reply, Unanswered):
                self.fates[name] = "unanswered"
            else:
                assert reply == name.encode(), f"the reply {reply!r} went to {name}"
                self.fates[name] = "answered"

    def check(self):
        ran = Counter(entry.decode() for entry in self.server.do("LRANGE", self.key, 0, -1))
        for name, fate in self.fates.items():
            allowed = {"answered": {1}, "unsent": {0}, "unanswered": {0, 1}}[fate]
            assert ran[name] in allowed, f"{name} is called {fate} and ran {ran[name]} times"
        assert set(ran) <= set(self.fates)


def converse(speaker, notes, requests=2):
    """Requests at the same time where the face can, one after the other where it cannot; then a blocking read."""
    if speaker.face == "async":

        async def all_at_once():
            client = speaker.transport.for_loop()
            made = [notes.request() for _ in range(requests)]
            outcomes = await asyncio.gather(
                *[client.call(commands) for _, commands in made], return_exceptions=True
            )
            ids, commands = notes.request(1)
            commands.append(("XREAD", "BLOCK", 1, "STREAMS", "ready", "0"))
            return [
                *zip((ids for ids, _ in made), outcomes, strict=True),
                (ids, await trimmed(client, commands)),
            ]

        async def trimmed(client, commands):
            try:
                return (await client.block(commands, timeout=0.001))[:1]
            except TransportError as error:
                return error

        results = speaker.run(all_at_once())
    elif speaker.face == "submit":

        def ask(made):
            try:
                return made[0], speaker.call(made[1])
            except TransportError as error:
                return made[0], error

        with ThreadPoolExecutor(requests) as pool:
            results = list(pool.map(ask, [notes.request() for _ in range(requests)]))
    else:
        results = []
        for number in range(requests):
            ids, commands = notes.request()
            try:
                if number == requests - 1:
                    commands.append(("XREAD", "BLOCK", 1, "STREAMS", "ready", "0"))
                    outcome = speaker.block(commands, timeout=0.001)[:-1]
                else:
                    outcome = speaker.call(commands)
            except TransportError as error:
                outcome = error
            results.append((ids, outcome))
    for ids, outcome in results:
        notes.record(ids, outcome)


def assert_nothing_is_left(speaker):
    """No request waits anywhere in the client."""
    if speaker.face == "async":
        client = speaker.client
    elif speaker.face == "submit":
        client = speaker.transport._loop_thread.client
    else:
        for place in speaker.transport.for_thread()._places.values():
            assert place.socket is None or not place.socket._waiting
        return

    def is_empty():
        nodes = list(client._nodes.values())
        return not client._blocked and all(
            not node._queued and all(link.is_idle for link in list(node.links)) for node in nodes
        )

    eventually(is_empty, "an empty client")


def length_of(proxy, speaker, notes):
    """The bytes of one conversation, each way, on connections that stand."""
    converse(speaker, notes)
    proxy.disarm()
    converse(speaker, notes)
    return proxy.disarm()


@pytest.mark.timeout(100)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("face", FACES)
def test_cut_at_every_byte(noted, speak, face, direction, caplog):
    caplog.set_level(logging.CRITICAL)
    with FaultyProxy(noted.address) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE], answer_timeout=5.0)
        notes = Notes(noted)
        length = length_of(proxy, speaker, notes)[direction]
        assert length > 20
        for offset in range(length + 1):
            proxy.arm(Fault(cut_up=offset) if direction == "up" else Fault(cut_down=offset))
            converse(speaker, notes)
            proxy.disarm()
            converse(speaker, notes, 1)  # the next cut finds connections that stand
        assert_nothing_is_left(speaker)
        notes.check()
        fates = Counter(notes.fates.values())
        assert fates["answered"] > length
        assert fates["unanswered"] > length / 4


@pytest.mark.timeout(100)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("face", READERS)
def test_cut_within_the_first_commands_of_a_connection(noted, speak, face, direction, caplog):
    caplog.set_level(logging.CRITICAL)
    with FaultyProxy(noted.address) as proxy:
        measure = speak(face, hosts=proxy.address, scripts=[NOTE])
        measure.call([("PING",)])
        length = proxy.disarm()[direction]
        notes = Notes(noted)
        for offset in [*range(0, length, max(1, length // 60)), length]:
            speaker = speak(face, hosts=proxy.address, scripts=[NOTE], answer_timeout=5.0)
            proxy.arm(Fault(cut_up=offset) if direction == "up" else Fault(cut_down=offset))
            converse(speaker, notes, 1)
            proxy.disarm()
            converse(speaker, notes, 1)
            assert_nothing_is_left(speaker)
        notes.check()


@pytest.mark.parametrize("face", FACES)
def test_crumbs_change_nothing(noted, speak, face):
    with FaultyProxy(noted.address) as proxy:
        proxy.arm(Fault(crumbs=7))
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        notes = Notes(noted)
        converse(speaker, notes)
        proxy.arm(Fault(crumbs=1))
        converse(speaker, notes)
        notes.check()
        assert set(notes.fates.values()) == {"answered"}


@pytest.mark.parametrize("swallowed", ["swallow_up", "swallow_down"])
@pytest.mark.parametrize("face", FACES)
def test_a_half_open_connection_is_given_up_at_the_deadline(noted, speak, face, swallowed, caplog):
    """One after the other, where a second connection would be half open too, each takes its deadline and no more."""
    caplog.set_level(logging.CRITICAL)
    with FaultyProxy(noted.address) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE], answer_timeout=0.4, connect_timeout=0.4)
        notes = Notes(noted)
        converse(speaker, notes)
        for offset in (0, 20):
            proxy.arm(Fault(swallow_up=offset) if swallowed == "swallow_up" else Fault(swallow_down=offset))
            begin = time.monotonic()
            converse(speaker, notes)
            assert time.monotonic() - begin < 6
            proxy.disarm()
            proxy.cut()
            converse(speaker, notes)
        assert_nothing_is_left(speaker)
        notes.check()
        assert Counter(notes.fates.values())["unanswered"] > 0
        eventually(lambda: tried(speaker), "a good connection")


def tried(speaker):
    try:
        return speaker.call([("PING",)]) == [b"PONG"]
    except TransportError:
        return False


@pytest.mark.parametrize("face", READERS)
def test_a_half_open_blocking_read_ends_soon_after_its_time(noted, speak, face):
    with FaultyProxy(noted.address) as proxy:
        speaker = speak(face, hosts=proxy.address, answer_timeout=0.4)
        read = ("XREAD", "BLOCK", 300, "STREAMS", "none", "$")
        assert speaker.block([read], timeout=0.3) == [None]
        proxy.arm(Fault(swallow_down=0))
        begin = time.monotonic()
        with pytest.raises(Unanswered, match=r"has not answered for 0\.4 s"):
            speaker.block([read], timeout=0.3)
        assert 0.5 < time.monotonic() - begin < 5


@pytest.mark.parametrize("face", FACES)
def test_slow_is_not_lost(noted, speak, face):
    """Bytes that keep coming keep a connection alive, however long the whole takes."""
    with FaultyProxy(noted.address) as proxy:
        speaker = speak(face, hosts=proxy.address, answer_timeout=0.8)
        body = b"x" * 4000
        speaker.call([("SET", "slow", body)])
        proxy.arm(Fault(crumbs=500, delay=0.15))
        assert speaker.call([("GET", "slow")]) == [body]


@pytest.mark.parametrize("face", FACES)
def test_a_reader_that_does_not_read_holds_up_nothing_else(noted, speak, face):
    """More is written than the kernel takes while nothing is read: the rest waits, and is all there in the end."""
    with FaultyProxy(noted.address) as proxy:
        speaker = speak(face, hosts=proxy.address)
        speaker.call([("PING",)])
        proxy.arm(Fault(delay=0.02))
        body = b"y" * 6_000_000
        done = threading.Timer(0.5, proxy.disarm)
        done.start()
        assert speaker.call([("SET", "big", body), ("STRLEN", "big")]) == [b"OK", len(body)]
        done.join()


class Lies:
    """Answers in the server's place: the next ``count`` commands named ``name`` get ``error``."""

    def __init__(self):
        self.error = b""
        self.name = b""
        self.count = 0

    def tell(self, error, name=b"EVALSHA", count=1):
        self.error, self.name, self.count = error, name, count

    def __call__(self, command):
        if self.count and command[0] == self.name:
            self.count -= 1
            return b"-" + self.error + b"\r\n"
        return None


PASSING = [
    b"LOADING Redis is loading the dataset in memory",
    b"READONLY You can't write against a read only replica.",
    b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    b"TRYAGAIN Multiple keys request during rehashing of slot",
    b"CLUSTERDOWN The cluster is down",
    b"BUSY Redis is busy running a script.",
    b"NOREPLICAS Not enough good replicas to write.",
    b"NOSCRIPT No matching script. Please use EVAL.",
    b"ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY You can't write against a"
    b" read only replica.",
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: error.split()[0].decode() + str(len(error)))
@pytest.mark.parametrize("face", FACES)
def test_refusals_that_pass_are_repeated_in_order_and_once(noted, speak, face, error):
    lies = Lies()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        notes = Notes(noted)
        converse(speaker, notes)
        for count in (1, 2, 5):
            lies.tell(error, count=count)
            converse(speaker, notes)
            assert lies.count == 0
        ids, commands = notes.request(4)
        lies.tell(error, count=4)
        notes.record(ids, speaker.call(commands))
        notes.check()
        assert set(notes.fates.values()) == {"answered"}
        order = [entry.decode() for entry in noted.do("LRANGE", notes.key, 0, -1)]
        assert [name for name in order if name in ids] == ids


@pytest.mark.parametrize("face", FACES)
def test_refusals_that_do_not_pass_become_unsent(noted, speak, face):
    lies = Lies()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE], retry_timeout=0.3)
        notes = Notes(noted)
        lies.tell(PASSING[3], count=1000)
        ids, commands = notes.request(1)
        replies = speaker.call([*commands, ("PING",)])
        assert str(replies[0]) == f"Refused for longer than 0.3 s ({PASSING[3].decode()})"
        assert isinstance(replies[0], Unsent)
        assert replies[1] == b"PONG"
        with pytest.raises(Unsent, match=r"^Refused for longer than 0\.3 s \(TRYAGAIN "):
            speaker.call(commands)
        notes.record(ids, replies[:1])
        notes.check()


@pytest.mark.parametrize("face", FACES)
def test_redirects_of_a_server_that_is_no_cluster_stay_errors(noted, speak, face):
    lies = Lies()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        for error in (b"MOVED 1 127.0.0.1:1", b"ASK 1 127.0.0.1:1"):
            lies.tell(error)
            (reply,) = speaker.call([NOTE.call(["k"], ["v"])])
            assert isinstance(reply, CommandError)
            assert reply.text == error.decode()


@pytest.mark.parametrize("face", READERS)
def test_readonly_makes_a_new_connection(noted, speak, face):
    """As where a name leads to another server after a failover: the old connection is of no use."""
    lies = Lies()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        speaker.call([("PING",)])
        before = proxy.accepted
        lies.tell(PASSING[1])
        assert speaker.call([NOTE.call(["k"], ["v"])]) == [b"v"]
        assert proxy.accepted == before + 1


@pytest.mark.parametrize("face", READERS)
def test_a_refused_blocking_read_is_asked_again_and_keeps_what_went_before(noted, speak, face):
    noted.do("DEL", "stream")
    noted.do("XADD", "stream", "1-1", "f", "v")
    lies = Lies()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        notes = Notes(noted)
        ids, commands = notes.request(2)
        lies.tell(PASSING[3], name=b"XREAD", count=2)
        replies = speaker.block([*commands, ("XREAD", "BLOCK", 1000, "STREAMS", "stream", "0")], timeout=1)
        notes.record(ids, replies[:2])
        notes.check()
        assert replies[2] == [[b"stream", [[b"1-1", [b"f", b"v"]]]]]


@pytest.mark.parametrize("face", FACES)
def test_what_is_not_the_protocol_ends_the_connection_only(noted, speak, face):
    class Nonsense(Lies):
        def __call__(self, command):
            return b"@garbage\r\n" if super().__call__(command) else None

    lies = Nonsense()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        speaker.call([("PING",)])
        lies.tell(b"x")
        with pytest.raises(Unanswered, match="the server's bytes are not the Redis protocol"):
            speaker.call([NOTE.call(["k"], ["v"])])
        assert speaker.call([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("face", FACES)
def test_a_reply_that_nobody_asked_for_ends_the_connection_only(noted, speak, face):
    class TooMany(Lies):
        def __call__(self, command):
            return b"+one\r\n+two\r\n" if super().__call__(command) else None

    lies = TooMany()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        speaker.call([("PING",)])
        lies.tell(b"x")
        assert speaker.call([NOTE.call(["k"], ["v"])]) == [b"one"]
        time.sleep(0.05)
        eventually(lambda: tried(speaker), "a good connection")
        assert speaker.call([("ECHO", "mine")]) == [b"mine"]


@pytest.mark.parametrize("face", FACES)
def test_pushes_are_no_replies(noted, speak, face):
    class Pushes(Lies):
        def __call__(self, command):
            return b">2\r\n+invalidate\r\n*1\r\n+key\r\n+mine\r\n" if super().__call__(command) else None

    lies = Pushes()
    with FaultyProxy(noted.address, answer=lies) as proxy:
        speaker = speak(face, hosts=proxy.address, scripts=[NOTE])
        lies.tell(b"x")
        assert speaker.call([NOTE.call(["k"], ["v"]), ("PING",)]) == [b"mine", b"PONG"]


async def test_a_cancelled_call_leaves_the_queue_of_replies_in_order(noted):
    from channels_layer_redis.transport import Servers, Transport

    salvaged = []
    with FaultyProxy(noted.address) as proxy:
        transport = Transport(
            Servers.from_options(proxy.address),
            on_salvaged=lambda commands, replies: salvaged.append(replies),
        )
        client = transport.for_loop()
        await client.call([("PING",)])
        proxy.arm(Fault(delay=0.05))
        calls = [asyncio.ensure_future(client.call([("ECHO", str(number))])) for number in range(10)]
        await asyncio.sleep(0.01)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result for result in results if isinstance(result, list)] == [
            [b"1"],
            [b"3"],
            [b"5"],
            [b"7"],
            [b"9"],
        ]
        assert salvaged == [[b"0"], [b"2"], [b"4"], [b"6"], [b"8"]]
        transport.close()
        await asyncio.sleep(0.01)
