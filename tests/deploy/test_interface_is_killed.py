"""One of two interface servers is killed."""

import time
from collections.abc import Callable
from pathlib import Path

from deployment.engines import Engine
from deployment.fleet import Fleet
from deployment.scales import Scale, deliveries, scales
from deployment.tables import assert_account, seconds, table, waits

LEASE = 3.0
LOOK = 1.0
"""Seconds after the end of a lease until somebody has looked."""
ALLOWANCE = 1.0


@scales
@deliveries
def test_proof_4_an_interface_server_is_killed(
    engine: Engine, delivery: str, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Its sockets close, its memberships are gone within the lease, the others notice nothing."""
    config = {"delivery": {"websocket.*": delivery}, "process_lease": LEASE}
    with Fleet(engine, tmp_path, config=config) as fleet:
        fleet.start(interfaces=2, workers=scale.workers)
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, scale.clients)
        victims = scale.clients // 2
        crowd.talk(scale, engine)
        time.sleep(1.5)
        before = crowd.ask("mark")
        fleet.kill_interface(fleet.interfaces[0])
        killed = time.monotonic()
        crowd.ask("wait_closed", count=victims, patience=2)
        fleet.wait_until(
            lambda: fleet.probe.members() == scale.clients - victims,
            "its memberships are gone",
        )
        gone = time.monotonic() - killed
        time.sleep(1.0)
        during = crowd.ask("mark")
        account = crowd.ask("quiet", patience=20)
        show(
            table(
                f"Proof 4, {engine.name}, {delivery}: one of two interface servers killed",
                account,
                f"its memberships were gone after {seconds(gone)}, with a lease of {seconds(LEASE)}",
                f"others before:    {waits(before)}",
                f"others meanwhile: {waits(during)}",
            )
        )
        assert_account(account, sent=scale.clients, closed={"1006": victims})
        assert gone <= LEASE + LOOK
        assert during["longest"] <= before["longest"] + ALLOWANCE
        assert len(fleet.probe.processes("interface")) == 1
        fleet.assert_healthy()
