"""Sends that go with a transaction, in tests whose every test is one."""

from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
from django.contrib.auth.models import Group as AuthGroup
from django.db import transaction
from django.test import override_settings

from channels_core import Channel, ChannelFull, Group, Message, TransactionError
from channels_core.testing.conformance.layer_laws.transactions import TransactionLaws
from channels_django.testing import ChannelTestCase, TransactionChannelTestCase
from channels_django.testing.transactions import TransactionalMemory


class TestTransactionalMemory(TransactionLaws):
    takes_clock = True

    def make_backend(self, **options: Any) -> TransactionalMemory:
        return TransactionalMemory(**options)

    def transaction(self) -> AbstractContextManager[object]:
        return transaction.atomic()


def name_of(message: Message | None) -> str:
    assert message is not None
    return str(message["name"])


class Failed(Exception):
    pass


def order(name: str, **options: Any) -> None:
    """What a project does: a row and a message, both or none."""
    with transaction.atomic():
        AuthGroup.objects.create(name=name)
        Channel("orders").send({"name": name}, **options)


def layers_with(**config: Any) -> Any:
    backend = f"{TransactionalMemory.__module__}.{TransactionalMemory.__qualname__}"
    return override_settings(
        CHANNEL_LAYERS={
            "default": {"BACKEND": backend, "ROUTING": "testsite.routing.routes", "CONFIG": config}
        }
    )


@layers_with()
class TransactionalTests(ChannelTestCase):
    def test_a_message_leaves_where_the_commit_is_played(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            order("one", transactional=True)
            assert self.get_next_message("orders") is None
        assert name_of(self.get_next_message("orders")) == "one"

    def test_so_does_one_that_was_to_leave_after_the_commit(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            order("one", on_commit=True)
            assert self.get_next_message("orders") is None
        assert self.get_next_message("orders") is not None

    def test_a_rollback_takes_it_back(self) -> None:
        with self.captureOnCommitCallbacks(execute=True), suppress(Failed), transaction.atomic():
            order("one", transactional=True)
            raise Failed
        assert self.get_next_message("orders") is None
        assert not AuthGroup.objects.exists()

    def test_a_full_channel_refuses_in_the_call(self) -> None:
        for number in range(10):
            Channel("orders").send({"number": number})
        with pytest.raises(ChannelFull):
            order("one", transactional=True)
        assert not AuthGroup.objects.exists()
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            for number in range(10):
                Channel("others").send({"number": number}, transactional=True)
            with pytest.raises(ChannelFull):
                Channel("others").send({}, transactional=True)
            Channel("more").send({}, transactional=True)
        assert self.get_next_message("more") is not None

    def test_outside_blocks_of_its_own_the_code_sends_at_once(self) -> None:
        Group("room").add("reader")
        Channel("orders").send({"n": 1}, transactional=True)
        Group("room").send({"n": 2}, transactional=True)
        assert self.get_next_message("orders") is not None
        assert self.get_next_message("reader") is not None

    def test_by_default_messages_stand_beside_transactions(self) -> None:
        order("one")
        assert self.get_next_message("orders") is not None


@layers_with(transactional=True)
class TransactionalByDefaultTests(ChannelTestCase):
    def test_the_default_is_that_of_the_layer(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            order("one")
            order("two", transactional=False)
            assert name_of(self.get_next_message("orders")) == "two"
            assert self.get_next_message("orders") is None
        assert name_of(self.get_next_message("orders")) == "one"


@layers_with()
class CommittingTests(TransactionChannelTestCase):
    def test_a_test_that_commits_needs_nothing_played(self) -> None:
        order("one", transactional=True)
        order("two", on_commit=True)
        assert self.get_next_message("orders") is not None
        assert self.get_next_message("orders") is not None


class PlainTests(ChannelTestCase):
    def test_what_the_layer_cannot_do_fails_in_the_test_too(self) -> None:
        with pytest.raises(TransactionError):
            order("one", transactional=True)


@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "nowhere", "ROUTING": "testsite.routing.routes"}})
class NotInstalledTests(ChannelTestCase):
    def test_a_layer_that_is_not_installed_keeps_no_test_from_running(self) -> None:
        Channel("orders").send({})
        assert self.get_next_message("orders") is not None
