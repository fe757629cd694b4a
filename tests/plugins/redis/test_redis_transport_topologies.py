"""The transport on what people run: clusters that reshard, Sentinels that fail over, TLS, passwords, unix sockets."""

import asyncio
import ssl
import threading
import time
from functools import partial

import pytest

from channels_layer_redis.transport import CommandError, Routed, Script, TransportError, Unsent, key_slot
from faulty_proxy import FaultyProxy
from redis_servers import RedisCluster, RedisSentinel, RedisServer, eventually, tls_files

FACES = ["async", "sync", "submit"]
READERS = ["async", "sync"]
PUSH = Script("push", "return redis.call('RPUSH', KEYS[1], ARGV[1])")


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster() as cluster:
        yield cluster


@pytest.mark.parametrize("face", FACES)
def test_a_cluster_is_found_from_any_of_its_nodes(cluster, speak, face):
    speaker = speak(face, cluster=[cluster.hosts[1]], scripts=[PUSH])
    names = [f"{face}{{k{number}}}" for number in range(50)]

    replies = speaker.call([PUSH.call([name], [name]) for name in names])

    assert replies == [1] * len(names)
    assert speaker.call([("LRANGE", name, 0, -1) for name in names]) == [[name.encode()] for name in names]
    assert {cluster.owner_of(key_slot(name)).port for name in names} == {
        server.port for server in cluster.masters
    }
    assert speaker.transport.facts.is_cluster


@pytest.mark.parametrize("face", FACES)
def test_one_key_for_each_server(cluster, speak, face):
    speaker = speak(face, cluster=cluster.hosts)
    speaker.call([("PING",)])

    keys = speaker.transport.servers_keys()
    replies = speaker.call([Routed(("CLUSTER", "MYID"), key) for key in keys])

    assert sorted(replies) == sorted(cluster.id_of(server).encode() for server in cluster.masters)


@pytest.mark.parametrize("face", READERS)
def test_a_slot_that_moved_is_followed(cluster, speak, face):
    speaker = speak(face, cluster=cluster.hosts, scripts=[PUSH])
    name = f"moved-{face}{{m}}"
    assert speaker.call([PUSH.call([name], ["0"])]) == [1]
    slot = key_slot(name)
    source = cluster.owner_of(slot)
    target = next(server for server in cluster.masters if server is not source)

    cluster.move(slot, target)

    assert speaker.call([PUSH.call([name], [str(number)]) for number in range(1, 5)]) == [2, 3, 4, 5]
    assert speaker.call([("LRANGE", name, 0, -1)]) == [[b"0", b"1", b"2", b"3", b"4"]]
    cluster.move(slot, source)


@pytest.mark.parametrize("face", READERS)
def test_a_slot_on_the_move_is_asked_for_where_its_key_is(cluster, speak, face):
    """ASK for a key that has gone or never was, TRYAGAIN for keys on both sides, and order kept throughout."""
    speaker = speak(face, cluster=cluster.hosts, scripts=[PUSH])
    here, there = f"here-{face}{{a}}", f"there-{face}{{a}}"
    slot = key_slot(here)
    speaker.call([PUSH.call([here], ["0"])])
    source = cluster.owner_of(slot)
    target = next(server for server in cluster.masters if server is not source)
    cluster.begin_move(slot, target)

    replies = speaker.call(
        [
            PUSH.call([here], ["1"]),
            PUSH.call([there], ["0"]),
            PUSH.call([here], ["2"]),
            PUSH.call([there], ["1"]),
        ]
    )
    assert replies == [2, 1, 3, 2]

    both = Script("both", "return redis.call('RPUSH', KEYS[2], redis.call('LLEN', KEYS[1]))")
    timer = threading.Timer(
        0.3, lambda: (cluster.move_keys(slot, source, target), cluster.end_move(slot, target))
    )
    timer.start()
    assert speaker.call([("EVAL", both.source, 2, here, there)]) == [3]
    timer.join()
    assert speaker.call([("LRANGE", there, 0, -1)]) == [[b"0", b"1", b"3"]]
    cluster.move(slot, source)


@pytest.mark.parametrize("face", READERS)
def test_a_blocking_read_follows_its_stream(cluster, speak, face):
    speaker = speak(face, cluster=cluster.hosts)
    stream = f"stream-{face}{{b}}"
    slot = key_slot(stream)
    speaker.call([("XADD", stream, "1-1", "f", "v")])
    source = cluster.owner_of(slot)
    target = next(server for server in cluster.masters if server is not source)
    timer = threading.Timer(0.3, cluster.move, (slot, target))
    timer.start()
    read = ("XREAD", "BLOCK", 10_000, "STREAMS", stream, "1-1")
    adding = threading.Timer(0.8, lambda: cluster.owner_of(slot).do("XADD", stream, "2-1", "f", "w"))
    adding.start()

    replies = speaker.block([("PING",), read], timeout=10)

    timer.join()
    adding.join()
    assert replies == [b"PONG", [[stream.encode(), [[b"2-1", [b"f", b"w"]]]]]]
    cluster.move(slot, source)


