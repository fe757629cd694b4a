"""The laws of transactional backends: one that keeps them all, and for many a law one that breaks it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from channels_core.layers import LayerBackend, Outcome, Send
from channels_core.names import prefix_of, process_of
from channels_core.testing.conformance import LayerConformance
from channels_layer_memory import MemoryBackend


class Ledger:
    """A database of one thing: what was written in this thread's transaction, a list for each savepoint."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self.on_commit: Callable[[list[Send]], object] = list.copy

    @property
    def open(self) -> list[list[Send]]:
        if not hasattr(self._of_thread, "open"):
            self._of_thread.open = []
        levels: list[list[Send]] = self._of_thread.open
        return levels

    @contextmanager
    def transaction(self) -> Iterator[None]:
        levels = self.open
        levels.append([])
        try:
            yield
        except BaseException:
            levels.pop()
            raise
        written = levels.pop()
        if levels:
            levels[-1].extend(written)
        else:
            self.on_commit(written)


class LedgerBackend(MemoryBackend):
    is_transactional = True

    def __init__(self, *, ledger: Ledger, **options: Any) -> None:
        super().__init__(**options)
        self.ledger = ledger
        ledger.on_commit = self.send_batch

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        levels = self.ledger.open
        if not levels:
            return None
        return [self._write(levels, send) for send in sends]

    def _write(self, levels: list[list[Send]], send: Send) -> Outcome:
        process = process_of(send.channel)
        if process is not None and process not in {one.id for one in self.processes()}:
            return Outcome.GONE
        waiting = Counter(prefix_of(one.channel) for level in levels for one in level)
        if not send.is_group and waiting[prefix_of(send.channel)] >= self.capacity_of(send.channel):
            return Outcome.FULL
        levels[-1].append(send)
        return Outcome.SENT


class TestLedger(LayerConformance):
    takes_clock = True
    backend: type[LedgerBackend] = LedgerBackend

    def transaction(self) -> Any:
        return self.ledger.transaction()

    def make_backend(self, **options: Any) -> LayerBackend:
        self.ledger = Ledger()
        return self.backend(ledger=self.ledger, **options)


class Eager(LedgerBackend):
    """Is seen before the commit, and for ever."""

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        return self.send_batch(sends) if self.ledger.open else None


class Deaf(LedgerBackend):
    """Does not ask whether there is a transaction."""

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        return super().send_in_transaction(sends) or self.send_batch(sends)


class Flat(LedgerBackend):
    """Knows no savepoints."""

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        levels = self.ledger.open
        return [self._write(levels[:1], send) for send in sends] if levels else None


class Generous(LedgerBackend):
    """Finds out at the commit that there is no room."""

    def _write(self, levels: list[list[Send]], send: Send) -> Outcome:
        levels[-1].append(send)
        return Outcome.SENT


class Forgetful(LedgerBackend):
    """Skips what commits after something that was sent later."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ledger.on_commit = self._skip

    def _skip(self, written: list[Send]) -> None:
        self.send_batch([send for send in written if self.counters.sent == 0])


def check(law: str, backend: type[LedgerBackend]) -> None:
    class Kit(TestLedger):
        patience = 1.0

    kit = Kit()
    kit.backend = backend
    with kit.opening(is_async=False) as open_layer:
        getattr(kit, law)(open_layer)


@pytest.mark.parametrize(
    ("law", "backend"),
    [
        ("test_a_message_is_visible_with_the_commit", Eager),
        ("test_nothing_is_left_of_a_rollback", Eager),
        ("test_without_a_transaction_nothing_is_written", Deaf),
        ("test_a_savepoint_takes_its_messages_with_it", Flat),
        ("test_outcomes_are_those_of_the_call", Generous),
        ("test_a_message_that_commits_late_is_not_skipped", Forgetful),
    ],
)
def test_the_kit_catches(law: str, backend: type[LedgerBackend]) -> None:
    with pytest.raises(AssertionError):
        check(law, backend)
    check(law, LedgerBackend)


def test_an_author_is_told_what_is_missing() -> None:
    class Kit(TestLedger):
        def transaction(self) -> Any:
            return LayerConformance.transaction(self)

    with pytest.raises(NotImplementedError) as caught:
        Kit().transaction()
    assert str(caught.value) == (
        "Kit tests a transactional backend and does not say how a transaction is opened: define transaction(self) in"
        " it, returning transaction.atomic(using=...) for the database of its make_backend()."
    )
