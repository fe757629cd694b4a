"""What a message may carry: a table of every kind, allowed and refused, with the texts."""

import datetime as dt
import decimal
import enum
import uuid
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_core.exceptions import ChannelsError, InvalidMessageError
from channels_core.message import MAX_DEPTH, check_headers, normalise

ALLOWED = (
    "A message holds dicts with text keys, lists, text, bytes, integers of 64 bits, finite floats, booleans"
    " and None"
)


class SafeText(str):
    __slots__ = ("mark",)


class Colour(str, enum.Enum):  # noqa: UP042 - what is tested is an enum with a plain base
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Celsius(float):
    pass


class Blob(bytes):
    pass


Point = namedtuple("Point", "x y")


class LyingText(str):
    def __str__(self) -> str:
        return "another text"


class LyingInt(int):
    def __int__(self) -> int:
        return -1


def exact(value: object) -> object:
    """``value`` in a shape that is equal only where the types are too."""
    if isinstance(value, dict):
        return type(value), {key: exact(item) for key, item in value.items()}, [type(key) for key in value]
    if isinstance(value, list):
        return type(value), [exact(item) for item in value]
    return type(value), value.hex() if isinstance(value, float) else value


PLAIN: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 0.0, -0.0, 1.5, 5e-324, 1.7976931348623157e308,
    "", "text", "naïve ☃ 𝄞", "\x00\r\n", b"", b"\x00\xff", [], {}, [[]], [{}], {"": ""},
    [1, [2.0, ["three", [b"4", {"five": None}]]]], {"ключ": {"a": [True]}},
]  # fmt: skip  # a table


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_stay_what_they_are(value: Any) -> None:
    for content in ({"key": value}, {"key": [value]}, {"key": {"inner": value}}):
        assert exact(normalise(content)[0]) == exact(content)


CHANGED: list[tuple[Any, Any]] = [
    (SafeText("safe"), "safe"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Celsius(20.5), 20.5),
    (Blob(b"blob"), b"blob"),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    ((1, 2), [1, 2]),
    ((), []),
    (Point(1, (2, 3)), [1, [2, 3]]),
    ([(1,), OrderedDict(b=(2,))], [[1], {"b": [2]}]),
    ({SafeText("key"): 1}, {"key": 1}),
    ({Colour.RED: Level.HIGH}, {"red": 3}),
    (LyingText("the text"), "the text"),
    (LyingInt(5), 5),
]


@pytest.mark.parametrize(("value", "plain"), CHANGED, ids=lambda value: repr(value)[:30])
def test_kinds_of_plain_values_become_plain(value: Any, plain: Any) -> None:
    for content, expected in (
        ({"key": value}, {"key": plain}),
        ({"key": [value]}, {"key": [plain]}),
        ({"key": {"inner": value}}, {"key": {"inner": plain}}),
    ):
        assert exact(normalise(content)[0]) == exact(expected)


def test_the_message_itself_and_its_keys_become_plain() -> None:
    content = OrderedDict([(SafeText("safe"), 1), (Colour.RED, 2)])
    assert exact(normalise(content)[0]) == exact({"safe": 1, "red": 2})


def test_lazy_translations_are_forced() -> None:
    lazy = pytest.importorskip("django.utils.functional").lazystr("plain")
    content = {"key": lazy, "list": [lazy], "inner": {lazy: 1}, lazy: 2}
    assert exact(normalise(content)[0]) == exact(
        {"key": "plain", "list": ["plain"], "inner": {"plain": 1}, "plain": 2}
    )


def nested(levels: int, wrap: Callable[[Any], Any]) -> dict[str, Any]:
    value: Any = "leaf"
    for _ in range(levels):
        value = wrap(value)
    return {"key": value}


