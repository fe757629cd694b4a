"""The kit for session stores, seen by a plugin's author: a right store passes it, a wrong one is found out."""

import copy
import threading
from time import monotonic
from typing import Any

import pytest

from channels_core.exceptions import SessionExists
from channels_core.sessions import SessionStore
from channels_core.testing.conformance.session_stores import SessionStoreConformance


class DictStore(SessionStore):
    def __init__(self) -> None:
        self.rows: dict[str, tuple[float, dict[str, Any]]] = {}
        self.lock = threading.Lock()

    def load(self, key: str) -> dict[str, Any] | None:
        ends, data = self.rows.get(key, (0.0, {}))
        return copy.deepcopy(data) if monotonic() < ends else None

    def create(self, key: str, data: dict[str, Any], ttl: float) -> None:
        with self.lock:
            if self.load(key) is not None:
                raise SessionExists(f"{key} is taken.")
            self.rows[key] = (monotonic() + ttl, copy.deepcopy(data))

    def save(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        with self.lock:
            is_there = self.load(key) is not None
            if is_there:
                self.rows[key] = (monotonic() + ttl, copy.deepcopy(data))
            return is_there

    def delete(self, key: str) -> None:
        self.rows.pop(key, None)


class TestDictStore(SessionStoreConformance):
    short_ttl = 0.1

    @pytest.fixture
    def store(self) -> SessionStore:
        return DictStore()


class Upserting(DictStore):
    def save(self, key: str, data: dict[str, Any], ttl: float) -> bool:
        self.rows[key] = (monotonic() + ttl, copy.deepcopy(data))
        return True


class Overwriting(DictStore):
    def create(self, key: str, data: dict[str, Any], ttl: float) -> None:
        self.rows[key] = (monotonic() + ttl, copy.deepcopy(data))


class Sharing(DictStore):
    def load(self, key: str) -> dict[str, Any] | None:
        return self.rows[key][1] if key in self.rows else None


class Empty(DictStore):
    def load(self, key: str) -> dict[str, Any] | None:
        return super().load(key) or None


suite = SessionStoreConformance()


@pytest.mark.parametrize(
    ("store", "law"),
    [
        (Upserting(), suite.test_saving_under_an_unknown_key_stores_nothing),
        (Upserting(), suite.test_saving_does_not_bring_back_what_was_deleted),
        (Overwriting(), suite.test_creating_a_taken_key_is_refused_and_changes_nothing),
        (Sharing(), suite.test_nothing_is_shared_with_who_gave_or_took_the_data),
        (Empty(), suite.test_an_empty_session_is_a_session),
    ],
)
def test_a_store_that_breaks_a_law_fails_its_test(store: SessionStore, law: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(store, "k" * 32)


def test_a_store_that_lets_two_creators_win_is_found_out() -> None:
    with pytest.raises(AssertionError):
        suite.test_of_threads_that_race_to_create_one_wins(Overwriting(), "k" * 32)


def test_who_forgets_the_fixture_is_told(request: pytest.FixtureRequest) -> None:
    class Forgetful(SessionStoreConformance):
        pass

    with pytest.raises(NotImplementedError) as raised:
        SessionStoreConformance.store.__wrapped__(Forgetful())  # type: ignore[attr-defined]  # the fixture's function
    assert str(raised.value) == ("Forgetful has no fixture 'store': write one that returns the store.")
