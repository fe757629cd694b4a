"""Two-level groups against an oracle: who is a member all through a broadcast gets it exactly once."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from channels_core.layers import Delivery, Outcome, Send
from channels_layer_redis import RedisBackend
from redis_servers import RedisCluster, RedisServer

WORKERS, PROCESSES, LOCALS, STEPS = 4, 3, 4, 40
GROUPS = ("g", "h")


@pytest.fixture(params=["one server", "cluster"])
def options(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "cluster":
        with RedisCluster() as cluster:
            yield {"cluster": cluster.hosts}
    else:
        with RedisServer() as server:
            yield {"hosts": [server.url]}


class Fact:
    """One broadcast: who had to get it, and who could."""

    def __init__(self, group: str, certain: set[str]) -> None:
        self.group = group
        self.certain = certain
        self.possible: set[str] = set(certain)


class Oracle:
    """Every membership has one worker that changes it, so what that one has seen done is certain."""

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = {group: set() for group in GROUPS}
        self.changing: dict[str, set[str]] = {group: set() for group in GROUPS}
        self.under_way: dict[int, Fact] = {}
        self.facts: dict[int, Fact] = {}
        self.number = 0

    def begin_change(self, group: str, member: str) -> None:
        self.changing[group].add(member)
        for fact in self.under_way.values():
            if fact.group == group:
                fact.certain.discard(member)
                fact.possible.add(member)

    def end_change(self, group: str, member: str, *, is_member: bool) -> None:
        self.changing[group].discard(member)
        (self.members[group].add if is_member else self.members[group].discard)(member)

    def begin_broadcast(self, group: str) -> int:
        self.number += 1
        fact = Fact(group, self.members[group] - self.changing[group])
        fact.possible |= self.changing[group]
        self.under_way[self.number] = self.facts[self.number] = fact
        return self.number


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
async def test_each_broadcast_reaches_each_member_once(options: dict[str, Any], seed: int) -> None:
    chance = random.Random(seed)
    oracle = Oracle()
    received: dict[str, Counter[int]] = {}
    owners = [RedisBackend(**options, inbox_capacity=10**6) for _ in range(PROCESSES)]
    workers = [RedisBackend(**options, inbox_capacity=10**6) for _ in range(WORKERS)]
    members: list[str] = []
    reading: list[asyncio.Task[None]] = []

    async def read(backend: RedisBackend, prefix: str) -> None:
        while True:
            found: list[Delivery] = await backend.areceive_batch([prefix], limit=50, timeout=None)
            for delivery in found:
                for local in delivery.locals:
                    received.setdefault(prefix + local, Counter())[delivery.content["n"]] += 1

    async def work(backend: RedisBackend, mine: list[str]) -> None:
        for _ in range(STEPS):
            group = chance.choice(GROUPS)
            if chance.random() < 0.6:
                member = chance.choice(mine)
                is_member = chance.random() < 0.6
                oracle.begin_change(group, member)
                change = backend.agroup_add if is_member else backend.agroup_discard
                await change(group, member)
                oracle.end_change(group, member, is_member=is_member)
            else:
                number = oracle.begin_broadcast(group)
                assert await backend.asend_one(Send(group, {"n": number}, {}, 9, True)) is Outcome.SENT
                del oracle.under_way[number]
            await asyncio.sleep(chance.random() * 0.002)

    try:
        for backend in owners:
            prefix = f"in.{await backend.aopen_process('interface')}!"
            members += [f"{prefix}{number}" for number in range(LOCALS)]
            reading.append(asyncio.create_task(read(backend, prefix)))
        await asyncio.gather(
            *(work(backend, members[number::WORKERS]) for number, backend in enumerate(workers))
        )

        def is_complete() -> bool:
            return all(
                received.get(member, Counter())[number]
                for number, fact in oracle.facts.items()
                for member in fact.certain
            )

        async with asyncio.timeout(20):
            while not is_complete():
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        for member in members:
            for number, count in received.get(member, Counter()).items():
                assert count == 1, (member, number)
                assert member in oracle.facts[number].possible, (member, number)
        for group in GROUPS:
            assert set(await workers[0].agroup_channels(group)) == oracle.members[group]
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for backend in (*owners, *workers):
            await backend.aclose()