REFUSED: list[tuple[Any, str]] = [
    (float("nan"), "the float nan is not finite; send None or text"),
    (float("inf"), "the float inf is not finite; send None or text"),
    (-float("inf"), "the float -inf is not finite; send None or text"),
    (Celsius("nan"), "the float nan is not finite; send None or text"),
    (2**63, "the integer 9223372036854775808 does not fit into 64 bits; send it as text"),
    (-(2**63) - 1, "the integer -9223372036854775809 does not fit into 64 bits; send it as text"),
    (LyingInt(2**64), "the integer 18446744073709551616 does not fit into 64 bits; send it as text"),
    ("\ud800", "the text '\\ud800' has a lone surrogate, which UTF-8 cannot carry"),
    (SafeText("a\udfff"), "the text 'a\\udfff' has a lone surrogate, which UTF-8 cannot carry"),
    (bytearray(b"x"), "bytearray(b'x') is bytearray; send bytes(value)"),
    ({1}, "{1} is set; send a list"),
    (frozenset({1}), "frozenset({1}) is frozenset; send a list"),
    (dt.date(2024, 1, 2), "datetime.date(2024, 1, 2) is date; send value.isoformat()"),
    (
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
        "datetime.datetime(2024, 1, 2, 0, 0, tzinfo=datetime.timezone.utc) is datetime; send value.isoformat()",
    ),
    (decimal.Decimal("1.5"), "Decimal('1.5') is Decimal; send str(value)"),
    (uuid.UUID(int=1), "UUID('00000000-0000-0000-0000-000000000001') is UUID; send str(value)"),
    (1j, "1j is complex; turn it into one of these before sending"),
    (Ellipsis, "Ellipsis is ellipsis; turn it into one of these before sending"),
    (range(3), "range(0, 3) is range; turn it into one of these before sending"),
    (UserDict(), "{} is UserDict; turn it into one of these before sending"),
    (int, "<class 'int'> is type; turn it into one of these before sending"),
    ({1: 2}, "the key 1 is int, not text"),
    ({None: 2}, "the key None is NoneType, not text"),
    ({b"a": 2}, "the key b'a' is bytes, not text"),
    ({"\ud800": 2}, "the text '\\ud800' has a lone surrogate, which UTF-8 cannot carry"),
]


def error_of(content: Any) -> str:
    with pytest.raises(InvalidMessageError) as caught:
        normalise(content)
    return str(caught.value)


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=lambda value: repr(value)[:30])
def test_what_no_layer_could_carry_is_refused_with_its_place(value: Any, reason: str) -> None:
    place = f"[{next(iter(value))!r}]" if isinstance(value, dict) else ""
    for content, path in (
        ({"key": value}, "['key']"),
        ({"fine": 1, "key": [0, value]}, "['key'][1]"),
        ({"key": {"inner": (1, 2, {"deep": value})}}, "['key']['inner'][2]['deep']"),
    ):
        assert error_of(content) == f"The message cannot be sent: at {path}{place}, {reason}. {ALLOWED}."


def test_a_memoryview_is_refused_with_its_remedy() -> None:
    assert " is memoryview; send bytes(value). " in error_of({"key": memoryview(b"x")})


@pytest.mark.parametrize("key", [1, None, b"a", 1.5, ("a",)])
def test_keys_are_text(key: Any) -> None:
    shown = f"the key {key!r} is {type(key).__name__}, not text"
    assert error_of({key: 1}) == f"The message cannot be sent: at [{key!r}], {shown}. {ALLOWED}."


@pytest.mark.parametrize("content", [None, [], "text", b"bytes", 5, [("a", 1)], UserDict(a=1)], ids=repr)
def test_a_message_is_a_dict(content: Any) -> None:
    assert error_of(content) == f"A message is a dict, not {type(content).__name__}: {content!r}. {ALLOWED}."


def test_the_reserved_key_is_refused() -> None:
    for content in (
        {"__asgi_channel__": 1},
        {"a": [], "__asgi_channel__": "x"},
        {SafeText("__asgi_channel__"): 1},
    ):
        assert error_of(content) == (
            "The key '__asgi_channel__' is reserved for layers: leave it out of the message."
        )
    assert normalise({"inner": {"__asgi_channel__": 1}})[0] == {"inner": {"__asgi_channel__": 1}}


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"k": value}, lambda value: (value,)])
def test_nesting_has_a_limit(wrap: Callable[[Any], Any]) -> None:
    deepest = nested(MAX_DEPTH - 1, wrap)
    assert normalise(deepest)[0] == normalise(normalise(deepest)[0])[0]
    error = error_of(nested(MAX_DEPTH, wrap))
    assert f"it is nested deeper than {MAX_DEPTH}. " in error
    assert error.count("[") == 8, "a long path is shortened"


