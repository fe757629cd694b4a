"""The load generator: one process, one thread, one epoll, no framework.

It must never be the slowest part, so the hot loops do nothing but ``recv``, one comparison, one clock reading and
``send``.  Frames are masked with the key 0, which RFC 6455 allows and which makes a masked payload equal to the plain
one.  Every answer is compared with what is due, byte for byte; anything else is taken apart by the slow path, which
answers pings and refuses everything it does not expect.

``python -m benchmarks.load MODE --port PORT ...`` prints one JSON record of :mod:`benchmarks.measurements`.
"""

import argparse
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

import msgspec
from benchmarks.measurements import (
    BroadcastLoad,
    ConnectLoad,
    EchoLoad,
    HttpLoad,
    IdleLoad,
    Percentiles,
)

__all__ = ["LoadError", "WebSocketLoad", "main"]

PAYLOAD = b"x" * 100
IP_BIND_ADDRESS_NO_PORT = 24
SOURCE_ADDRESSES = 8
PATIENCE = 60.0
BROADCAST_PATIENCE = 400.0
TEXT, BINARY, CLOSE, PING = 0x1, 0x2, 0x8, 0x9

clock = time.perf_counter


class LoadError(Exception):
    """The server answered with something other than what is due, or not at all."""


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole frame as a client sends it, masked with the key 0; up to 125 bytes of payload."""
    if len(payload) > 125:
        raise ValueError(f"The load sends payloads of at most 125 bytes, not {len(payload)}")
    return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload


def server_frame(payload: bytes) -> bytes:
    """The same payload as the server sends it: one text frame, unmasked."""
    return bytes((0x80 | TEXT, len(payload))) + payload


def connect(port: int, number: int) -> socket.socket:
    """Connect to the server from one of several loopback addresses, since each has 28,000 ports only."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((f"127.0.0.{1 + number % SOURCE_ADDRESSES}", 0))
    sock.connect(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


class CpuShare:
    """How much of one core this process used between two moments: near 1.0 the client is the limit."""

    def __init__(self) -> None:
        self._wall = clock()
        self._cpu = time.process_time()

    def read(self) -> float:
        """The share since this was made."""
        return (time.process_time() - self._cpu) / (clock() - self._wall)


class WebSocketLoad:
    """Open WebSockets on one path of one server, and the loops that use them."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._fragments: dict[int, bytes] = {}
        self._frame = client_frame(PAYLOAD)
        self._reply = server_frame(PAYLOAD)
        self._handshake = (
            f"GET {path} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\n"
            f"Origin: http://127.0.0.1:{port}\r\n"
            "Upgrade: websocket\r\n"
            "Connection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def open(self, count: int, concurrency: int) -> list[float]:
        """Open `count` sockets, never more than `concurrency` in the handshake; returns the seconds each took."""
        took: list[float] = []
        started: dict[int, float] = {}
        heads: dict[int, bytes] = {}
        begun = 0
        while len(took) < count:
            while begun < count and len(started) < concurrency:
                now = clock()
                sock = connect(self._port, begun)
                fd = sock.fileno()
                self._sockets[fd] = sock
                started[fd] = now
                heads[fd] = b""
                self._epoll.register(fd, select.EPOLLIN)
                sock.send(self._handshake)
                begun += 1
            for fd in self._ready():
                data = self._sockets[fd].recv(65536)
                if fd not in heads:
                    self._take_apart(fd, data)
                    continue
                head = heads[fd] + data
                if b"\r\n\r\n" not in head:
                    if not head:
                        raise LoadError(f"The server hung up in handshake {len(took)} of {count}")
                    heads[fd] = head
                    continue
                if not head.startswith(b"HTTP/1.1 101 "):
                    raise LoadError(
                        f"Handshake {len(took)} of {count} answered {head.splitlines()[0]!r}, not 101"
                    )
                took.append(clock() - started.pop(fd))
                del heads[fd]
                rest = head.partition(b"\r\n\r\n")[2]
                if rest:
                    self._take_apart(fd, rest)
        return took

    def close(self) -> None:
        """Drop every socket without a closing handshake."""
        for fd, sock in self._sockets.items():
            self._epoll.unregister(fd)
            sock.close()
        self._sockets.clear()
        self._epoll.close()

    def closed_loop(self, seconds: float) -> tuple[float, list[float]]:
        """Every socket sends, waits for its echo, and sends again; returns echoes a second and their latencies."""
        frame, reply, poll = self._frame, self._reply, self._epoll.poll
        receives = {fd: sock.recv for fd, sock in self._sockets.items()}
        sends = {fd: sock.send for fd, sock in self._sockets.items()}
        took: list[float] = []
        begun = clock()
        end = begun + seconds
        sent = dict.fromkeys(self._sockets, begun)
        for send in sends.values():
            send(frame)
        now = begun
        while now < end:
            ready = poll(PATIENCE)
            if not ready:
                raise LoadError(f"No echo for {PATIENCE:.0f} seconds after {len(took)} round trips")
            for fd, _ in ready:
                data = receives[fd](4096)
                if data != reply and not self._take_apart(fd, data):
                    continue
                now = clock()
                took.append(now - sent[fd])
                sent[fd] = now
                sends[fd](frame)
        rate = len(took) / (now - begun)
        outstanding = len(self._sockets)
        while outstanding:
            for fd in self._ready():
                outstanding -= self._take_apart(fd, receives[fd](4096))
        return rate, took

    def open_loop(self, rate: float, seconds: float) -> tuple[float, list[float]]:
        """Send on schedule, whatever comes back; latencies count from the moment each frame was due.

        So a stall is paid for by every frame that was due meanwhile.  Returns the rate reached and the latencies.
        """
        frame, reply, poll = self._frame, self._reply, self._epoll.poll
        fds = list(self._sockets)
        receives = {fd: sock.recv for fd, sock in self._sockets.items()}
        sends = [sock.send for sock in self._sockets.values()]
        waiting: list[deque[float]] = [deque() for _ in fds]
        index = {fd: number for number, fd in enumerate(fds)}
        interval, total, width = 1 / rate, max(1, int(rate * seconds)), len(fds)
        took: list[float] = []
        begun = clock()
        due, number, deadline = begun, 0, begun + seconds + PATIENCE
        while len(took) < total:
            now = clock()
            while due <= now and number < total:
                place = number % width
                waiting[place].append(due)
                sends[place](frame)
                number += 1
                due = begun + number * interval
            for fd, _ in poll(0):
                data = receives[fd](65536)
                echoes = 1 if data == reply else self._take_apart(fd, data)
                now = clock()
                for _ in range(echoes):
                    took.append(now - waiting[index[fd]].popleft())
            if now > deadline:
                raise LoadError(
                    f"{total - len(took)} of {total} echoes had not come back {PATIENCE:.0f} seconds late"
                )
        return total / (clock() - begun), took

    def broadcast(self) -> float:
        """The first socket sends one frame, the server passes it to all; seconds until the last socket has it."""
        reply, poll, many = self._reply, self._epoll.poll, len(self._sockets)
        receives = {fd: sock.recv for fd, sock in self._sockets.items()}
        missing = many
        begun = clock()
        next(iter(self._sockets.values())).send(self._frame)
        while missing:
            ready = poll(PATIENCE, many)
            if not ready:
                raise LoadError(
                    f"{missing} of {many} sockets heard nothing of a broadcast for {PATIENCE:.0f} seconds"
                )
            for fd, _ in ready:
                data = receives[fd](4096)
                missing -= 1 if data == reply else self._take_apart(fd, data)
        return clock() - begun

    def stay_open(self) -> None:
        """Answer pings until standard input has a line or ends."""
        stdin = sys.stdin.fileno()
        self._epoll.register(stdin, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll():
                if fd == stdin:
                    self._epoll.unregister(stdin)
                    return
                self._take_apart(fd, self._sockets[fd].recv(65536))

    def _ready(self) -> list[int]:
        ready = self._epoll.poll(PATIENCE)
        if not ready:
            raise LoadError(f"The server has been silent for {PATIENCE:.0f} seconds")
        return [fd for fd, _ in ready]

    def _take_apart(self, fd: int, data: bytes) -> int:
        """The number of due text frames that `data` completes; answers pings, keeps a broken-off frame for later."""
        if not data:
            raise LoadError("The server closed a socket without a closing handshake")
        data = self._fragments.pop(fd, b"") + data
        echoes = position = 0
        while len(data) - position >= 2:
            opcode, size, start = data[position] & 0xF, data[position + 1] & 0x7F, position + 2
            if size > 125:
                raise LoadError("The server sent a frame longer than any that is due")
            if len(data) < start + size:
                break
            payload = data[start : start + size]
            position = start + size
            if opcode == PING:
                self._sockets[fd].send(client_frame(payload, 0xA))
            elif opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if size >= 2 else 1005
                raise LoadError(f"The server closed a socket with code {code}")
            elif opcode not in {TEXT, BINARY} or payload != PAYLOAD:
                raise LoadError(f"The server sent opcode {opcode} with {payload!r}, which is not due")
            else:
                echoes += 1
        if position < len(data):
            self._fragments[fd] = data[position:]
        return echoes


def echo(port: int, options: argparse.Namespace) -> EchoLoad:
    """Warm up, load with a closed loop, then with an open one at half of the rate."""
    load = WebSocketLoad(port, "/echo")
    load.open(options.connections, 32)
    _, warm = load.closed_loop(min(0.5, options.seconds))
    share = CpuShare()
    rate, took = load.closed_loop(options.seconds)
    client_cpu = share.read()
    half_rate, half_took = load.open_loop(rate / 2, options.seconds / 2)
    load.close()
    return EchoLoad(
        round_trips=len(warm) + len(took) + len(half_took),
        rate=rate,
        latency=Percentiles.of(took),
        half_load_rate=half_rate,
        half_load_latency=Percentiles.of(half_took),
        client_cpu=client_cpu,
    )


def broadcast(port: int, options: argparse.Namespace) -> BroadcastLoad:
    """Open all sockets, let one broadcast warm the server up, then time the others one by one.

    Where the first alone takes longer than the time there is, it has to do.
    """
    load = WebSocketLoad(port, "/broadcast")
    load.open(options.connections, 32)
    share = CpuShare()
    first = load.broadcast()
    to_last = [first] if first > options.seconds else []
    while len(to_last) < options.repeats and sum(to_last) < options.seconds:
        to_last.append(load.broadcast())
    client_cpu = share.read()
    load.close()
    return BroadcastLoad(to_last=tuple(to_last), client_cpu=client_cpu)


def connects(port: int, options: argparse.Namespace) -> ConnectLoad:
    """Open a hundred sockets to warm up, then all of them; they stay open until the last one is."""
    warm = WebSocketLoad(port, "/echo")
    warm.open(100, 32)
    load = WebSocketLoad(port, "/echo")
    share, begun = CpuShare(), clock()
    took = load.open(options.connections, 32)
    rate, client_cpu = options.connections / (clock() - begun), share.read()
    warm.close()
    load.close()
    return ConnectLoad(rate=rate, latency=Percentiles.of(took), client_cpu=client_cpu)


def idle(port: int, options: argparse.Namespace) -> IdleLoad:
    """Open sockets, say so, and keep them until standard input says that is enough."""
    warm = WebSocketLoad(port, "/echo")
    warm.open(20, 4)
    warm.closed_loop(0.2)
    warm.close()
    write(IdleLoad(open=0))
    sys.stdin.readline()
    load = WebSocketLoad(port, "/echo")
    load.open(options.connections, 32)
    write(IdleLoad(open=options.connections))
    load.stay_open()
    load.close()
    return IdleLoad(open=0)


def http(port: int, options: argparse.Namespace) -> HttpLoad:
    """Keep connections busy with GET / and check every answer."""
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    sockets = [connect(port, number) for number in range(options.connections)]
    sizes = {_first_answer_size(sock, request) for sock in sockets}
    if len(sizes) != 1:
        raise LoadError(f"The answers to GET / differ in size: {sorted(sizes)}")
    size = sizes.pop()
    _, warm = _http_closed_loop(sockets, request, size, min(0.5, options.seconds))
    share = CpuShare()
    rate, took = _http_closed_loop(sockets, request, size, options.seconds)
    client_cpu = share.read()
    for sock in sockets:
        sock.close()
    return HttpLoad(
        round_trips=len(warm) + len(took), rate=rate, latency=Percentiles.of(took), client_cpu=client_cpu
    )


def _first_answer_size(sock: socket.socket, request: bytes) -> int:
    sock.settimeout(PATIENCE)
    sock.send(request)
    size = len(_whole_response(sock.recv))
    sock.setblocking(False)
    return size


def _whole_response(recv: Callable[[int], bytes]) -> bytes:
    """One answer to the hello request, read to its end; it must be 200 and say hello."""
    data = b""
    while True:
        more = recv(65536)
        data += more
        head, _, body = data.partition(b"\r\n\r\n")
        if not more or not head.startswith(b"HTTP/1.1 200 "):
            raise LoadError(f"GET / answered {data[:200]!r}, not 200")
        is_chunked = b"transfer-encoding: chunked" in head.lower()
        if body.endswith(b"0\r\n\r\n") if is_chunked else body == b"hello world":
            if b"hello world" not in body:
                raise LoadError(f"GET / answered {body[:200]!r}, not hello world")
            return data


def _http_closed_loop(
    sockets: list[socket.socket], request: bytes, size: int, seconds: float
) -> tuple[float, list[float]]:
    epoll = select.epoll()
    parts = {sock.fileno(): b"" for sock in sockets}
    receives = {sock.fileno(): sock.recv for sock in sockets}
    sends = {sock.fileno(): sock.send for sock in sockets}
    for fd in receives:
        epoll.register(fd, select.EPOLLIN)
    took: list[float] = []
    begun = clock()
    sent = dict.fromkeys(receives, begun)
    for send in sends.values():
        send(request)
    outstanding, end = len(sockets), begun + seconds
    rate = 0.0
    while outstanding:
        ready = epoll.poll(PATIENCE)
        if not ready:
            raise LoadError(f"No answer for {PATIENCE:.0f} seconds after {len(took)} requests")
        for fd, _ in ready:
            data = receives[fd](65536)
            if len(data) != size:
                data = parts[fd] + data
                if len(data) < size and data:
                    parts[fd] = data
                    continue
                parts[fd] = b""
            if len(data) != size or not data.startswith(b"HTTP/1.1 200 "):
                raise LoadError(
                    f"GET / answered {data[:200]!r} instead of the {size} bytes of its first answer"
                )
            now = clock()
            if now >= end:
                rate = rate or len(took) / (now - begun)
                outstanding -= 1
                continue
            took.append(now - sent[fd])
            sent[fd] = now
            sends[fd](request)
    epoll.close()
    return rate, took


Load = BroadcastLoad | ConnectLoad | EchoLoad | HttpLoad | IdleLoad

MODES: dict[str, Callable[[int, argparse.Namespace], Load]] = {
    "broadcast": broadcast,
    "connects": connects,
    "echo": echo,
    "http": http,
    "idle": idle,
}


def write(record: Load) -> None:
    """One line of JSON to standard output, at once."""
    sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Load one server as the command line says and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=sorted(MODES))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    try:
        write(MODES[options.mode](options.port, options))
    except (LoadError, OSError) as error:
        sys.exit(f"{options.mode} load on port {options.port}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
