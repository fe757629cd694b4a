"""Every channel is filled to ten times its capacity: nobody exits, and each refused message is told to its sender."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from deployment.engines import Engine
from deployment.fleet import Fleet
from deployment.scales import QUICK, Scale, scales_and_servers
from deployment.tables import assert_account, seconds, table

TIMES = 10
SEND_TIMEOUT = 2.0
CHUNKS = 4
"""What a body's channel holds."""
CHUNK = 256 * 2**10
BUFFERS = 8 * 2**20
"""The most that sockets and servers may hold of an upload beside its channel."""


@scales_and_servers
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
        fleet.start(interfaces=1, workers=1, server=scale.server)
        [interface] = fleet.interfaces
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, clients, at_once=capacity // 2)
        lines = [f"\nProof 5, {engine.name}, {scale.server}: ten times the capacity of {capacity}"]

        # Frames, for a shorter time than their sockets are given.
        assert fleet.probe.members() == clients
        fleet.workers[0].signal(signal.SIGSTOP)
        crowd.ask("echo_all")
        refused = clients - capacity
        fleet.wait_until(
            lambda: fleet.probe.ask("waiting", channel="websocket.receive") >= capacity, "frames wait"
        )
        fleet.workers[0].signal(signal.SIGCONT)
        account = crowd.ask("quiet", patience=20)
        assert_account(account, sent=clients)
        full = fleet.probe.counters()["full"]
        lines.append(f"  frames:      {capacity} wait, {refused} sockets were slowed, and lost nothing")
        fleet.terminate(fleet.workers[0])

        # A body, requests, handshakes and frames, with nobody there to take them.
        body = TIMES * CHUNKS * CHUNK
        crowd.ask("start", what="upload", port=interface.port, size=body)
        fleet.wait_until(
            lambda: fleet.probe.ask("waiting", channel="http.request") == 1, "the upload has begun"
        )
        crowd.ask("start", what="get", port=interface.port, count=clients - 1)
        crowd.ask("start", what="connect", urls=[interface.url], count=clients, at_once=clients)
        crowd.ask("echo_all")
        account = crowd.ask("wait_closed", count=refused, patience=SEND_TIMEOUT + 5)
        first, last = account["kept"]
        try_later = "4013" if scale.server == "daphne" else "1013"
        assert account["closed"] == {try_later: refused}, account
        assert first >= SEND_TIMEOUT - 0.1, account
        lines.append(
            f"               {capacity} wait, {refused} sockets were slowed and after {seconds(first)} to"
            f" {seconds(last)} closed {try_later}"
        )
        lines.append(
            f"  disconnects: {refused}, of which {refused - capacity} wait for room in their channel"
        )
        taken = crowd.ask("progress")
        lines.append(
            f"  uploads:     {taken / 2**20:.1f} of {body / 2**20:.0f} MiB were taken from the client"
        )
        if scale.server != "daphne":  # which reads bodies whole first
            assert taken <= CHUNKS * CHUNK + BUFFERS, taken

        # A sender outside of consumers.
        filled = fleet.probe.ask("fill", channel="jobs", count=clients)
        assert filled == {"refused": refused, "full": refused}
        lines.append(f"  sends:       {capacity} wait, {filled['refused']} raised ChannelFull")

        # The inbox of a process that does not read.
        broadcasts = TIMES * 5 * capacity
        members = fleet.probe.members()
        interface.signal(signal.SIGSTOP)
        dropped = fleet.probe.ask("broadcast", group="room", count=broadcasts)
        interface.signal(signal.SIGCONT)
        assert dropped % members == 0
        in_inbox = broadcasts - dropped // members
        assert 5 * capacity <= in_inbox <= 6 * capacity + 1, in_inbox
        lines.append(
            f"  broadcasts:  {in_inbox} to {members} sockets wait, {dropped:,} receivers were left out and counted"
        )

        # The workers are back.
        fleet.start_worker()
        fleet.wait_until_ready()
        uploaded, got, connected = crowd.ask("finish", patience=60)
        assert uploaded == [200, body], uploaded
        assert got == {"200": capacity - 1, "503 retry-after": refused}, got
        assert connected["connected"] == capacity, connected
        assert sum(connected["refused"].values()) == refused, connected
        status = 403 if scale.server == "daphne" else 503
        assert all(f"HTTP {status}" in reason for reason in connected["refused"]), connected
        lines.append(f"  requests:    {capacity} were answered, {refused} were refused 503 with Retry-After")
        lines.append(f"  handshakes:  {capacity} were accepted, {refused} were refused {status}")

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
        assert counted["slow_closed"] == refused
        assert counted["refused"] == 2 * refused
        assert counted["full"] >= full + 3 * refused
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
