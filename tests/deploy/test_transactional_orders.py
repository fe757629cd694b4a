"""Messages that commit or roll back with the data around them, while workers are killed at random."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployment.engines import ENGINES, Engine
from deployment.fleet import Fleet
from deployment.scales import Scale, scales

LEASE = 3.0


@pytest.fixture(params=["postgresql", "mariadb", "sqlite-shared"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine whose messages can be written in a transaction."""
    with ENGINES[request.param](tmp_path) as running:
        yield running


@scales
def test_exactly_the_committed_orders_are_consumed(
    database: Engine, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Each at least once and, by the key that its consumer writes, effectively once."""
    orders = scale.cycles
    config = {
        "delivery": {"orders": "at-least-once"},
        "channel_capacity": {"orders": orders},
        "process_lease": LEASE,
    }
    with Fleet(database, tmp_path, config=config, routes="shop", apps=["deployment.shop"]) as fleet:
        for _ in range(scale.workers):
            fleet.start_worker()
        fleet.wait_until_ready()
        clerk = subprocess.Popen(
            [sys.executable, "-m", "deployment.shop.clerk", str(orders)], env=fleet.environment, cwd=tmp_path
        )
        killed = 0
        began = time.monotonic()
        try:
            while clerk.poll() is None or killed < scale.rounds:
                assert time.monotonic() - began < 300
                time.sleep(random.uniform(0.1, 0.8))
                victim = random.choice(fleet.workers)
                fleet.kill_workers([victim])
                killed += 1
                fleet.start_worker().wait_for("listens on")
        finally:
            clerk.kill()
            clerk.wait(10)
        assert clerk.returncode == 0
        fleet.wait_until(lambda: fleet.probe.ask("waiting", channel="orders") == 0, "all orders are consumed")
        saved, attempts, receipts = (
            fleet.probe.ask("numbers", table=f"shop_{name}") for name in ("order", "attempt", "receipt")
        )
        show(
            f"\nTransactional orders, {database.name}: {killed} workers killed\n"
            f"  orders begun {orders:,}, committed {len(saved):,}, consumed {len(set(attempts)):,},"
            f" calls {len(attempts):,}, receipts {len(receipts):,}"
        )
        assert sorted(saved) == [number for number in range(orders) if number % 2 == 0]
        assert set(attempts) == set(saved)
        assert sorted(receipts) == sorted(saved)
        fleet.assert_healthy()
