"""send(..., on_commit=True) with Django's own transactions."""

from contextlib import suppress

import pytest
from django.contrib.auth.models import Group as AuthGroup
from django.db import transaction
from django.test import TestCase
from django.utils.connection import ConnectionDoesNotExist

from channels_core import Channel, ChannelLayer


class Failed(Exception):
    pass


def names(layer: ChannelLayer) -> list[str]:
    found: list[str] = []
    while (content := layer.receive(["told"])[1]) is not None:
        found.append(content["name"])
    return found


def tell(name: str) -> None:
    Channel("told").send({"name": name}, on_commit=True)


def test_a_message_leaves_after_the_outermost_commit(layer: ChannelLayer) -> None:
    try:
        with transaction.atomic():
            AuthGroup.objects.create(name="saved-with-a-message")
            tell("outer")
            with transaction.atomic():
                tell("inner")
            with suppress(Failed), transaction.atomic():
                tell("rolled back to a savepoint")
                raise Failed
            assert names(layer) == []
        assert names(layer) == ["outer", "inner"]
    finally:
        AuthGroup.objects.filter(name="saved-with-a-message").delete()


def test_nothing_leaves_after_a_rollback(layer: ChannelLayer) -> None:
    with suppress(Failed), transaction.atomic():
        tell("rolled back")
        raise Failed
    assert names(layer) == []


def test_without_a_transaction_it_leaves_at_once(layer: ChannelLayer) -> None:
    tell("now")
    assert names(layer) == ["now"]


def test_another_database_is_named_by_its_alias(layer: ChannelLayer) -> None:
    with transaction.atomic():
        Channel("told").send({"name": "named"}, on_commit="default")
        assert names(layer) == []
    assert names(layer) == ["named"]
    with pytest.raises(ConnectionDoesNotExist):
        Channel("told").send({"name": "nowhere"}, on_commit="nowhere")


def test_a_full_channel_keeps_no_other_callback_from_running(layer: ChannelLayer) -> None:
    ran: list[str] = []
    with transaction.atomic():
        for n in range(layer.capacity + 1):
            tell(str(n))
        transaction.on_commit(lambda: ran.append("after"))
    assert ran == ["after"]
    assert layer.counters.dropped == 1
    assert len(names(layer)) == layer.capacity


def test_test_cases_capture_it_as_they_capture_every_callback(layer: ChannelLayer) -> None:
    with TestCase.captureOnCommitCallbacks(execute=True) as callbacks, transaction.atomic():
        tell("captured")
    assert len(callbacks) <= 1
    assert names(layer) == ["captured"]
