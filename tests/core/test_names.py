"""The grammar of names, and what is said about names outside it."""

import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_core import names
from channels_core.exceptions import ChannelsError, InvalidNameError
from channels_core.names import (
    check_channel,
    check_group,
    check_receivable,
    is_process_specific,
    is_single_reader,
    new_id,
    prefix_of,
    process_of,
    redact,
)

RULE = "Use 1 to 99 ASCII letters, digits, '.', '-' and '_'"
CHANNEL_RULE = f"{RULE}, with at most one '?' or '!' and something on both sides of it."
GROUP_RULE = f"{RULE}; a group name has no '?' or '!'."
RECEIVE_RULE = f"{RULE}, then nothing, '!' or '?something'."
LETTERS = string.ascii_letters + string.digits + ".-_"

PLAIN = ["a", "chat", "websocket.receive", "a-b_c.D9", "-", ".", "_", "0", "x" * 99]
MARKED = ["http.request?abc", "websocket.send.proc!local", "a?b", "a!b", "x" * 49 + "!" + "y" * 49]
BAD = ["", "?", "!", "a?", "a!", "?a", "!a", "a?b?c", "a!b!c", "a?b!c", "a b", "a/b", "a:b", "a\n", "chat\n", "ä", "á",
       "a\x00", "\u0430", "\uff11", "a,b", "a*", "{}", "'"]  # fmt: skip  # a table


@pytest.mark.parametrize("name", [*PLAIN, *MARKED])
def test_channels_in_the_grammar(name: str) -> None:
    assert check_channel(name) == name
    assert check_channel(name) == name, "also when it is known"


@pytest.mark.parametrize("name", BAD)
def test_channels_outside_the_grammar(name: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidNameError) as caught:
            check_channel(name)
        assert str(caught.value) == f"{name!r} is not a channel name. {CHANNEL_RULE}"


@pytest.mark.parametrize("name", PLAIN)
def test_groups_in_the_grammar(name: str) -> None:
    assert check_group(name) == name
    assert check_group(name) == name


@pytest.mark.parametrize("name", [*MARKED, *BAD])
def test_groups_outside_the_grammar(name: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_group(name)
    assert str(caught.value) == f"{name!r} is not a group name. {GROUP_RULE}"


@pytest.mark.parametrize("name", [*PLAIN, "a?b", "a!", "websocket.send.proc!"])
def test_names_to_receive_from(name: str) -> None:
    assert check_receivable(name) == name


@pytest.mark.parametrize("name", ["", "?", "!", "a?", "?a", "a b", "a?b?c", "ä"])
def test_names_not_to_receive_from(name: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_receivable(name)
    assert str(caught.value) == f"{name!r} is not a name to receive from. {RECEIVE_RULE}"


def test_a_full_process_specific_name_is_read_by_its_prefix() -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_receivable("websocket.send.proc!abcdefgh")
    assert str(caught.value) == (
        "Cannot receive from 'websocket.send.proc!abcd...': a process-specific channel is read by its prefix."
        " Ask for 'websocket.send.proc!' and look at the full name that comes back."
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NoneType: None"),
        (5, "int: 5"),
        (b"chat", "bytes: b'chat'"),
        (["chat"], "list: ['chat']"),
        ({}, "dict: {}"),
    ],
)
def test_a_name_is_text(value: Any, shown: str) -> None:
    for check, kind, rule in (
        (check_channel, "channel name", CHANNEL_RULE),
        (check_group, "group name", GROUP_RULE),
        (check_receivable, "name to receive from", RECEIVE_RULE),
    ):
        with pytest.raises(InvalidNameError) as caught:
            check(value)
        assert str(caught.value) == f"A {kind} is text, not {shown}. {rule}"


def test_a_name_is_not_too_long() -> None:
    for check, kind, rule in (
        (check_channel, "channel name", CHANNEL_RULE),
        (check_group, "group name", GROUP_RULE),
        (check_receivable, "name to receive from", RECEIVE_RULE),
    ):
        with pytest.raises(InvalidNameError) as caught:
            check("x" * 100)
        assert str(caught.value) == (
            f"The {kind} 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'... has 100 characters; 99 are allowed. {rule}"
        )


def test_a_wrong_name_is_a_type_error() -> None:
    assert issubclass(InvalidNameError, TypeError)
    assert issubclass(InvalidNameError, ChannelsError)


@given(st.text(alphabet=LETTERS + "?!", min_size=1, max_size=12) | st.text(max_size=8))
def test_the_grammar_is_what_it_says(name: str) -> None:
    parts = re.split("[?!]", name)
    is_channel = len(parts) <= 2 and all(part and set(part) <= set(LETTERS) for part in parts)
    for check, is_good in ((check_channel, is_channel), (check_group, is_channel and len(parts) == 1)):
        if is_good:
            assert check(name) == name
        else:
            with pytest.raises(InvalidNameError):
                check(name)


def test_a_flood_of_names_is_not_remembered() -> None:
    for number in range(10_000):
        check_channel(f"flood.{number}")
        check_group(f"flood.{number}")
    assert len(names.known_channels) <= 4096
    assert check_channel("flood.1") == "flood.1"


# Ids and parts of names.


def test_ids_are_unguessable_and_fit_a_name() -> None:
    ids = {new_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(re.fullmatch("[a-z2-7]{26}", one) for one in ids)
    assert len({one[-2:] for one in ids}) > 50, "the end is as random as the beginning"
    assert check_channel(f"websocket.send.{new_id()}!{new_id()}")


@pytest.mark.parametrize(
    ("name", "prefix", "has_process_mark", "has_reader_mark"),
    [
        ("chat", "chat", False, False),
        ("http.request?abc", "http.request?abc", False, True),
        ("websocket.send.proc!local", "websocket.send.proc!", True, False),
        ("websocket.send.proc!", "websocket.send.proc!", True, False),
    ],
)
def test_parts_of_a_name(name: str, prefix: str, has_process_mark: bool, has_reader_mark: bool) -> None:
    assert prefix_of(name) == prefix
    assert (is_process_specific(name), is_single_reader(name)) == (has_process_mark, has_reader_mark)


ID = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("name", "process"),
    [
        (f"websocket.send.{ID}!local", ID),
        (f"websocket.send.{ID}!", ID),
        (f"{ID}!", ID),
        (f"a.{ID}.{ID[::-1]}!x", ID[::-1]),
        ("websocket.send.proc!local", None),
        (f"websocket.send.{ID}x!local", None),
        (f"websocket.send.{ID[:-1]}!local", None),
        (f"websocket.send-{ID}!local", None),
        (f"websocket.send.{ID.upper()}!local", None),
        (f"websocket.send.{ID}", None),
        (f"websocket.send.{ID}?local", None),
        (f"a!{ID}!", None),
    ],
)
def test_the_process_that_owns_a_name(name: str, process: str | None) -> None:
    assert process_of(name) == process


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("chat", "chat"),
        ("websocket.send.proc!abcdefgh", "websocket.send.proc!abcd..."),
        ("http.body?abcdefgh", "http.body?abcd..."),
        ("a!abcd", "a!abcd"),
        ("a!", "a!"),
    ],
)
def test_what_a_log_may_show_of_a_name(name: str, shown: str) -> None:
    assert redact(name) == shown