async def test_order_of_a_key_is_kept_while_its_slot_wanders(cluster):
    """Many tasks send at once, each waits for its reply before the next; slots go to and fro meanwhile."""
    from channels_layer_redis.transport import Servers, Transport

    transport = Transport(Servers.from_options(cluster=cluster.hosts, retry_timeout=10.0), scripts=[PUSH])
    client = transport.for_loop()
    names = [f"wander{{w{number % 3}}}{number}" for number in range(9)]
    stop = asyncio.Event()
    counts = dict.fromkeys(names, 0)

    async def send(name):
        while not stop.is_set():
            first = counts[name]
            replies = await client.call([PUSH.call([name], [str(first + step)]) for step in range(3)])
            assert replies == [first + 1, first + 2, first + 3]
            counts[name] += 3

    senders = [asyncio.ensure_future(send(name)) for name in names]
    slots = {key_slot(name) for name in names}
    for slot in slots:
        source = await asyncio.to_thread(cluster.owner_of, slot)
        for target in cluster.masters:
            if target is not source:
                await asyncio.to_thread(cluster.move, slot, target)
        await asyncio.to_thread(cluster.move, slot, source)
    stop.set()
    await asyncio.gather(*senders)
    for name in names:
        (found,) = await client.call([("LRANGE", name, 0, -1)])
        assert found == [str(number).encode() for number in range(counts[name])]
        assert counts[name] > 0
    transport.close()
    await asyncio.sleep(0.01)


def test_a_cluster_master_that_dies_is_replaced(speak):
    with RedisCluster(replicas=1) as cluster:
        speaker = speak("sync", cluster=cluster.hosts, retry_timeout=0.5)
        name = "k{dead}"
        assert speaker.call([("SET", name, "1")]) == [b"OK"]
        owner = cluster.owner_of(key_slot(name))
        owner.kill()

        def works():
            try:
                return speaker.call([("SET", name, "2")]) == [b"OK"]
            except TransportError:
                return False

        eventually(works, "a new master", 25)
        assert speaker.call([("GET", name)]) == [b"2"]


def test_a_node_of_a_cluster_as_a_single_server_says_what_to_do(cluster, speak):
    speaker = speak("sync", hosts=[cluster.hosts[0]])
    with pytest.raises(
        Unsent, match=r"the server is a node of a cluster: name the cluster's nodes in the option cluster$"
    ):
        speaker.call([("PING",)])


def test_a_single_server_as_a_cluster_says_what_to_do(server, speak):
    speaker = speak("sync", cluster=[server.address])
    with pytest.raises(
        Unsent, match=r"is no node of a cluster\. Remove the option cluster, or name the cluster's nodes"
    ):
        speaker.call([("PING",)])


@pytest.mark.parametrize("face", FACES)
def test_several_plain_servers_share_the_keys(speak, face):
    with RedisServer() as one, RedisServer() as other:
        speaker = speak(face, hosts=[one.url, other.url])
        names = [f"k{{{number}}}" for number in range(40)]
        assert speaker.call([("SET", name, name) for name in names]) == [b"OK"] * 40
        assert speaker.call([("GET", name) for name in names]) == [name.encode() for name in names]
        sizes = one.do("DBSIZE"), other.do("DBSIZE")
        assert sum(sizes) == 40
        assert min(sizes) > 5
        other.kill()
        replies = speaker.call([("SET", name, name) for name in names])

        assert sum(isinstance(reply, TransportError) for reply in replies) == sizes[1]


# Sentinel


@pytest.mark.timeout(90)
def test_sentinels_name_the_master_and_its_successor(speak):
    with RedisSentinel() as watched:
        speakers = [speak(face, hosts=watched.options, scripts=[PUSH]) for face in FACES]
        for speaker in speakers:
            assert speaker.call([PUSH.call([speaker.face], ["1"])]) == [1]
        first = watched.master()
        first.do("WAIT", 1, 2000)

        watched.failover()

        for speaker in speakers:
            eventually(partial(pushed, speaker), "the new master")
            assert speaker.transport.facts.role == "master"

        second = watched.master()
        assert second is not first
        second.do("WAIT", 1, 5000)
        watched.kill_master()
        for speaker in speakers:
            eventually(partial(pushed, speaker), "the master after it", 30)


def pushed(speaker):
    try:
        (reply,) = speaker.call([PUSH.call([speaker.face], ["x"])])
    except TransportError:
        return False
    return isinstance(reply, int)


def test_unknown_master_says_who_was_asked(speak):
    sentinel = RedisServer(arguments=["sentinel.conf", "--sentinel"])
    sentinel._options = {}
    (sentinel.folder / "sentinel.conf").write_text(f"port {sentinel.port}\n")
    with sentinel:
        speaker = speak("sync", sentinels=[sentinel.address], master_name="nobody")
        with pytest.raises(Unsent) as caught:
            speaker.call([("PING",)])
    place = f"127.0.0.1:{sentinel.port}"
    assert str(caught.value) == (
        f"Not sent: 'nobody' of the Sentinels redis://{place} cannot be reached: No Sentinel says where the master"
        f" 'nobody' is ({place}: does not know it). Check master_name and the addresses of the Sentinels."
    )


