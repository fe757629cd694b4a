"""The validator of allowed hosts keeps the laws of origin validators."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest

from channels_core.origins import OriginValidator
from channels_core.testing.conformance.origin_validators import OriginValidatorConformance


class TestAllowedHosts(OriginValidatorConformance):
    hosts: ClassVar[Sequence[str]] = ("example.com", ".example.org", "[::1]", "127.0.0.1")
    allowed: ClassVar[Sequence[str]] = (
        "http://example.com",
        "https://EXAMPLE.com:8443",
        "https://a.b.example.org",
        "http://[::1]:8000",
    )
    refused: ClassVar[Sequence[str]] = (
        "http://www.example.com",
        "https://example.net",
        "http://[::2]",
        "http://127.0.0.2",
    )

    @pytest.fixture
    def validator(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[OriginValidator]:
        from django.test import override_settings

        from channels_origin_allowed_hosts import AllowedHosts

        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "testsite.settings")
        with override_settings(ALLOWED_HOSTS=list(self.hosts), DEBUG=False):
            yield AllowedHosts()


class TestEveryHost(TestAllowedHosts):
    hosts = ("*",)
    allowed: ClassVar[Sequence[str]] = ("http://anything.example", "https://[::1]")
    refused: ClassVar[Sequence[str]] = ("ws://anything.example", "null", "http://a_b")

    @pytest.mark.xfail(strict=True, reason="with '*' a lookalike host is as welcome as any other")
    def test_lookalikes_of_what_is_allowed_are_refused(self, validator: OriginValidator) -> None:
        super().test_lookalikes_of_what_is_allowed_are_refused(validator)


class TestDebug(TestAllowedHosts):
    allowed: ClassVar[Sequence[str]] = ("http://localhost:8000", "http://127.0.0.1", "http://[::1]:5173")
    refused: ClassVar[Sequence[str]] = ("http://example.com", "http://localhost.example.com")

    @pytest.fixture
    def validator(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[OriginValidator]:
        from django.test import override_settings

        from channels_origin_allowed_hosts import AllowedHosts

        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "testsite.settings")
        with override_settings(ALLOWED_HOSTS=[], DEBUG=True):
            yield AllowedHosts()
