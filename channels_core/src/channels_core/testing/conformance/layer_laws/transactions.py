"""Laws of sends in the caller's database transaction, for backends that are transactional."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import ClassVar

import pytest

from channels_core.layers import Outcome
from channels_core.testing.conformance.layer_laws.subject import (
    Layer,
    LayerLaws,
    OpenLayer,
    in_thread,
    numbers,
    send,
    to_group,
)

__all__ = ["TransactionLaws"]

SENT, FULL, GONE = Outcome.SENT, Outcome.FULL, Outcome.GONE


class Rollback(Exception):
    """Ends a transaction of a law."""


class TransactionLaws(LayerLaws):
    """A message is written with the caller's data, or not at all."""

    has_one_writer: ClassVar[bool] = False
    """Whether an open transaction that has written keeps everybody else from writing, and so from receiving: then no
    law looks at the layer while one is open."""

    def transaction(self) -> AbstractContextManager[object]:
        """A transaction on the backend's database in the calling thread, with savepoints where it is open already;
        an exception rolls it back: Django's ``transaction.atomic(using=...)``."""
        raise NotImplementedError(
            f"{type(self).__name__} tests a transactional backend and does not say how a transaction is opened: define"
            " transaction(self) in it, returning transaction.atomic(using=...) for the database of its make_backend()."
        )

    def _open_transactional(self, open_layer: OpenLayer, **options: object) -> Layer:
        layer = open_layer(**options)
        if not layer.backend.is_transactional:
            pytest.skip(f"{type(layer.backend).__name__} is not transactional")
        return layer

    def test_without_a_transaction_nothing_is_written(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer)
        assert layer.backend.send_in_transaction([send("a", 1)]) is None
        assert layer.receive("a") == []

    def test_a_message_is_visible_with_the_commit(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer)
        mine = f"in.{layer.open_process()}!"
        layer.group_add("g", f"{mine}x")
        layer.group_add("g", "b")
        with self.transaction():
            outcomes = layer.backend.send_in_transaction(
                [send("a", 1), send("c?x", 2), send(f"{mine}x", 3), to_group("g", 4)]
            )
            assert outcomes == [SENT] * 4
            if not self.has_one_writer:
                assert layer.receive("a", "b", "c?x", mine) == []
        assert numbers(layer.receive("a", timeout=self.patience)) == [1]
        assert numbers(layer.receive("c?x", timeout=self.patience)) == [2]
        assert numbers(layer.receive("b", timeout=self.patience)) == [4]
        received = layer.receive(mine, timeout=self.patience)
        assert sorted(numbers(received)) == [3, 4]

    def test_a_commit_wakes_readers(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer)
        mine = f"in.{layer.open_process()}!"
        waits = [layer.begin_receive("a"), layer.begin_receive(mine)]
        self.give_others_time()
        with self.transaction():
            layer.backend.send_in_transaction([send("a", 1), send(f"{mine}x", 2)])
        assert [numbers(waiting.result()) for waiting in waits] == [[1], [2]]

    def test_nothing_is_left_of_a_rollback(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer, capacity=2)
        layer.group_add("g", "a")
        for _ in range(3):
            with suppress(Rollback), self.transaction():
                assert layer.backend.send_in_transaction([send("a", 1), to_group("g", 2)]) == [SENT, SENT]
                raise Rollback
        assert layer.receive("a") == []
        assert [layer.send_one(send("a", number)) for number in range(3)] == [SENT, SENT, FULL]

    def test_a_savepoint_takes_its_messages_with_it(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer)
        with self.transaction():
            layer.backend.send_in_transaction([send("a", 1)])
            with suppress(Rollback), self.transaction():
                layer.backend.send_in_transaction([send("a", 2)])
                raise Rollback
            with self.transaction():
                layer.backend.send_in_transaction([send("a", 3)])
        received = layer.receive("a", timeout=self.patience)
        assert numbers(received) == [1, 3]

    def test_outcomes_are_those_of_the_call(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer, capacity=2)
        process = layer.open_process()
        layer.close_process(process)
        with self.transaction():
            sends = [
                *(send("a", number) for number in range(3)),
                send(f"in.{process}!x"),
                *(send("b?x", number) for number in range(3)),
            ]
            assert layer.backend.send_in_transaction(sends) == [SENT, SENT, FULL, GONE, SENT, SENT, FULL]
            assert layer.backend.send_in_transaction([send("a", 3)]) == [FULL]
        assert numbers(layer.receive("a", timeout=self.patience)) == [0, 1]
        assert numbers(layer.receive("b?x", timeout=self.patience)) == [0, 1]

    def test_a_message_that_commits_late_is_not_skipped(self, open_layer: OpenLayer) -> None:
        layer = self._open_transactional(open_layer)
        if self.has_one_writer:
            pytest.skip("nobody else writes while a transaction is open")
        mine = f"in.{layer.open_process()}!"
        names = ("a", "b?x", f"{mine}x")
        with self.transaction():
            layer.backend.send_in_transaction([send(name, 1) for name in names])
            others = in_thread(lambda: layer.send(*(send(name, 2) for name in names)), self.patience)
            assert others.result() == [SENT] * 3
            for channel in ("a", "b?x", mine):
                assert numbers(layer.receive(channel, timeout=self.patience)) == [2]
        for channel in ("a", "b?x", mine):
            assert numbers(layer.receive(channel, timeout=self.patience)) == [1]
