"""Thousands come and go, and leave nothing behind."""

from collections.abc import Callable
from pathlib import Path

from deployment.engines import Engine
from deployment.fleet import Fleet, family, resident
from deployment.scales import Scale, scales_and_servers
from deployment.tables import table

AT_ONCE = 20
WARM_UP = 400
CACHED = 5_000
"""Connections after which the caches of checked names, 4,096 each, have the size that they keep."""


@scales_and_servers
def test_proof_7_connections_leave_nothing_behind(
    engine: Engine, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Memory back within 5 %; sessions, memberships and keys back to zero."""
    with Fleet(engine, tmp_path, routes="session_routes", config={"process_lease": 3.0}) as fleet:
        fleet.start(interfaces=scale.interfaces, workers=2, server=scale.server)
        crowd = fleet.crowd()
        urls = [interface.url for interface in fleet.interfaces]
        warm_up = WARM_UP if scale.cycles < CACHED else CACHED
        answer = crowd.ask("come_and_go", urls=urls, count=warm_up, at_once=AT_ONCE)
        assert answer["failures"] == {}, answer
        fleet.wait_until(lambda: not any(fleet.sessions.iterdir()), "the sessions of the warm-up are gone")
        processes = [("interface", pid) for one in fleet.interfaces for pid in family(one.pid)]
        processes += [("worker", one.pid) for one in fleet.workers]
        before = [resident(pid) for _, pid in processes]
        answer = crowd.ask("come_and_go", urls=urls, count=scale.cycles, at_once=AT_ONCE)
        fleet.wait_until(lambda: not any(fleet.sessions.iterdir()), "no session is left")
        fleet.wait_until(lambda: not fleet.probe.groups(), "no membership is left")
        fleet.wait_until(lambda: not engine.kept(), "nothing is kept", lambda: dict(engine.kept()), 20)
        after = [resident(pid) for _, pid in processes]
        growth = [now / then - 1 for then, now in zip(before, after, strict=True)]
        lines = [
            f"{name:<10} {then / 2**20:6.1f} MiB before, {now / 2**20:6.1f} MiB after: {more:+.1%}"
            for (name, _), then, now, more in zip(processes, before, after, growth, strict=True)
        ]
        show(
            table(
                f"Proof 7, {engine.name}, {scale.server}: {scale.cycles:,} connect, say something and leave",
                answer,
                *lines,
                f"sessions 0, memberships 0, kept by the engine: {dict(engine.kept())}",
            )
        )
        assert answer["failures"] == {}, answer
        assert answer["closed"] == {}, answer
        figures = {
            "sent": scale.cycles,
            "delivered": scale.cycles,
            "lost": 0,
            "duplicated": 0,
            "misordered": 0,
        }
        assert answer["echo"] == figures, answer
        assert max(growth) <= 0.05, growth
        fleet.assert_healthy()