# Ways in


@pytest.mark.parametrize("face", FACES)
def test_tls(server, speak, tmp_path, face):
    files = tls_files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    with FaultyProxy(server.address, tls=context) as front:
        url = f"rediss://127.0.0.1:{front.port}/0"
        speaker = speak(face, hosts=url, tls={"ca": files["ca"]}, scripts=[PUSH])
        body = b"z" * 2_000_000
        assert speaker.call([("SET", "tls", body), ("GET", "tls"), ("PING",)]) == [b"OK", body, b"PONG"]
        if face != "submit":
            begin = time.monotonic()
            threading.Timer(0.2, speaker.transport.wake).start()
            assert speaker.block([("XREAD", "BLOCK", 9000, "STREAMS", "none", "$")], timeout=9) == [None]
            assert time.monotonic() - begin < 5
        by_url = speak(face, hosts=f"{url}?ssl_ca_certs={files['ca']}")
        assert by_url.call([("PING",)]) == [b"PONG"]
        stranger = speak(face, hosts=url)
        with pytest.raises(Unsent, match="certificate verify failed"):
            stranger.call([("PING",)])
        unchecked = speak(face, hosts=url, tls={"verify": False})
        assert unchecked.call([("PING",)]) == [b"PONG"]


def test_tls_checks_the_hosts_name(server, speak, tmp_path):
    files = tls_files(tmp_path, "other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    with FaultyProxy(server.address, tls=context) as front:
        url = f"rediss://127.0.0.1:{front.port}"
        with pytest.raises(Unsent, match="certificate verify failed"):
            speak("sync", hosts=url, tls={"ca": files["ca"]}).call([("PING",)])
        trusting = speak("sync", hosts=url, tls={"ca": files["ca"], "check_hostname": False})
        assert trusting.call([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("face", FACES)
def test_user_and_password(any_server, speak, face):
    any_server.do("ACL", "SETUSER", "worker", "on", ">s3cret/pw", "~*", "&*", "+@all")
    url = f"redis://worker:s3cret%2Fpw@127.0.0.1:{any_server.port}/2"
    assert speak(face, hosts=url).call([("ACL", "WHOAMI")]) == [b"worker"]

    given = []

    def provider():
        given.append(1)
        return "worker", "s3cret/pw"

    assert speak(face, hosts=any_server.url, credentials=provider).call([("ACL", "WHOAMI")]) == [b"worker"]
    assert given

    with pytest.raises(Unsent) as caught:
        speak(face, hosts=url.replace("s3cret", "wrong")).call([("PING",)])
    assert "the server refused AUTH: WRONGPASS" in str(caught.value)
    assert "wrong%2F" not in str(caught.value)
    assert "wrong/pw" not in str(caught.value)


@pytest.mark.parametrize("face", FACES)
def test_a_provider_that_fails_is_named(server, speak, face):
    def provider():
        raise LookupError("no token today")

    with pytest.raises(Unsent, match=r"the provider of credentials failed \(LookupError: no token today\)$"):
        speak(face, hosts=server.url, credentials=provider).call([("PING",)])


@pytest.mark.parametrize("face", FACES)
def test_without_a_password_where_one_is_needed(speak, face):
    with RedisServer(requirepass="pw") as server:
        with pytest.raises(Unsent, match="the server refused CLIENT ID: NOAUTH Authentication required"):
            speak(face, hosts=server.url).call([("PING",)])
        assert speak(face, hosts=server.url, password="pw").call([("PING",)]) == [b"PONG"]


@pytest.mark.parametrize("face", FACES)
def test_unix_socket_and_database(any_server, speak, face):
    speaker = speak(face, hosts=f"unix://{any_server.socket_path}?db=3")
    assert speaker.call([("SET", f"unix-{face}", "1")]) == [b"OK"]
    with any_server.client(db=3) as client:
        assert client.get(f"unix-{face}") == b"1"


@pytest.mark.parametrize("face", FACES)
def test_a_user_who_may_little_can_still_work(server, speak, face):
    """Servers of others refuse CONFIG, INFO and more; what is not told is not known, and nothing else."""
    server.do(
        "ACL",
        "SETUSER",
        "little",
        "on",
        ">pw",
        "~*",
        "+client|id",
        "+auth",
        "+set",
        "+evalsha",
        "+script|load",
    )
    speaker = speak(face, hosts=server.url, username="little", password="pw", scripts=[PUSH])
    (first, second) = speaker.call([("SET", "k", "v"), ("GET", "k")])
    assert first == b"OK"
    assert isinstance(second, CommandError)
    assert second.code == "NOPERM"
    facts = speaker.transport.facts
    assert facts.version == ()
    assert facts.is_persistent is None
