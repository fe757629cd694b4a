"""Many WebSocket clients in one process, which number what they say and account for each answer.

Run as a program it reads one JSON command a line and answers each with one JSON line; :class:`deployment.fleet.Crowd`
is the other end. Each client sends echoes, which come back to it alone, and some ask for broadcasts, which go to
everybody. What is neither lost nor late is known without waiting for time to pass: frames of one connection are handled
in order, so once a client's last frame has been answered, nothing before it can still be on its way.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import Counter
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

CONNECTING_AT_ONCE = 25
UNANSWERED = 4
"""Frames that a client sends ahead of the answers."""


class Client:
    """One socket, and what came of what it said."""

    def __init__(self, number: int, url: str) -> None:
        self.number = number
        self.url = url
        self.socket: ClientConnection | None = None
        self.sent = self.asked = self.highest = self.barrier = 0
        self.seen: set[int] = set()
        self.heard: dict[int, set[int]] = {}
        self.highest_heard: Counter[int] = Counter()
        self.twice = self.misordered = self.heard_twice = self.heard_misordered = 0
        self.since: dict[int, float] = {}
        self.asked_at: list[float] = []
        """When each of the broadcasts was asked for."""
        self.joined = 0.0
        self.closed: int | None = None
        self.closed_at = 0.0
        self.is_talking = False
        self.refused: str | None = None
        self.answered = asyncio.Event()
        self.reading: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self.socket is not None and self.closed is None

    async def open(self, crowd: "Visitors") -> None:
        try:
            self.socket = await connect(
                self.url, compression=None, ping_interval=None, max_size=None, open_timeout=30, proxy=None
            )
        except websockets.InvalidStatus as error:  # its body says why
            self.refused = f"HTTP {error.response.status_code}: {bytes(error.response.body or b'').decode()}"
            return
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            self.refused = f"{type(error).__name__}: {error}"
            return
        self.joined = time.monotonic()
        self.reading = asyncio.create_task(self.read(self.socket, crowd))

    async def read(self, socket: ClientConnection, crowd: "Visitors") -> None:
        try:
            while True:
                self.take(str(await socket.recv()), crowd)
        except websockets.ConnectionClosed:
            self.closed = socket.close_code or 1006
            self.closed_at = time.monotonic()
            self.answered.set()

    def take(self, text: str, crowd: "Visitors") -> None:
        kind, number, origin, *_ = text.split(" ", 3)
        n = int(number)
        if kind == "room":
            sender = int(origin)
            heard = self.heard.setdefault(sender, set())
            if n in heard:
                self.heard_twice += 1
                return
            heard.add(n)
            if n < self.highest_heard[sender]:
                self.heard_misordered += 1
            self.highest_heard[sender] = max(n, self.highest_heard[sender])
            return
        if kind == "barrier":
            self.barrier = max(self.barrier, n)
        elif n in self.seen:
            self.twice += 1
        else:
            self.seen.add(n)
            if n < self.highest:
                self.misordered += 1
            began = self.since.pop(n, None)
            if began is not None:
                crowd.note(self.url, origin, began)
        self.highest = max(self.highest, n)
        self.answered.set()

    async def say(self, text: str) -> bool:
        assert self.socket is not None
        try:
            await self.socket.send(text)
        except websockets.ConnectionClosed:
            return False
        return True

    async def broadcast(self) -> bool:
        self.asked += 1
        self.asked_at.append(time.monotonic())
        return await self.say(f"room {self.asked} {self.number}")

    async def echo(self, word: str = "echo") -> bool:
        self.sent += 1
        self.since[self.sent] = time.monotonic()
        return await self.say(f"{word} {self.sent}")

    async def talk(self, interval: float, delay: float, room_every: int, slow_every: int) -> None:
        """Send an echo every ``interval`` seconds, some of them slow ones, and after some of them a broadcast."""
        await asyncio.sleep(delay)
        due = time.monotonic()
        while self.is_open:
            while self.sent - self.highest >= UNANSWERED and self.is_open:
                self.answered.clear()
                await self.answered.wait()
            word = "slow" if slow_every and (self.sent + 1 + 7 * self.number) % slow_every == 0 else "echo"
            if not await self.echo(word):
                return
            if room_every and self.sent % room_every == 0 and not await self.broadcast():
                return
            due = max(due + interval, time.monotonic() - interval)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def reach_barrier(self, number: int) -> bool:
        """Whether everything sent before has been handled, one way or another."""
        if not self.is_open or not await self.say(f"barrier {number}"):
            return False
        while self.is_open and self.barrier < number:
            self.answered.clear()
            await self.answered.wait()
        return self.barrier >= number


class Visitors:
    """All clients of this process."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.talking: list[asyncio.Task[None]] = []
        self.waits: list[float] = []
        self.marked = self.said_at = 0.0
        self.workers: set[str] = set()
        self.urls: set[str] = set()
        self.heard_of: set[str] = set()
        """Workers and servers that any answer since the mark came from, however old the frame."""
        self.barriers = self.uploaded = 0
        self.background: list[asyncio.Task[Any]] = []

    def note(self, url: str, worker: str, began: float) -> None:
        """A frame sent at ``began`` has been answered by ``worker``."""
        self.waits.append(time.monotonic() - began)
        self.heard_of |= {worker, url}
        if began >= self.marked:
            self.workers.add(worker)
            self.urls.add(url)

    async def connect(self, urls: list[str], count: int, at_once: int = CONNECTING_AT_ONCE) -> dict[str, Any]:
        gate = asyncio.Semaphore(at_once)
        first = len(self.clients)
        new = [Client(first + n, urls[n % len(urls)]) for n in range(count)]
        self.clients += new

        async def open_one(client: Client) -> None:
            async with gate:
                await client.open(self)

        await asyncio.gather(*map(open_one, new))
        refused = Counter(client.refused for client in new if client.refused is not None)
        return {"connected": sum(client.is_open for client in new), "refused": dict(refused)}

    def talk(self, interval: float, room_every: int, speakers: int, slow_every: int) -> None:
        """Have everybody talk who does not yet, and some to the room, until there are so many of those."""
        speaking = sum(client.is_open and client.asked > 0 for client in self.clients)
        for client in self.clients:
            if client.is_open and not client.is_talking:
                client.is_talking = True
                delay = interval * client.number / len(self.clients)
                rooms = room_every if speaking < speakers else 0
                speaking += 1
                self.talking.append(asyncio.create_task(client.talk(interval, delay, rooms, slow_every)))

    def mark(self) -> dict[str, Any]:
        """How long answers took since the last mark, and who answered frames that were sent since then, and where."""
        took, self.waits = sorted(self.waits), []
        workers, self.workers = self.workers, set()
        urls, self.urls = self.urls, set()
        self.heard_of.clear()
        self.marked = time.monotonic()
        return {
            "answers": len(took),
            "p50": took[len(took) // 2] if took else None,
            "p99": took[len(took) * 99 // 100] if took else None,
            "longest": took[-1] if took else None,
            "workers": sorted(workers),
            "urls": sorted(urls),
        }

    async def wait_for_answers(self, workers: int, urls: int, patience: float) -> dict[str, Any]:
        """From now on, how long it takes until so many workers have answered, at so many servers: any frame, which
        says that they are there, and then fresh ones, which wait behind all that was said meanwhile."""
        self.mark()
        there = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while len(self.workers) < workers or len(self.urls) < urls:
                    if there is None and len(self.heard_of) == workers + urls:
                        there = time.monotonic() - self.marked
                    await asyncio.sleep(0.02)
        took = time.monotonic() - self.marked
        return {
            "took": took,
            "there": there or took,
            "workers": len(self.workers),
            "urls": len(self.urls),
        }

    async def quiet(self, patience: float) -> dict[str, Any]:
        """Stop talking, wait until everything that was said has been handled, and account for it."""
        for talking in self.talking:
            talking.cancel()
        await asyncio.gather(*self.talking, return_exceptions=True)
        self.talking.clear()
        for client in self.clients:
            client.is_talking = False
        everybody = [client for client in self.clients if client.is_open]
        stuck = await self.reach_barriers(everybody, patience)
        unreached = 0
        if everybody:  # whatever became of earlier broadcasts, this one is for all
            caller = everybody[0]
            await caller.broadcast()
            stuck = max(stuck, await self.reach_barriers([caller], patience))
            # Its inbox may be another process's, but every broadcast before this point is in all of them now.
            stuck = max(stuck, await self.reach_barriers(everybody, patience))
            unreached = sum(
                client.is_open and caller.asked not in client.heard.get(caller.number, ())
                for client in everybody
            )
        return {**self.account(), "stuck": stuck, "unreached": unreached}

    async def reach_barriers(self, clients: list[Client], patience: float) -> int:
        """Wait until everything that these said before has been handled; how many wait in vain."""
        self.barriers += 1
        reaching = [
            asyncio.create_task(client.reach_barrier(self.barriers)) for client in clients if client.is_open
        ]
        if not reaching:
            return 0
        _, pending = await asyncio.wait(reaching, timeout=patience)
        for task in pending:
            task.cancel()
        return len(pending)

    def account(self) -> dict[str, Any]:
        """The figures, of clients that are open and for each close code."""
        stayed = [client for client in self.clients if client.is_open]
        speakers = [client for client in self.clients if client.asked]
        room_lost = room_partly = heard = 0
        for speaker in speakers:
            for n in range(1, speaker.asked + 1):
                meant = [client for client in stayed if client.joined < speaker.asked_at[n - 1]]
                receivers = sum(n in client.heard.get(speaker.number, ()) for client in meant)
                heard += receivers
                if speaker.is_open and receivers == 0:
                    room_lost += 1
                elif receivers < len(meant) and receivers:
                    room_partly += 1
        return {
            "clients": len(self.clients),
            "open": len(stayed),
            "closed": dict(
                Counter(str(client.closed) for client in self.clients if client.closed is not None)
            ),
            "echo": {
                "sent": sum(client.sent for client in stayed),
                "delivered": sum(len(client.seen) for client in stayed),
                "lost": sum(client.sent - len(client.seen) for client in stayed),
                "duplicated": sum(client.twice for client in stayed),
                "misordered": sum(client.misordered for client in stayed),
            },
            "room": {
                "sent": sum(speaker.asked for speaker in speakers),
                "delivered": heard,
                "lost": room_lost,
                "partly": room_partly,
                "duplicated": sum(client.heard_twice for client in stayed),
                "misordered": sum(client.heard_misordered for client in stayed),
            },
        }

    async def come_and_go(self, urls: list[str], count: int, at_once: int) -> dict[str, Any]:
        """Connect, say something, disconnect: ``count`` times."""
        numbers = iter(range(count))
        failures: Counter[str] = Counter()
        echo = Counter(dict.fromkeys(("sent", "delivered", "lost", "duplicated", "misordered"), 0))
        closed: Counter[str] = Counter()

        async def one_after_another() -> None:
            for number in numbers:
                client = Client(number, urls[number % len(urls)])
                await client.open(self)
                if client.socket is None:
                    failures[client.refused or "?"] += 1
                    continue
                try:
                    async with asyncio.timeout(30):
                        await client.echo()
                        while client.is_open and not client.seen:
                            client.answered.clear()
                            await client.answered.wait()
                except TimeoutError:
                    failures["unanswered"] += 1
                if client.closed is not None:
                    closed[str(client.closed)] += 1
                await client.socket.close()
                if client.reading is not None:
                    await client.reading
                echo["sent"] += client.sent
                echo["delivered"] += len(client.seen)
                echo["lost"] += client.sent - len(client.seen)
                echo["duplicated"] += client.twice
                echo["misordered"] += client.misordered

        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        return {"failures": dict(failures), "echo": echo, "closed": dict(closed)}

    async def echo_all(self) -> dict[str, Any]:
        """Each says one frame."""
        self.said_at = time.monotonic()
        said = await asyncio.gather(*(client.echo() for client in self.clients if client.is_open))
        return {"said": sum(said)}

    async def get(self, port: int, count: int) -> dict[str, Any]:
        """So many requests at once; how many were answered with each status, and with Retry-After."""
        answers: Counter[str] = Counter()

        async def get_one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            head = (await reader.read()).partition(b"\r\n\r\n")[0].lower()
            writer.close()
            status = head.split(b" ", 2)[1].decode() if head else "nothing"
            answers[status + (" retry-after" if b"\r\nretry-after:" in head else "")] += 1

        await asyncio.gather(*(get_one() for _ in range(count)))
        return dict(answers)

    def start(self, what: str, **options: Any) -> None:
        """Do something in the background; :meth:`finish` gives the answers of all that was started."""
        self.background.append(asyncio.create_task(getattr(self, what)(**options)))

    async def finish(self, patience: float) -> list[Any]:
        background, self.background = self.background, []
        async with asyncio.timeout(patience):
            return await asyncio.gather(*background)

    async def say_one(self, text: str) -> bool:
        """One of the open ones says it."""
        return await next(client for client in self.clients if client.is_open).say(text)

    async def wait_closed(self, count: int, patience: float) -> dict[str, Any]:
        """Wait until so many of the clients are closed; how long the first kept its frame, and the last."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while sum(client.closed is not None for client in self.clients) < count:
                    await asyncio.sleep(0.02)
        kept = [client.closed_at - self.said_at for client in self.clients if client.closed is not None]
        return {**self.account(), "kept": [min(kept, default=None), max(kept, default=None)]}

    async def upload(self, port: int, size: int) -> list[int]:
        """Send a body of so many bytes as fast as it is taken; status and text of the answer, which is a number."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        writer.write(
            b"POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % size
        )
        piece = bytes(2**16)
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
            self.uploaded += len(piece)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        status = int(head.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" in head.lower():
            body = body.split(b"\r\n")[1]
        return [status, int(body) if status == 200 else 0]

    def progress(self) -> int:
        """The bytes of bodies that have been taken."""
        return self.uploaded

    async def close(self) -> dict[str, Any]:
        await asyncio.gather(*(client.socket.close() for client in self.clients if client.socket is not None))
        self.clients.clear()
        return {}

    async def obey(self, command: dict[str, Any]) -> Any:
        answer = getattr(self, command.pop("do"))(**command)
        return await answer if asyncio.iscoroutine(answer) else answer


async def main() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    visitors = Visitors()
    sys.stdout.write('"ready"\n')
    sys.stdout.flush()
    while line := await commands.readline():
        sys.stdout.write(json.dumps(await visitors.obey(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
