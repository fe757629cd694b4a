"""One client among a hundred never reads."""

import base64
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from deployment.engines import Engine
from deployment.fleet import Fleet, Interface
from deployment.scales import Scale, scales_and_servers
from deployment.tables import assert_account, seconds, table, waits

OTHERS = 99
POURED = 64
"""Messages of 16 KiB that one frame of the deaf client asks for: 1 MiB."""
POURS = 24
OUTBOUND = 4 * 2**20
NOISE = 3.0
"""Times the 99th percentile of a run without the deaf client: two such runs differ by nearly as much."""
ALLOWANCE = 0.05
SUITE_ALLOWANCE = 0.2
"""In the suite, beside whatever else the machine does; three seconds hold few of its pauses, or many."""
CUT_WITHIN = 10.0
"""Seconds; a client that takes nothing for 30 s is cut off too, and that is not what is shown here."""


@contextmanager
def deaf_client(interface: Interface) -> Iterator[tuple[socket.socket, Callable[[str], None]]]:
    """A client with the smallest of receive buffers, which it never empties, and what sends a frame for it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", interface.port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET / HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
        ]  # fmt: skip
        sock.sendall("\r\n".join(lines).encode())
        assert sock.recv(12) == b"HTTP/1.1 101"

        def say(text: str) -> None:
            data = text.encode()
            # A frame of less than 126 bytes whose mask is zero.
            sock.sendall(struct.pack("!BBI", 0x81, 0x80 | len(data), 0) + data)

        yield sock, say


def is_held(interface: Interface, sock: socket.socket) -> bool:
    """Whether the interface server still has its end of the connection open."""
    ends = f":{interface.port:04X}", f":{sock.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any((row[1][-5:], row[2][-5:], row[3]) == (*ends, "01") for row in rows)


def drain(sock: socket.socket) -> int:
    """The bytes that come before the end of the connection, which must come."""
    total = 0
    with suppress(ConnectionResetError):
        while data := sock.recv(2**20):
            total += len(data)
    return total


@scales_and_servers
def test_proof_6_a_client_that_never_reads(
    engine: Engine, scale: Scale, tmp_path: Path, show: Callable[[str], None]
) -> None:
    """The others' p99 stays within noise, memory stays flat, and it is closed at its limit, and counted."""
    if scale.server == "daphne":
        pytest.skip("daphne takes everything into buffers without bound and never says that a client is slow")
    listen, allowance = (3.0, SUITE_ALLOWANCE) if scale.rounds < 10 else (10.0, ALLOWANCE)
    with Fleet(engine, tmp_path, config={"process_lease": 3.0}) as fleet:
        fleet.start(interfaces=1, workers=2, server=scale.server)
        [interface] = fleet.interfaces
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, OTHERS)
        crowd.talk(scale, engine)
        time.sleep(1.0)
        crowd.ask("mark")
        time.sleep(listen)
        before = crowd.ask("mark")
        memory = highest = interface.resident
        with deaf_client(interface) as (deaf, say):
            for _ in range(POURS):
                say(f"pour {POURED}")
            began = time.monotonic()
            cut = 0.0
            while not cut or time.monotonic() - began < listen:
                assert cut or time.monotonic() - began < CUT_WITHIN, f"It was not closed.\n{fleet.report()}"
                if not cut and fleet.probe.members() == OTHERS:
                    cut = time.monotonic() - began
                highest = max(highest, interface.resident)
                time.sleep(0.05)
            during = crowd.ask("mark")
            fleet.wait_until(lambda: fleet.probe.counters().get("slow_closed", 0) == 1, "it is counted, once")
            if scale.server != "hypercorn":  # which goes on trying to write
                fleet.wait_until(
                    lambda: not is_held(interface, deaf), "the server has let go of it", patience=15.0
                )
            got = drain(deaf)
        time.sleep(listen)
        after = crowd.ask("mark")
        account = crowd.ask("quiet", patience=20)
        end = interface.resident
        show(
            table(
                f"Proof 6, {engine.name}, {scale.server}: one client of {OTHERS + 1} never reads the"
                f" {POURS} MiB that it asks for",
                account,
                f"others without it: {waits(before)}",
                f"others beside it:  {waits(during)}",
                f"others after it:   {waits(after)}",
                f"it was cut off after {seconds(cut)}, with {got / 2**20:.1f} MiB on their way to it",
                f"memory of the interface server: {memory / 2**20:.1f} MiB without it, at most"
                f" {highest / 2**20:.1f} MiB beside it, {end / 2**20:.1f} MiB after it",
            )
        )
        assert_account(account, sent=OTHERS)
        assert during["p99"] <= NOISE * max(before["p99"], after["p99"]) + allowance
        assert highest - memory <= OUTBOUND + 0.1 * memory
        assert got < POURS * 2**20 / 2
        assert fleet.probe.counters()["slow_closed"] == 1
        fleet.assert_healthy()
