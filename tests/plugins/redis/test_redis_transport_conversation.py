"""The part of the transport without input and output: the queue of replies, segments, slots, routing, repeats."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_layer_redis.transport import CommandError, Routed, Script, Servers, Unanswered, Unsent, key_slot
from channels_layer_redis.transport.addresses import Address
from channels_layer_redis.transport.conversation import LARGE, Conversation, Disorder, Request, segments
from channels_layer_redis.transport.course import Course, Dispatch, Drop, Pause, settled
from channels_layer_redis.transport.routing import Ask, Router
from channels_layer_redis.transport.slots import routing_key
from channels_layer_redis.transport.sockets import shortened


def asked(conversation, done, *counts):
    for count in counts:
        conversation.waiting.append(Request([("PING",)] * count, done.append))


WIRE = b"+OK\r\n$5\r\nhe\r\no\r\n-ERR no\r\n:7\r\n*2\r\n$-1\r\n*1\r\n:1\r\n>2\r\n+push\r\n:1\r\n$0\r\n\r\n"
VALUES = [b"OK", b"he\r\no", CommandError, 7, [None, [1]], b""]


@given(st.lists(st.integers(0, len(WIRE)), max_size=12), st.lists(st.integers(1, 4), min_size=6, max_size=6))
def test_replies_reach_their_requests_however_the_bytes_are_cut(cuts, counts):
    conversation, done = Conversation(), list[Request]()
    wanted, left = [], len(VALUES)
    for count in counts:
        if left:
            wanted.append(min(count, left))
            left -= wanted[-1]
    asked(conversation, done, *wanted)
    edges = [0, *sorted(cuts), len(WIRE)]

    for begin, end in pairwise(edges):
        if begin < end:
            conversation.feed(WIRE[begin:end])

    assert [len(request.replies) for request in done] == wanted
    replies = [reply for request in done for reply in request.replies]
    assert [CommandError if isinstance(reply, CommandError) else reply for reply in replies] == VALUES
    assert sum(request.is_flawed for request in done) == 1
    assert not conversation.waiting


@given(st.integers(0, len(WIRE) - 1))
def test_what_is_lost_is_lost_from_a_certain_place_on(cut):
    conversation, done = Conversation(), list[Request]()
    asked(conversation, done, 2, 4)
    conversation.feed(WIRE[:cut]) if cut else None
    error = Unanswered("gone")

    conversation.lose(error)

    replies = [reply for request in done for reply in request.replies]
    assert len(replies) == 6
    known = replies.index(error)
    assert all(reply is error for reply in replies[known:])
    assert all(reply is not error for reply in replies[:known])
    assert not conversation.waiting


def test_disorder_is_told():
    conversation = Conversation()
    with pytest.raises(Disorder, match=r"^the server sent a reply that nobody asked for$"):
        conversation.feed(b"+OK\r\n")
    conversation = Conversation()
    asked(conversation, [], 1)
    with pytest.raises(Disorder, match=r"^the server's bytes are not the Redis protocol \(.+\)$"):
        conversation.feed(b"HTTP/1.1 400 Bad Request\r\n")


@given(st.lists(st.sampled_from([1, 30, LARGE - 1, LARGE, LARGE + 5]), min_size=1, max_size=8))
def test_segments_keep_order_and_leave_large_commands_alone(sizes):
    packed = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    made = segments(packed)
    assert b"".join(made) == b"".join(packed)
    for piece in packed:
        if len(piece) >= LARGE:
            assert any(piece is segment for segment in made)


def test_error_replies_know_their_code():
    assert CommandError("NOGROUP No such key").code == "NOGROUP"
    wrapped = CommandError(
        "ERR Error running script (call to f_1): @user_script:5: @user_script: 5: -OOM command not"
    )
    assert wrapped.code == "OOM"
    assert wrapped.text.startswith("ERR ")


def test_slots_are_those_of_the_cluster_specification():
    assert key_slot("123456789") == 0x31C3
    assert key_slot("{user1000}.following") == key_slot("{user1000}.followers") == key_slot(b"user1000")
    assert key_slot("foo{}{bar}") == key_slot(b"foo{}{bar}")
    assert key_slot("foo{{bar}}zap") == key_slot("{bar")
    assert key_slot("foo{}") != key_slot("")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("XADD", "k", "*", "f", "v"), "k"),
        (("GET", 7), "7"),
        (Script("s", "return 1").call(["a", "b"], ["c"]), "a"),
        (Script("s", "return 1").call([], ["c"]), None),
        (("EVAL", "return 1", 1, b"k"), b"k"),
        (("XREADGROUP", "GROUP", "w", "me", "BLOCK", 1, "STREAMS", "s1", "s2", ">", ">"), "s1"),
        (("XINFO", "STREAM", "k"), "k"),
        (("XGROUP", "CREATE", "k", "w", "0"), "k"),
        (("PING",), None),
        (("SCAN", 0), None),
        (Routed(("SCAN", 0), "there"), "there"),
        (Routed(("WAIT", 1, 100), None), None),
    ],
)
def test_the_key_is_found_in_the_command(command, key):
    assert routing_key(command) == key


def test_a_read_is_shortened_where_it_cannot_be_ended():
    assert shortened(("XREAD", "BLOCK", 5000, "STREAMS", "s", "$")) == (
        "XREAD",
        "BLOCK",
        200,
        "STREAMS",
        "s",
        "$",
    )
    assert shortened(("XREAD", "BLOCK", 0, "STREAMS", "s", "$"))[2] == 200
    assert shortened(("XREAD", "BLOCK", 50, "STREAMS", "s", "$"))[2] == 50
    assert shortened(("PING",)) == ("PING",)


# Courses

SCRIPT = Script("script", "return 1")
CLUSTER = Servers.from_options(cluster=["redis://one:1", "redis://two:2"])
ONE, TWO = Address("one", 1), Address("two", 2)


def slots_of(*ranges):
    return [[[first, last, [address.host.encode(), address.port]] for first, last, address in ranges]]


class Walk:
    """A course, step by step, with what it does in between checked by the test."""

    def __init__(self, commands, replies=None, servers=CLUSTER, **options):
        self.now = 0.0
        self.router = Router(servers)
        options = {"retry_timeout": 1.0, "clock": lambda: self.now, **options}
        self.course = Course(self.router, {SCRIPT.sha: SCRIPT}, commands, replies, **options)
        self.steps = self.course.steps()
        self.result: Any = None
        self.step: Any = next(self.steps)

    def answer(self, answer=None):
        try:
            self.step = self.steps.send(answer)
        except StopIteration as stop:
            self.step, self.result = None, stop.value
        return self.step

    def survey(self, *ranges):
        assert isinstance(self.step, Ask)
        assert list(self.step.commands) == [("CLUSTER", "SLOTS")]
        return self.answer(slots_of(*(ranges or [(0, 16383, ONE)])))


def test_a_moved_slot_is_learnt_and_the_others_keep_their_replies():
    walk = Walk([("GET", "a"), ("GET", "b"), ("GET", "a")])
    walk.survey()
    assert walk.step == Dispatch([(ONE, [("GET", "a"), ("GET", "b"), ("GET", "a")])])
    moved = CommandError(f"MOVED {key_slot('a')} two:2")
    walk.answer([[moved, b"B", moved]])
    assert walk.step == Dispatch([(TWO, [("GET", "a"), ("GET", "a")])])
    assert walk.router.address_of("a") == TWO
    walk.answer([[b"A", b"A"]])
    assert walk.result == [b"A", b"B", b"A"]


def test_asking_goes_before_each_command_and_teaches_nothing():
    walk = Walk([("GET", "a"), ("GET", "b")])
    walk.survey()
    walk.answer([[CommandError(f"ASK {key_slot('a')} :9"), b"B"]])
    assert walk.step == Dispatch([(Address("one", 9), [("ASKING",), ("GET", "a")])])
    walk.answer([[b"OK", b"A"]])
    assert walk.result == [b"A", b"B"]
    assert walk.router.address_of("a") == ONE


def test_a_script_missing_where_one_was_sent_to_ask_is_loaded_there():
    call = SCRIPT.call(["a"])
    walk = Walk([call])
    walk.survey()
    walk.answer([[CommandError(f"ASK {key_slot('a')} two:2")]])
    walk.answer([[b"OK", CommandError("NOSCRIPT No matching script.")]])
    assert walk.step == Dispatch([(TWO, [("SCRIPT", "LOAD", SCRIPT.source), ("ASKING",), call])])
    walk.answer([[b"sha", b"OK", 1]])
    assert walk.result == [1]


def test_a_master_that_is_none_is_dropped_and_the_cluster_asked_again():
    walk = Walk([("SET", "a", "1")])
    walk.survey()
    walk.router._fresh_until = 0.0
    walk.answer([[CommandError("READONLY You can't write against a read only replica.")]])
    assert walk.step == Drop(ONE)
    assert isinstance(walk.answer(), Pause)
    walk.answer()
    walk.survey((0, 16383, TWO))
    assert walk.step == Dispatch([(TWO, [("SET", "a", "1")])])
    walk.answer([[b"OK"]])
    assert walk.result == [b"OK"]


def test_patience_ends():
    walk = Walk([("SET", "a", "1"), ("GET", "b")], servers=Servers.from_options("redis://one:1"))
    walk.answer([[CommandError("TRYAGAIN later"), b"B"]])
    assert isinstance(walk.step, Pause)
    walk.answer()
    walk.now = 5.0
    walk.answer([[CommandError("TRYAGAIN later")]])
    assert isinstance(walk.result[0], Unsent)
    assert str(walk.result[0]) == "Refused for longer than 1 s (TRYAGAIN later)"
    assert walk.result[1] == b"B"


def test_a_redirect_that_never_ends_is_slowed_down_and_ends():
    walk = Walk([("GET", "a")])
    walk.survey()
    walk.router._fresh_until = float("inf")
    dispatches = 0
    while walk.step is not None:
        if isinstance(walk.step, Dispatch):
            dispatches += 1
            walk.answer([[CommandError(f"MOVED {key_slot('a')} two:2")]])
        else:
            assert isinstance(walk.step, Pause)
            walk.now += walk.step.seconds
            walk.answer()
    assert isinstance(walk.result[0], Unsent)
    assert 5 < dispatches < 40


def test_what_may_have_run_is_never_repeated():
    lost = Unanswered("gone")
    walk = Walk([("INCR", "a"), ("INCR", "b")])
    walk.survey((0, 16383, ONE))
    walk.answer([[lost, Unsent("not sent")]])
    walk.router._fresh_until = float("inf")
    assert isinstance(walk.step, Pause)
    assert walk.answer() == Dispatch([(ONE, [("INCR", "b")])])
    walk.answer([[1]])
    assert walk.result == [lost, 1]


def test_only_a_request_of_which_nothing_is_known_raises():
    unsent, unanswered, refused = Unsent("a"), Unanswered("b"), CommandError("ERR c")
    assert settled([unsent, refused]) == [unsent, refused]
    assert settled([unanswered, b"x"]) == [unanswered, b"x"]
    with pytest.raises(Unsent, match=r"^a$"):
        settled([unsent, unsent])
    with pytest.raises(Unanswered, match=r"^b$"):
        settled([unsent, unanswered])
