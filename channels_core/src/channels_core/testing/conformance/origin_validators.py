"""The laws of origin validators as tests. A validator's author says what it lets in, and runs them::

import pytest
from channels_core.testing.conformance.origin_validators import OriginValidatorConformance
from intranet.origins import IntranetOnly


class TestIntranetOnly(OriginValidatorConformance):
    allowed = ["https://wiki.intranet.example"]
    refused = ["https://example.com", "http://wiki.intranet.example"]

    @pytest.fixture
    def validator(self):
        return IntranetOnly()
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_core.origins import OriginValidator

__all__ = ["OriginValidatorConformance"]

_NO_PAGES = (
    "", " ", "null", "NULL", "None", "*", "/", "//", "://", ":", "http", "http:", "http:/", "http://", "https://",
    "http:///", "http://:80", "http://@", "http://[", "http://[]", "http://]", "http://?", "http://#", "file://",
    "file:///etc/passwd", "about:blank", "data:text/html,x", "javascript:alert(1)", "\x00", "\r\n", "http://\x00",
    "http://\ud800",
)  # fmt: skip  # the formatter would give each a line

_texts = st.text() | st.text(alphabet=" \t\r\n\x00:/?#[]@.%\\,*-_0189aAzZ\u0130\u212a", max_size=40)


class OriginValidatorConformance:
    """Subclass it as ``Test...``, define the two lists and the fixture ``validator``; the tests below are inherited.

    A law that a validator breaks on purpose is overridden with a strict ``pytest.mark.xfail`` that gives the reason.
    """

    allowed: ClassVar[Sequence[str]] = ()
    """Origins of web pages (scheme, ``://``, host, maybe a port) that it lets in; at least one."""
    refused: ClassVar[Sequence[str]] = ()
    """Origins that it refuses; at least one."""
    host: ClassVar[str | None] = "example.com"
    """The request's ``Host`` header in all these questions."""

    @pytest.fixture
    def validator(self) -> OriginValidator:
        """The validator, as its plugin would make it."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how a validator is made: define the fixture validator(self) in it, and"
            " list some origins that it lets in as allowed, and some others as refused."
        )

    # The tests

    def test_it_is_an_origin_validator(self, validator: OriginValidator) -> None:
        assert isinstance(validator, OriginValidator)

    def test_it_lets_in_what_it_should(self, validator: OriginValidator) -> None:
        assert self.allowed, "list some origins that it lets in as `allowed`"
        assert {origin: validator.is_allowed(origin, self.host) for origin in self.allowed} == dict.fromkeys(
            self.allowed, True
        )

    def test_it_refuses_what_it_should(self, validator: OriginValidator) -> None:
        assert self.refused, "list some origins that it refuses as `refused`"
        assert {origin: validator.is_allowed(origin, self.host) for origin in self.refused} == dict.fromkeys(
            self.refused, False
        )

    def test_what_is_no_page_is_refused(self, validator: OriginValidator) -> None:
        assert [origin for origin in _NO_PAGES if validator.is_allowed(origin, self.host) is not False] == []

    def test_lookalikes_of_what_is_allowed_are_refused(self, validator: OriginValidator) -> None:
        lookalikes = [lookalike for origin in self.allowed for lookalike in _lookalikes(origin)]
        assert [origin for origin in lookalikes if validator.is_allowed(origin, self.host) is not False] == []

    def test_nothing_makes_it_raise_or_hesitate(self, validator: OriginValidator) -> None:

        @settings(deadline=None, database=None, max_examples=100)
        @given(
            before=_texts,
            origin=st.sampled_from(["", *self.allowed]),
            after=_texts,
            host=st.none() | st.text(),
        )
        def ask(before: str, origin: str, after: str, host: str | None) -> None:
            for asked in (before + origin + after, origin + after):
                assert validator.is_allowed(asked, host) in (True, False)

        ask()
        assert validator.is_allowed("http://" + "a." * 100_000, self.host) is False
        assert validator.is_allowed("h" * 1_000_000, "h" * 1_000_000) is False

    def test_many_threads_get_the_same_answers(self, validator: OriginValidator) -> None:
        origins = [*self.allowed, *self.refused]
        expected = [True] * len(self.allowed) + [False] * len(self.refused)
        wrong: list[list[bool]] = []
        begun = threading.Barrier(8)

        def ask() -> None:
            begun.wait(10)
            for _ in range(100):
                answers = [validator.is_allowed(origin, self.host) for origin in origins]
                if answers != expected:
                    wrong.append(answers)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []

    def test_it_answers_where_an_event_loop_runs(self, validator: OriginValidator) -> None:
        async def ask() -> list[bool]:
            return [validator.is_allowed(origin, self.host) for origin in self.allowed]

        assert asyncio.run(ask()) == [True] * len(self.allowed)


def _lookalikes(origin: str) -> list[str]:
    """Origins that resemble ``origin`` to a careless reader: other pages, and what no browser would have written."""
    scheme, _, authority = origin.partition("://")
    host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
    host, tail = (host, colon + port) if host else (authority, "")
    return [
        f"{scheme}://{host}.evil.invalid{tail}",
        f"{scheme}://evil.invalid/{authority}",
        f"{scheme}://evil.invalid#{authority}",
        f"{scheme}://evil.invalid?{authority}",
        f"{scheme}://evil.invalid\\{authority}",
        f"{scheme}://{authority}@evil.invalid",
        f"{scheme}://{host}%00.evil.invalid{tail}",
        f"{scheme}://{host}\x00.evil.invalid{tail}",
        f"{scheme}://{host}\n.evil.invalid{tail}",
        f"{scheme}://evil.invalid,{origin}",
        f"{scheme}://evil.invalid {origin}",
        f"evil://{authority}",
        f"file://{authority}",
        f"{scheme}:{authority}",
        f"{authority}",
        f"//{authority}",
        f"{scheme}://{authority}\n",
        f"{scheme}://{authority}\x00",
        f"{scheme}://{authority} ",
        f" {scheme}://{authority}",
        f"{scheme}://someone@{authority}",
        f"{scheme}://{host}:99999",
        f"{scheme}://{host}:x",
    ]
