"""The server behind the layer restarts, dies and stalls: processes wait for it and come back with it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deployment.engines import Engine
from deployment.fleet import Crowd, Fleet
from deployment.scales import Scale, deliveries, scales_and_servers
from deployment.tables import assert_account, seconds, table

BACK_WITHIN = 5.0
STALL = 5.0


class Returns:
    """How long processes take to come back, at most."""

    def __init__(self, crowd: Crowd, fleet: Fleet) -> None:
        self.crowd = crowd
        self.fleet = fleet
        self.there: dict[str, float] = {}
        """Seconds until every worker has answered, and every interface server passed on, any frame."""
        self.fresh: dict[str, float] = {}
        """And a frame that was sent after the server had come back: it waits behind all that were sent before."""

    def measure(self, what: str) -> None:
        crowd, fleet = self.crowd, self.fleet
        answer = crowd.ask(
            "wait_for_answers",
            workers=len(fleet.workers),
            urls=len(fleet.interfaces),
            patience=4 * BACK_WITHIN,
        )
        expected = len(fleet.workers), len(fleet.interfaces)
        assert (answer["workers"], answer["urls"]) == expected, f"{answer}\n{fleet.report()}"
        self.there[what] = max(self.there.get(what, 0.0), answer["there"])
        self.fresh[what] = max(self.fresh.get(what, 0.0), answer["took"])

    def notes(self) -> list[str]:
        return [
            f"{name} after: " + ", ".join(f"{what} {seconds(value)}" for what, value in took.items())
            for name, took in (("back", self.there), ("new frames answered", self.fresh))
        ]

    def check(self, engine: Engine) -> None:
        assert max(self.there.values()) <= BACK_WITHIN, self.there
        assert max(self.fresh.values()) <= BACK_WITHIN * engine.pace, self.fresh


@scales_and_servers
@deliveries
def test_proof_3_the_server_restarts_dies_and_stalls(
    engine: Engine, delivery: str, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Nobody exits, no socket closes, all are back within five seconds, and members are members still.

    At-least-once: nothing is lost. At-most-once: nothing comes twice.
    """
    server = engine.server
    if server is None:
        pytest.skip(f"{engine.name} has no server to restart")
    # What a stalled server holds is late, not lost: nobody gives it up before.
    channels = {"CREDIT_TIMEOUT": 2 * STALL}
    with Fleet(engine, tmp_path, config={"delivery": {"websocket.*": delivery}}, channels=channels) as fleet:
        fleet.start(interfaces=scale.interfaces, workers=scale.workers, server=scale.server)
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, scale.clients)
        crowd.talk(scale, engine)
        returns = Returns(crowd, fleet)
        for _ in range(max(1, scale.rounds // 3)):
            time.sleep(1.0)
            server.stop()
            server.start()
            returns.measure("restart")
            if delivery == "at-least-once" or not engine.repeats_after_crash:
                server.kill()
                server.start()
                returns.measure("kill")
            server.pause()
            time.sleep(STALL)
            server.resume()
            returns.measure("stall")
        members = fleet.probe.members()
        account = crowd.ask("quiet", patience=45)
        show(
            table(
                f"Proof 3, {engine.name}, {scale.server}, {delivery}: server restarted, killed and stalled"
                f" for {STALL:.0f} s",
                account,
                *returns.notes(),
                f"members of the room: {members}",
            )
        )
        assert members == scale.clients
        if delivery == "at-most-once":
            assert_account(account, lost=None, sent=scale.clients)
        else:
            assert_account(account, may_repeat=True, sent=scale.clients)
        returns.check(engine)
        fleet.assert_healthy()


@scales_and_servers
def test_proof_3_the_server_is_away_for_longer_than_the_lease_of_a_process(
    engine: Engine, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Time in which there is no server ends nobody's lease: no socket closes, members are members still."""
    server = engine.server
    if server is None:
        pytest.skip(f"{engine.name} has no server to stop")
    is_long = scale.cycles > 1000
    lease, outage = (9.0, 15.0) if is_long else (2.0, 4.0)
    config = {"delivery": {"websocket.*": "at-least-once"}, "process_lease": lease}
    with Fleet(engine, tmp_path, config=config, channels={"CREDIT_TIMEOUT": 2 * outage}) as fleet:
        fleet.start(interfaces=scale.interfaces, workers=scale.workers, server=scale.server)
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, scale.clients)
        crowd.talk(scale, engine)
        time.sleep(1.0)
        server.stop()
        time.sleep(outage)
        server.start()
        returns = Returns(crowd, fleet)
        returns.measure("away")
        time.sleep(lease)  # whoever is not renewed by then, is taken for dead
        server.pause()
        time.sleep(outage)
        server.resume()
        returns.measure("stall")
        time.sleep(lease)
        members = fleet.probe.members()
        account = crowd.ask("quiet", patience=45)
        show(
            table(
                f"Proof 3, {engine.name}, {scale.server}: server away and stalled"
                f" for {outage:.0f} s each, leases of {lease:.0f} s",
                account,
                *returns.notes(),
                f"members of the room: {members}",
            )
        )
        assert members == scale.clients
        assert_account(account, may_repeat=True, sent=scale.clients)
        returns.check(engine)
        fleet.assert_healthy()
