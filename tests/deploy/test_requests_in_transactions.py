"""Django's requests through workers, with a transaction for each of them and connections that outlive them."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from deployment.engines import ENGINES, Engine
from deployment.fleet import Fleet

ORDERS = 40


@pytest.fixture(params=["postgresql", "mariadb", "sqlite-shared"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine whose messages can be written in a request's transaction."""
    with ENGINES[request.param](tmp_path) as running:
        yield running


def shop(database: Engine, tmp_path: Path, **options: Any) -> Fleet:
    """A site whose database has these options beside those that it needs."""
    described = {"default": {**database.databases["default"], **options}}
    config = {"delivery": {"orders": "at-least-once"}, "process_lease": 3.0}
    engine = replace(database, databases=described)
    return Fleet(engine, tmp_path, config=config, routes="shop", apps=["deployment.shop"])


def take_order(fleet: Fleet, number: int, send: str, *, fails: bool) -> dict[str, Any]:
    """The answer; nothing where the request failed, as it was to."""
    [interface] = fleet.interfaces
    with closing(HTTPConnection("127.0.0.1", interface.port, timeout=20)) as connection:
        connection.request("GET", f"/order/{number}?send={send}{'&fails=1' if fails else ''}")
        response = connection.getresponse()
        body = response.read()
        assert response.status == (500 if fails else 200), f"{response.status}\n{fleet.report()}"
    answer: dict[str, Any] = {} if fails else json.loads(body)
    return answer


def settle_up(fleet: Fleet) -> tuple[list[int], list[int]]:
    """Once every message is consumed: the orders that were saved, and those that a message told of."""
    fleet.wait_until(lambda: fleet.probe.ask("waiting", channel="orders") == 0, "all orders are consumed")
    saved, told = (fleet.probe.ask("numbers", table=f"shop_{name}") for name in ("order", "attempt"))
    return sorted(saved), sorted(told)


@pytest.mark.parametrize("conn_max_age", [0, None], ids=["closed", "persistent"])
def test_a_request_s_transaction_takes_its_messages_with_it(
    database: Engine, conn_max_age: int | None, tmp_path: Path
) -> None:
    """ATOMIC_REQUESTS: what fails leaves neither rows nor transactional messages, plain ones leave whatever happens;
    CONN_MAX_AGE: a connection that a failed request leaves behind serves the next one."""
    with shop(database, tmp_path, ATOMIC_REQUESTS=True, CONN_MAX_AGE=conn_max_age) as fleet:
        fleet.start(interfaces=1, workers=1, threads=1)
        answers = []
        for number in range(ORDERS):
            send = "transactional" if number % 4 < 2 else "plain"
            answers.append(take_order(fleet, number, send, fails=bool(number % 2)))
        saved, told = settle_up(fleet)
        assert saved == list(range(0, ORDERS, 2))
        assert told == [number for number in range(ORDERS) if number % 4 != 1]
        done = [answer for answer in answers if answer]
        assert all(answer["atomic"] for answer in done)
        # The one thread of the worker has one connection for all, or one for each request or consumer.
        connections = [answer["connection"] for answer in done]
        assert connections == [1] * len(done) if conn_max_age is None else len(set(connections)) == len(done)


def test_without_transactions_each_statement_and_each_message_is_by_itself(
    database: Engine, tmp_path: Path
) -> None:
    with shop(database, tmp_path, ATOMIC_REQUESTS=False, CONN_MAX_AGE=None) as fleet:
        fleet.start(interfaces=1, workers=2, threads=2)
        for number in range(ORDERS):
            take_order(fleet, number, "transactional", fails=bool(number % 2))
        saved, told = settle_up(fleet)
        assert saved == told == list(range(ORDERS))