def test_a_message_that_holds_itself_is_refused() -> None:
    content: dict[str, Any] = {"list": []}
    content["list"].append(content)
    assert f"it is nested deeper than {MAX_DEPTH}. " in error_of(content)


def test_long_values_are_shortened_in_the_text() -> None:
    assert len(error_of({"key": "\ud800" * 10_000})) < 400
    assert len(error_of({"key": 10**4000})) < 400
    assert len(error_of(["x"] * 10_000)) < 400
    assert len(error_of({"key": {"x" * 10_000: object()}})) < 10_600


def test_a_wrong_message_is_a_type_error_and_a_value_error() -> None:
    assert issubclass(InvalidMessageError, TypeError)
    assert issubclass(InvalidMessageError, ValueError)
    assert issubclass(InvalidMessageError, ChannelsError)


def test_the_copy_shares_nothing_with_the_original() -> None:
    content: dict[str, Any] = {"flat": 1, "list": [1, [2]], "dict": {"a": {"b": []}}}
    plain, _ = normalise(content)
    content["list"][1].append(3)
    content["dict"]["a"]["b"].append(3)
    content["more"] = 1
    assert plain == {"flat": 1, "list": [1, [2]], "dict": {"a": {"b": []}}}
    flat: dict[str, Any] = {"text": "x"}
    copied, _ = normalise(flat)
    flat["text"] = "y"
    assert copied == {"text": "x"}


def test_the_size_is_about_that_of_the_content() -> None:
    for content in (
        {"text": "x" * 1000},
        {"bytes": b"x" * 1000},
        {"list": ["x" * 100] * 10},
        {"text": "ä" * 500},
    ):
        assert 1000 <= normalise(content)[1] <= 1100
    assert normalise({})[1] < 50


PLAIN_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(
    PLAIN_VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
MESSAGES = st.dictionaries(st.text().filter(lambda key: key != "__asgi_channel__"), VALUES, max_size=6)


@given(MESSAGES)
def test_any_plain_message_stays_what_it_is(content: dict[str, Any]) -> None:
    plain, size = normalise(content)
    assert exact(plain) == exact(content)
    assert plain is not content
    assert size >= sum(len(key) for key in content)


@given(st.recursive(PLAIN_VALUES | st.floats() | st.integers() | st.text(st.characters()) | st.dates()
                    | st.sets(st.integers(), max_size=2), lambda inner: st.lists(inner) | st.tuples(inner)
                    | st.dictionaries(st.text() | st.integers(), inner), max_leaves=12))  # fmt: skip  # one expression
def test_anything_else_is_refused_or_made_plain_but_never_breaks(value: Any) -> None:
    try:
        plain, _ = normalise({"key": value})
    except InvalidMessageError as error:
        text = str(error)
    else:
        text = "The message cannot be sent: at ['key']"
        assert exact(normalise(plain)[0]) == exact(plain)
    assert text.startswith("The message cannot be sent: at ['key']")


# Headers.


def test_headers_are_text_to_text_or_number() -> None:
    headers: dict[str, str | int] = {"c-at": 2**63 - 1, "trace": "naïve", "low": -(2**63), "empty": ""}
    copied = check_headers(headers)
    assert copied == headers
    assert copied is not headers


BAD_HEADERS: list[tuple[Any, Any]] = [
    ("x", None), ("x", True), ("x", 1.5), ("x", b"x"), ("x", 2**63), ("x", "\ud800"), ("x", ["a"]),
    ("", "x"), ("ä", "x"), (5, "x"), (None, "x"), (b"x", "x"),
]  # fmt: skip  # a table


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS, ids=repr)
def test_other_headers_are_refused(name: Any, value: Any) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        check_headers({"fine": 1, name: value})
    assert str(caught.value) == (
        f"The header {name!r}: {value!r} cannot be sent: a header name is ASCII text, its value text or an integer of"
        " 64 bits. Put anything else into the content."
    )
