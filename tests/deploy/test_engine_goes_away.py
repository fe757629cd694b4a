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


def time_to_return(crowd: Crowd, fleet: Fleet) -> float:
    """Seconds until every worker has answered, and every interface server passed on, a frame sent from now on."""
    answer = crowd.ask(
        "wait_for_answers", workers=len(fleet.workers), urls=len(fleet.interfaces), patience=4 * BACK_WITHIN
    )
    expected = len(fleet.workers), len(fleet.interfaces)
    assert (answer["workers"], answer["urls"]) == expected, f"{answer}\n{fleet.report()}"
    took: float = answer["took"]
    return took


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
        took: dict[str, float] = {}
        for _ in range(max(1, scale.rounds // 3)):
            time.sleep(1.0)
            server.stop()
            server.start()
            took["restart"] = max(took.get("restart", 0.0), time_to_return(crowd, fleet))
            server.kill()
            server.start()
            took["kill"] = max(took.get("kill", 0.0), time_to_return(crowd, fleet))
            server.pause()
            time.sleep(STALL)
            server.resume()
            took["stall"] = max(took.get("stall", 0.0), time_to_return(crowd, fleet))
        members = fleet.probe.members()
        account = crowd.ask("quiet", patience=45)
        show(
            table(
                f"Proof 3, {engine.name}, {scale.server}, {delivery}: server restarted, killed and stalled"
                f" for {STALL:.0f} s",
                account,
                "back after: " + ", ".join(f"{what} {seconds(value)}" for what, value in took.items()),
                f"members of the room: {members}",
            )
        )
        assert members == scale.clients
        if delivery == "at-most-once":
            assert_account(account, lost=None, sent=scale.clients)
        else:
            assert_account(account, may_repeat=True, sent=scale.clients)
        assert max(took.values()) <= BACK_WITHIN, took
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
        took = {"away": time_to_return(crowd, fleet)}
        time.sleep(lease)  # whoever is not renewed by then, is taken for dead
        server.pause()
        time.sleep(outage)
        server.resume()
        took["stall"] = time_to_return(crowd, fleet)
        time.sleep(lease)
        members = fleet.probe.members()
        account = crowd.ask("quiet", patience=45)
        show(
            table(
                f"Proof 3, {engine.name}, {scale.server}: server away and stalled"
                f" for {outage:.0f} s each, leases of {lease:.0f} s",
                account,
                "back after: " + ", ".join(f"{what} {seconds(value)}" for what, value in took.items()),
                f"members of the room: {members}",
            )
        )
        assert members == scale.clients
        assert_account(account, may_repeat=True, sent=scale.clients)
        assert max(took.values()) <= BACK_WITHIN, took
        fleet.assert_healthy()
