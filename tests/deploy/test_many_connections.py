"""Thousands come and go, and leave nothing behind."""

from collections.abc import Callable
from pathlib import Path

from deployment.engines import Engine
from deployment.fleet import Fleet, resident
from deployment.scales import Scale, scales

AT_ONCE = 20
WARM_UP = 400
CACHED = 5_000
"""Connections after which the caches of checked names, 4,096 each, have the size that they keep."""


@scales
def test_proof_7_connections_leave_nothing_behind(
    engine: Engine, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Memory back within 5 %; sessions, memberships and keys back to zero."""
    with Fleet(engine, tmp_path, routes="session_routes", config={"process_lease": 3.0}) as fleet:
        fleet.start(interfaces=1, workers=2)
        crowd = fleet.crowd()
        urls = [interface.url for interface in fleet.interfaces]
        warm_up = WARM_UP if scale.cycles < CACHED else CACHED
        answer = crowd.ask("come_and_go", urls=urls, count=warm_up, at_once=AT_ONCE)
        assert answer == {"done": warm_up, "failures": {}}
        fleet.wait_until(lambda: not any(fleet.sessions.iterdir()), "the sessions of the warm-up are gone")
        processes = [*fleet.interfaces, *fleet.workers]
        before = [resident(process.pid) for process in processes]
        answer = crowd.ask("come_and_go", urls=urls, count=scale.cycles, at_once=AT_ONCE)
        fleet.wait_until(lambda: not any(fleet.sessions.iterdir()), "no session is left")
        fleet.wait_until(lambda: not fleet.probe.groups(), "no membership is left")
        fleet.wait_until(lambda: not engine.kept(), "nothing is kept", lambda: dict(engine.kept()), 20)
        after = [resident(process.pid) for process in processes]
        growth = [now / then - 1 for then, now in zip(before, after, strict=True)]
        lines = [f"\nProof 7, {engine.name}: {answer['done']:,} of {scale.cycles:,} connected and left"]
        names = ["interface", *("worker" for _ in fleet.workers)]
        lines += [
            f"  {name:<10} {then / 2**20:6.1f} MiB before, {now / 2**20:6.1f} MiB after: {more:+.1%}"
            for name, then, now, more in zip(names, before, after, growth, strict=True)
        ]
        show("\n".join([*lines, f"  sessions 0, memberships 0, kept by the engine: {dict(engine.kept())}"]))
        assert answer == {"done": scale.cycles, "failures": {}}
        assert max(growth) <= 0.05, growth
        fleet.assert_healthy()
