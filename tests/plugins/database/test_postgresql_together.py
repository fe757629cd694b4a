"""What leaves together is one transaction of the PostgreSQL engine, and bears it that a part of it is refused."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from channels_core.layers import AT_LEAST_ONCE, Outcome, Send, Settlement, Turn, Verdict
from channels_layer_database import DatabaseLayer
from channels_layer_database.postgresql.pipeline import Answers, Call
from channels_layer_database.postgresql.statements import Statement
from database_sites import on_postgres


@pytest.fixture
def layer() -> Iterator[DatabaseLayer]:
    with on_postgres(f"together_{uuid.uuid4().hex[:8]}"):
        layer = DatabaseLayer(using="channels_pg", delivery={"jobs": AT_LEAST_ONCE})
        yield layer
        layer.wake()
        layer.close()


def asking(text: str) -> list[Call]:
    return [(Statement(b"", text.encode(), is_kept=False), ())]


async def test_a_refused_part_leaves_the_others_their_answers(layer: DatabaseLayer) -> None:
    hub = layer._hub()  # type: ignore[attr-defined]  # DatabaseLayer() makes the engine's own class
    await hub.run(asking("SELECT 1"))
    found: dict[str, asyncio.Future[Answers | Exception]] = {
        name: asyncio.get_running_loop().create_future() for name in ("good", "bad", "late")
    }
    with hub._pipeline.together():
        hub.submit(asking("SELECT pg_current_xact_id()::text"), found["good"].set_result)
        hub.submit(asking("SELECT 1 / 0"), found["bad"].set_result)
        hub._pipeline.divide()
        hub.submit(asking("SELECT 7"), found["late"].set_result)
    async with asyncio.timeout(20):
        good, bad, late = [await found[name] for name in ("good", "bad", "late")]
    assert isinstance(good, list)
    assert len(good) == 1
    assert str(bad) == "division by zero"
    assert late == [[((7).to_bytes(4, "big"),)]]


async def test_a_turn_and_the_next_take_are_one_transaction(layer: DatabaseLayer) -> None:
    hub = layer._hub()  # type: ignore[attr-defined]  # as above
    assert await layer.asend_batch([Send("jobs", {"n": n}, {}, 9) for n in range(2)]) == [Outcome.SENT] * 2
    [first] = await layer.areceive_batch(["jobs"])
    turn = Turn([Send("out", {}, {}, 9)], Settlement(first, Verdict.DONE))
    exchange = await layer.aexchange([turn], ["jobs"], timeout=20)
    assert exchange.outcomes == [[Outcome.SENT]]
    assert [one.content for one in exchange.deliveries] == [{"n": 1}]
    [[sent], [leased]] = (await hub.run(asking("SELECT xmin::text FROM channels_msg ORDER BY key DESC")))[0]
    assert sent == leased, "the message that was sent and the lease were written by one transaction"
