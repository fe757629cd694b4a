"""Ask and answer through a layer between two processes, the way interface and worker do it.

The asking process holds one inbox and hands answers to whoever waits for them; the answering one takes what there is
and sends the answers with the call that fetches the next requests. Before that, one sends, one message after another,
and the other only takes. `measure SECONDS` prints one line of JSON.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_settings")

import django

django.setup()

from channels_core import ChannelFull, channel_layers  # noqa: E402 - importable only once Django is set up
from channels_core.layers import Settlement, Turn, Verdict  # noqa: E402 - as above

TEXT = "x" * 100
LAST = "the last"
IN_FLIGHT = 50


async def answer() -> None:
    """Answer requests until there has been none for two seconds."""
    layer = channel_layers["default"]
    backend = layer.backend
    turns: list[Turn] = []
    print("ready", flush=True)
    while True:
        exchange = await backend.aexchange(turns, ["requests"], limit=64, timeout=2.0)
        if not exchange.deliveries:
            return
        turns = [
            Turn(
                [layer.prepare(request.content["reply"], {"number": request.content["number"], "text": TEXT})]
            )
            for request in exchange.deliveries
        ]


async def take() -> None:
    """Take messages until the last has come, the way a worker does; say how many there were."""
    backend = channel_layers["default"].backend
    process = await backend.aopen_process("worker", label="bench")
    print("across", flush=True)
    turns: list[Turn] = []
    count, is_last = 0, False
    while not is_last:
        exchange = await backend.aexchange(turns, ["across"], limit=64, timeout=2.0, process=process)
        turns = [Turn((), Settlement(delivery, Verdict.DONE)) for delivery in exchange.deliveries]
        count += len(turns)
        is_last = any(delivery.content["text"] == LAST for delivery in exchange.deliveries)
    await backend.aexchange(turns, [])
    print(count, flush=True)


class Asker:
    """One inbox, and the futures of those who wait for answers."""

    def __init__(self) -> None:
        self._layer = channel_layers["default"]
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count()
        self._prefix = ""
        self._process = ""

    async def open(self) -> None:
        self._process = await self._layer.backend.aopen_process("other", label="bench")
        self._prefix = f"answers.{self._process}!"
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        renewed = time.monotonic()
        while True:
            deliveries = await self._layer.backend.areceive_batch([self._prefix], limit=64, timeout=1.0)
            for delivery in deliveries:
                self._waiting.pop(delivery.content["number"]).set_result(None)
            if time.monotonic() - renewed > 2.0:
                renewed = time.monotonic()
                await self._layer.backend.arenew_process(self._process)

    async def ask(self) -> float:
        number = next(self._numbers)
        done = self._waiting[number] = asyncio.get_running_loop().create_future()
        request = {"number": number, "reply": f"{self._prefix}local", "text": TEXT}
        begun = time.perf_counter()
        await self._layer.asend("requests", request)
        await done
        return time.perf_counter() - begun

    async def ask_for(self, seconds: float, in_flight: int) -> tuple[float, list[float]]:
        took: list[float] = []
        end = time.perf_counter() + seconds

        async def one_after_another() -> None:
            while time.perf_counter() < end:
                took.append(await self.ask())

        begun = time.perf_counter()
        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
        return len(took) / (time.perf_counter() - begun), took

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._layer.backend.aclose_process(self._process)


async def pairs(seconds: float) -> float:
    """Send and receive in one process, a second."""
    layer, count = channel_layers["default"], 0
    message = {"reply_channel": "websocket.send.bench!1", "path": "/echo", "order": 1, "text": TEXT}
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        await layer.asend("pairs", message)
        _, received = await layer.areceive(["pairs"])
        if received != message:
            raise RuntimeError(f"The layer gave {received!r} back for {message!r}")
        count += 1
    return count / (time.perf_counter() - begun)


async def across(seconds: float) -> float:
    """Messages a second from this process, which awaits each send, to another."""
    layer, count = channel_layers["default"], 0

    async def send(text: str) -> None:
        while True:
            try:
                await layer.asend("across", {"path": "/echo", "order": count, "text": text})
            except ChannelFull:  # the other one is behind
                await asyncio.sleep(0.001)
            else:
                return

    with other("take") as taking:
        assert taking.stdout is not None
        taking.stdout.readline()
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            await send(TEXT)
            count += 1
        await send(LAST)
        taken = int(taking.stdout.readline())
        return taken / (time.perf_counter() - begun)


def other(role: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, role], stdout=subprocess.PIPE)


async def measure(seconds: float) -> None:
    await pairs(0.2)
    rate_of_pairs = await pairs(seconds)
    rate_across = await across(seconds)
    with other("answer") as answering:
        assert answering.stdout is not None
        answering.stdout.readline()
        asker = Asker()
        await asker.open()
        await asker.ask_for(0.3, 1)
        _, alone = await asker.ask_for(seconds, 1)
        await asker.ask_for(0.3, IN_FLIGHT)
        rate, in_flight = await asker.ask_for(seconds, IN_FLIGHT)
        await asker.close()
    print(
        json.dumps(
            {
                "pairs": rate_of_pairs,
                "across": rate_across,
                "alone": alone,
                "in_flight": in_flight,
                "in_flight_rate": rate,
            }
        )
    )


if __name__ == "__main__":
    import uvloop

    work = {"measure": lambda: measure(float(sys.argv[2])), "answer": answer, "take": take}[sys.argv[1]]()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
