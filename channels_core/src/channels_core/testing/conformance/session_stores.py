"""The laws of session stores, as tests.

An author's whole test module::

    import pytest
    from channels_core.testing.conformance.session_stores import SessionStoreConformance
    from notebook.store import NotebookStore


    class TestNotebookStore(SessionStoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            return NotebookStore(tmp_path)

Each law is tried through the synchronous methods and through their async twins.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, nullcontext
from time import monotonic, sleep
from typing import Any, ClassVar, Protocol

import pytest

from channels_core.exceptions import SessionExists
from channels_core.sessions import SessionStore

__all__ = ["SessionStoreConformance"]

_DATA: dict[str, Any] = {
    "text": "Grüße, 世界 \x00 \U0001f600",
    "number": 2**53,
    "negative": -1,
    "float": 0.1,
    "yes": True,
    "nothing": None,
    "list": [1, "two", [3.0]],
    "dict": {"inner": {"deep": []}},
    "": "an empty key",
}


class _View(Protocol):
    """The four operations, whichever way they are called."""

    def load(self, key: str) -> dict[str, Any] | None: ...
    def create(self, key: str, data: dict[str, Any], ttl: float) -> None: ...
    def save(self, key: str, data: dict[str, Any], ttl: float) -> bool: ...
    def delete(self, key: str) -> None: ...


class _AsyncView:
    """The async twins, each awaited on one event loop."""

    def __init__(self, store: SessionStore, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._store = store
        self._run = run

    def load(self, key: str) -> dict[str, Any] | None:
        data: dict[str, Any] | None = self._run(self._store.aload(key))
        return data

    def create(self, key: str, data: dict[str, Any], ttl: float) -> None:
        self._run(self._store.acreate(key, data, ttl))

    def save(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        is_there: bool = self._run(self._store.asave(key, data, ttl))
        return is_there

    def delete(self, key: str) -> None:
        self._run(self._store.adelete(key))


class SessionStoreConformance:
    """Subclass it as ``Test...`` and write the fixture ``store``, which returns a store ready to use."""

    ttl: ClassVar[float] = 60.0
    """Long enough for a test to end before it."""
    short_ttl: ClassVar[float] = 1.0
    """The shortest time to live that the store can tell, in seconds."""
    expiry_delay: ClassVar[float] = 3.0
    """How long after its time a session may still be there, in seconds."""
    racers: ClassVar[int] = 8

    @pytest.fixture
    def store(self) -> SessionStore:
        """The store under test."""
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture 'store': write one that returns the store."
        )

    def in_thread(self) -> AbstractContextManager[Any]:
        """Entered by each thread that a test starts; override it to give up what the store opened there."""
        return nullcontext()

    @pytest.fixture(params=["sync", "async"])
    def view(self, request: pytest.FixtureRequest, store: SessionStore) -> Iterator[_View]:
        """The store, called one way or the other."""
        if request.param == "sync":
            yield store
        else:
            with asyncio.Runner() as runner:
                yield _AsyncView(store, runner.run)

    @pytest.fixture
    def key(self) -> str:
        """A key that no test has used before, of the length that channel sessions have."""
        return uuid.uuid4().hex

    def test_an_unknown_key_loads_nothing(self, view: _View, key: str) -> None:
        assert view.load(key) is None

    def test_what_was_created_is_loaded(self, view: _View, key: str) -> None:
        view.create(key, _DATA, self.ttl)
        assert view.load(key) == _DATA
        assert view.load(key) == _DATA

    def test_an_empty_session_is_a_session(self, view: _View, key: str) -> None:
        view.create(key, {}, self.ttl)
        assert view.load(key) == {}

    def test_sessions_do_not_touch_each_other(self, view: _View, key: str) -> None:
        other = key[:-1] + ("0" if key[-1] != "0" else "1")
        view.create(key, {"of": "one"}, self.ttl)
        view.create(other, {"of": "other"}, self.ttl)
        view.delete(key)
        assert view.load(key) is None
        assert view.load(other) == {"of": "other"}

    def test_creating_a_taken_key_is_refused_and_changes_nothing(self, view: _View, key: str) -> None:
        view.create(key, {"first": 1}, self.ttl)
        with pytest.raises(SessionExists):
            view.create(key, {"second": 2}, self.ttl)
        assert view.load(key) == {"first": 1}

    def test_saving_replaces_all_of_the_data(self, view: _View, key: str) -> None:
        view.create(key, {"a": 1, "b": 2}, self.ttl)
        assert view.save(key, {"b": 3}, self.ttl) is True
        assert view.load(key) == {"b": 3}

    def test_saving_under_an_unknown_key_stores_nothing(self, view: _View, key: str) -> None:
        assert view.save(key, {"a": 1}, self.ttl) is False
        assert view.load(key) is None

    def test_saving_does_not_bring_back_what_was_deleted(self, view: _View, key: str) -> None:
        view.create(key, {"a": 1}, self.ttl)
        view.delete(key)
        assert view.save(key, {"a": 2}, self.ttl) is False
        assert view.load(key) is None

    def test_deleting_twice_or_a_stranger_is_nothing(self, view: _View, key: str) -> None:
        view.delete(key)
        view.create(key, {"a": 1}, self.ttl)
        view.delete(key)
        view.delete(key)
        assert view.load(key) is None

    def test_a_deleted_key_may_be_created_anew(self, view: _View, key: str) -> None:
        view.create(key, {"a": 1}, self.ttl)
        view.delete(key)
        view.create(key, {"b": 2}, self.ttl)
        assert view.load(key) == {"b": 2}

    def test_nothing_is_shared_with_who_gave_or_took_the_data(self, view: _View, key: str) -> None:
        given: dict[str, Any] = {"list": [1]}
        view.create(key, given, self.ttl)
        given["list"].append(2)
        given["more"] = True
        taken = view.load(key)
        assert taken == {"list": [1]}
        taken["list"].append(3)
        taken["mine"] = True
        assert view.load(key) == {"list": [1]}

    def test_a_session_is_there_until_its_time_is_over_unless_saving_starts_it_anew(
        self, view: _View, key: str
    ) -> None:
        saved = uuid.uuid4().hex
        for one in (saved, key):
            view.create(one, {"a": 1}, self.short_ttl)
            assert view.load(one) == {"a": 1}
            if one is saved:
                assert view.save(saved, {"a": 2}, self.ttl) is True
        self._wait_until_gone(view, key, self.short_ttl)
        assert view.load(saved) == {"a": 2}
        view.create(key, {"b": 2}, self.ttl)
        assert view.load(key) == {"b": 2}

    def test_both_ways_see_the_same_sessions(self, store: SessionStore, key: str) -> None:
        with asyncio.Runner() as runner:
            store.create(key, {"by": "sync"}, self.ttl)
            assert runner.run(store.aload(key)) == {"by": "sync"}
            assert runner.run(store.asave(key, {"by": "async"}, self.ttl)) is True
            assert store.load(key) == {"by": "async"}
            with pytest.raises(SessionExists):
                runner.run(store.acreate(key, {}, self.ttl))
            runner.run(store.adelete(key))
            assert store.load(key) is None

    def test_of_threads_that_race_to_create_one_wins(self, store: SessionStore, key: str) -> None:
        for attempt in range(5):
            contested = f"{key[:-1]}{attempt}"
            outcomes = self._race(
                lambda racer, key=contested: store.create(key, {"by": racer}, self.ttl)  # type: ignore[misc]  # bound now
            )
            winners = [racer for racer, error in enumerate(outcomes) if error is None]
            losers = [type(error) for error in outcomes if error is not None]
            assert len(winners) == 1
            assert losers == [SessionExists] * (self.racers - 1)
            assert store.load(contested) == {"by": winners[0]}

    def test_of_tasks_that_race_to_create_one_wins(self, store: SessionStore, key: str) -> None:
        async def race() -> list[BaseException | None]:
            return await asyncio.gather(
                *(store.acreate(key, {"by": racer}, self.ttl) for racer in range(self.racers)),
                return_exceptions=True,
            )

        with asyncio.Runner() as runner:
            outcomes = runner.run(race())
        winners = [racer for racer, error in enumerate(outcomes) if error is None]
        assert len(winners) == 1
        assert [type(error) for error in outcomes if error is not None] == [SessionExists] * (self.racers - 1)
        assert store.load(key) == {"by": winners[0]}

    def test_threads_work_side_by_side(self, store: SessionStore, key: str) -> None:
        seen: list[list[Any]] = [[] for _ in range(self.racers)]

        def work(racer: int) -> None:
            own = f"{key[:-1]}{racer:x}"
            store.create(own, {"n": 0}, self.ttl)
            for n in range(1, 4):
                assert store.save(own, {"n": n}, self.ttl)
                seen[racer].append(store.load(own))
            store.delete(own)
            seen[racer].append(store.load(own))

        assert self._race(work) == [None] * self.racers
        assert seen == [[{"n": 1}, {"n": 2}, {"n": 3}, None]] * self.racers

    def _wait_until_gone(self, view: _View, key: str, ttl: float) -> None:
        deadline = monotonic() + ttl + self.expiry_delay
        while view.load(key) is not None:
            assert monotonic() < deadline, f"still there {self.expiry_delay} s after its {ttl} s were over"
            sleep(0.05)  # only the store knows when it is over, and it tells nobody

    def _race(self, act: Callable[[int], None]) -> list[BaseException | None]:
        """Let each racer act in a thread of its own, all at once; what each of them raised."""
        outcomes: list[BaseException | None] = [None] * self.racers
        barrier = threading.Barrier(self.racers)

        def run(racer: int) -> None:
            with self.in_thread():
                barrier.wait(10)
                try:
                    act(racer)
                except BaseException as error:  # noqa: BLE001 - the test looks at it
                    outcomes[racer] = error

        threads = [threading.Thread(target=run, args=(racer,)) for racer in range(self.racers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "a store call did not return within 30 s"
        return outcomes
