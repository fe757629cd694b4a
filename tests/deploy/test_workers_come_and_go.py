"""Workers are replaced and killed while clients talk: no socket closes, and nothing is lost that may not be."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from channels_core.config import WorkerConfig
from deployment.consumers import BRIEFLY, HOLD
from deployment.engines import Engine
from deployment.fleet import Fleet
from deployment.scales import Scale, deliveries, scales_and_servers
from deployment.tables import assert_account, seconds, table, waits

THREADS = 2
ALLOWANCE = 1.0
"""Seconds that a machine may take from everybody while an interpreter starts beside them."""
CREDIT_TIMEOUT = 10.0
"""After which a connection goes on behind a frame whose worker was killed; longer than any frame waits for a worker."""
LEASE = 3.0
"""Of processes: after which what a killed worker held is given to another."""


@scales_and_servers
@deliveries
@pytest.mark.parametrize("routes", ["routes", "async_routes"], ids=["sync", "async"])
def test_proof_1_every_worker_is_replaced(
    engine: Engine, delivery: str, routes: str, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """SIGTERM to one after another, a new one started before: nothing closes, is lost or comes twice.

    Nobody waits longer than before, plus what one worker needs to finish what it holds: its threads have each begun one
    consumer, of at most HOLD seconds, and what they had taken beside it is given back.
    """
    with Fleet(engine, tmp_path, config={"delivery": {"websocket.*": delivery}}, routes=routes) as fleet:
        fleet.start(interfaces=scale.interfaces, workers=scale.workers, threads=THREADS, server=scale.server)
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, scale.clients)
        crowd.talk(scale, engine, slow=3.0)
        time.sleep(min(2.0, scale.rounds))
        before = crowd.ask("mark")
        for _ in range(scale.rounds):
            for old in list(fleet.workers):
                fleet.start_worker(threads=THREADS).wait_for("listens on")
                fleet.terminate(old)
        during = crowd.ask("mark")
        account = crowd.ask("quiet", patience=20)
        show(
            table(
                f"Proof 1, {engine.name}, {scale.server}, {delivery}, {routes}:"
                f" {scale.rounds} x {scale.workers} workers replaced",
                account,
                f"before:    {waits(before)}",
                f"meanwhile: {waits(during)}; answered by {len(during['workers'])} workers",
            )
        )
        assert_account(account, sent=scale.clients * scale.rounds)
        assert len(during["workers"]) >= scale.rounds * scale.workers
        assert during["longest"] <= before["longest"] + HOLD + ALLOWANCE
        fleet.assert_healthy()


@scales_and_servers
@deliveries
def test_proof_2_every_worker_is_killed(
    engine: Engine, delivery: str, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """SIGKILL to all at once, again and again: no socket closes.

    At-least-once: nothing is lost. At-most-once: nothing comes twice, and no more is lost than the killed held in hand:
    each thread takes no more than it can begin within ``prefetch_time``, so many of the quickest consumers.
    """
    config = {"delivery": {"websocket.*": delivery}, "process_lease": LEASE}
    with Fleet(engine, tmp_path, config=config, channels={"CREDIT_TIMEOUT": CREDIT_TIMEOUT}) as fleet:
        fleet.start(interfaces=scale.interfaces, workers=scale.workers, threads=THREADS, server=scale.server)
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, scale.clients)
        crowd.talk(scale, engine, slow=3.0)  # so that hardly a kill finds idle threads
        killed = 0
        for _ in range(scale.rounds):
            time.sleep(1.0)
            killed += len(fleet.workers)
            fleet.kill_workers()
            for _ in range(scale.workers):
                fleet.start_worker(threads=THREADS)
            fleet.wait_until_ready()
        account = crowd.ask("quiet", patience=30)
        during = crowd.ask("mark")
        in_hand = killed * THREADS * max(1, int(WorkerConfig().prefetch_time / BRIEFLY))
        show(
            table(
                f"Proof 2, {engine.name}, {scale.server}, {delivery}: {killed} workers killed",
                account,
                f"what they held in hand: at most {in_hand}; longest wait {seconds(during['longest'])}",
            )
        )
        if delivery == "at-most-once":
            assert_account(account, lost=in_hand, sent=scale.clients)
        else:
            assert_account(account, may_repeat=True, sent=scale.clients)
        fleet.assert_healthy()
