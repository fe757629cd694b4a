"""Every channel is filled to ten times its capacity: nobody exits, and each refused message is told to its sender."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from deployment.engines import Engine
from deployment.fleet import Fleet
from deployment.scales import QUICK, Scale, scales
from deployment.tables import assert_account, table

TIMES = 10
SEND_TIMEOUT = 2.0


@scales
def test_proof_5_ten_times_the_capacity(
    engine: Engine, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """Requests and handshakes are answered 503, sockets are slowed and then closed 1013, senders get ChannelFull."""
    capacity = 10 if scale.rounds < 10 else 50
    clients = TIMES * capacity
    config = {"capacity": capacity, "inbox_capacity": 5 * capacity, "process_lease": 3.0}
    channels = {
        "WORKER_GRACE": 600.0,
        "WEBSOCKET_HANDSHAKE_TIMEOUT": 60.0,
        "WEBSOCKET_SEND_TIMEOUT": SEND_TIMEOUT,
    }
    with Fleet(engine, tmp_path, config=config, channels=channels) as fleet:
        fleet.start(interfaces=1, workers=1)
        [interface] = fleet.interfaces
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, clients, at_once=capacity // 2)
        fleet.terminate(fleet.workers[0])
        lines = [f"\nProof 5, {engine.name}: ten times the capacity of {capacity}"]

        # Requests, handshakes and frames, with nobody there to take them.
        crowd.ask("start", what="get", port=interface.port, count=clients)
        crowd.ask("start", what="connect", urls=[interface.url], count=clients, at_once=clients)
        crowd.ask("say_all", text="echo 1")
        account = crowd.ask("wait_closed", count=clients - capacity, patience=SEND_TIMEOUT + 5)
        assert account["closed"] == {"1013": clients - capacity}, account
        lines.append(
            f"  frames:      {capacity} wait, {clients - capacity} sockets were slowed and closed 1013"
        )

        # A sender outside of consumers.
        filled = fleet.probe.ask("fill", channel="jobs", count=clients)
        assert filled == {"refused": clients - capacity, "full": clients - capacity}
        lines.append(f"  sends:       {capacity} wait, {filled['refused']} raised ChannelFull")

        # The inbox of a process that does not read.
        broadcasts = TIMES * 5 * capacity
        members = fleet.probe.members()
        os.kill(interface.pid, signal.SIGSTOP)
        dropped = fleet.probe.ask("broadcast", group="room", count=broadcasts)
        os.kill(interface.pid, signal.SIGCONT)
        assert dropped % members == 0
        in_inbox = broadcasts - dropped // members
        assert 5 * capacity <= in_inbox <= 6 * capacity + 1, in_inbox
        lines.append(
            f"  broadcasts:  {in_inbox} to {members} sockets wait, {dropped:,} receivers were left out and counted"
        )

        # The workers are back.
        fleet.start_worker()
        fleet.wait_until_ready()
        got, connected = crowd.ask("finish", patience=60)
        assert got == {"200": capacity, "503 retry-after": clients - capacity}, got
        assert connected["connected"] == capacity, connected
        assert sum(connected["refused"].values()) == clients - capacity, connected
        assert all("HTTP 503" in reason for reason in connected["refused"]), connected
        lines.append(
            f"  requests:    {capacity} were answered, {clients - capacity} were refused 503 with Retry-After"
        )
        lines.append(f"  handshakes:  {capacity} were accepted, {clients - capacity} were refused 503")

        # A consumer that sends to a channel which nobody reads.
        before = fleet.probe.counters("worker").get("dropped", 0)
        crowd.ask("say_one", text=f"jobs {clients}")
        fleet.wait_until(
            lambda: fleet.probe.counters("worker").get("dropped", 0) - before == clients,
            f"a consumer's {clients} sends to the full channel are counted as dropped",
        )
        lines.append(f"  a consumer:  {clients} sends to the full channel were given up and counted")

        counters = fleet.probe.counters()
        counted = {name: counters.get(name, 0) for name in ("full", "refused", "slow_closed")}
        lines.append(f"  the interface server counted: {counted}")
        assert counted["slow_closed"] == clients - capacity
        assert counted["refused"] == 2 * (clients - capacity)
        assert counted["full"] >= 3 * (clients - capacity)
        stayed = 2 * capacity
        fleet.wait_until(
            lambda: fleet.probe.members() == stayed,
            "those who were closed are no members any more",
        )

        # And as if nothing had been.
        crowd.ask("close")
        crowd.connect(fleet.interfaces, 20, at_once=capacity // 2)
        crowd.talk(QUICK, engine)
        time.sleep(1.5)
        account = crowd.ask("quiet", patience=20)
        show(table("\n".join([*lines, "  and afterwards"]), account))
        assert_account(account, sent=20)
        fleet.assert_healthy()
