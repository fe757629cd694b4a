"""One of two interface servers is killed."""

import time
from collections.abc import Callable
from pathlib import Path

from deployment.engines import Engine
from deployment.fleet import Fleet
from deployment.scales import Scale, deliveries, scales_and_servers
from deployment.tables import assert_account, seconds, table, waits

LEASE = 3.0
LOOK = 1.0
"""Seconds after the end of a lease until somebody has looked."""
NOISE = 3.0
"""Times the 99th percentile of before: two quiet runs differ by nearly as much."""
ALLOWANCE = 0.1
PAUSE = 1.0
"""Seconds that nobody may wait longer than before."""


@scales_and_servers
@deliveries
def test_proof_4_an_interface_server_is_killed(
    engine: Engine, delivery: str, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Its sockets close, its memberships are gone within the lease, the others notice nothing.

    In the long form another takes its place, and is killed in turn. When all have left, nothing is kept of the dead.
    """
    config = {"delivery": {"websocket.*": delivery}, "process_lease": LEASE}
    times = 3 if scale.rounds >= 10 else 1
    with Fleet(engine, tmp_path, config=config) as fleet:
        fleet.start(interfaces=2, workers=scale.workers, server=scale.server)
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, scale.clients)
        victims = scale.clients // 2
        gone, notes = 0.0, []
        for killed in range(1, times + 1):
            if killed > 1:
                interface = fleet.start_interface(scale.server)
                fleet.wait_until_ready()
                crowd.connect([interface], victims)
            crowd.talk(scale, engine)
            time.sleep(0.5)
            crowd.ask("mark")
            time.sleep(1.5 if times == 1 else 5.0)
            before = crowd.ask("mark")
            fleet.kill_interface(fleet.interfaces[-1])
            at = time.monotonic()
            account = crowd.ask("wait_closed", count=killed * victims, patience=2)
            assert account["closed"] == {"1006": killed * victims}, account
            fleet.wait_until(
                lambda: fleet.probe.members() == scale.clients - victims,
                "its memberships are gone",
            )
            gone = max(gone, time.monotonic() - at)
            time.sleep(1.0)
            during = crowd.ask("mark")
            notes += [f"others before:    {waits(before)}", f"others meanwhile: {waits(during)}"]
            if times > 1:  # else so few that the machine's own pauses decide
                assert during["p99"] <= NOISE * before["p99"] + ALLOWANCE, notes
            assert during["longest"] <= before["longest"] + PAUSE, notes
        account = crowd.ask("quiet", patience=20)
        crowd.ask("close")
        fleet.wait_until(lambda: not engine.kept(), "nothing is kept", lambda: dict(engine.kept()), 20)
        show(
            table(
                f"Proof 4, {engine.name}, {scale.server}, {delivery}: one of two interface servers killed,"
                f" {times} times",
                account,
                f"its memberships were gone after {seconds(gone)}, with a lease of {seconds(LEASE)}",
                *notes,
                f"kept by the engine when all have left: {dict(engine.kept())}",
            )
        )
        assert_account(account, sent=scale.clients, closed={"1006": times * victims})
        assert gone <= LEASE + LOOK
        assert len(fleet.probe.processes("interface")) == 1
        fleet.assert_healthy()
