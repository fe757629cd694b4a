"""Through a layer of Django Channels 4: one process sends and another takes; then one asks and another answers.

`measure SECONDS` prints one line of JSON.
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

from channels.layers import get_channel_layer  # noqa: E402 - importable only once Django is set up

from channels.exceptions import ChannelFull  # noqa: E402 - importable only once Django is set up

TEXT = "x" * 100
LAST = "the last"
IN_FLIGHT = 50


async def answer():
    """Answer requests until there has been none for two seconds."""
    layer, answering = get_channel_layer(), set()
    print("ready", flush=True)
    while True:
        try:
            request = await asyncio.wait_for(layer.receive("requests"), 2.0)
        except TimeoutError:
            return
        message = {"type": "answer", "number": request["number"], "text": TEXT}
        task = asyncio.create_task(layer.send(request["reply"], message))
        answering.add(task)
        task.add_done_callback(answering.discard)


async def take():
    """Take messages until the last has come, or none for two seconds; say how many there were, and for how long."""
    layer, count, channel = get_channel_layer(), 0, await listened_to("across")
    first = waiting = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0.2)  # one of the layers loses what comes before somebody reads
    print(channel, flush=True)
    await asyncio.wait([first])
    begun = ended = time.perf_counter()
    while True:
        try:
            message = await asyncio.wait_for(waiting, 2.0)
        except TimeoutError:  # the last one was lost
            break
        count += 1
        ended = time.perf_counter()
        if message["text"] == LAST:
            break
        waiting = layer.receive(channel)
    print(json.dumps([count, ended - begun]), flush=True)


async def listened_to(name):
    """A channel to send to; pub/sub needs one that is listened to before."""
    return await get_channel_layer().new_channel() if os.environ["BENCH_VARIANT"] == "pubsub" else name


class Asker:
    """One channel of this process, one reader, and the futures of those who wait; after a second they ask again."""

    def __init__(self):
        self._layer = get_channel_layer()
        self._waiting = {}
        self._numbers = itertools.count()

    async def open(self):
        self._channel = await self._layer.new_channel()
        self._reading = asyncio.create_task(self._read())
        await asyncio.sleep(0.2)  # one of the layers loses what comes before somebody reads

    async def _read(self):
        while True:
            answer = await self._layer.receive(self._channel)
            done = self._waiting.pop(answer["number"], None)
            if done is not None and not done.done():
                done.set_result(None)

    async def ask_for(self, seconds, in_flight):
        took = []
        begun = time.perf_counter()
        end = begun + seconds

        async def one_after_another():
            while time.perf_counter() < end:
                number = next(self._numbers)
                done = self._waiting[number] = asyncio.get_running_loop().create_future()
                sent = time.perf_counter()
                request = {"type": "ask", "number": number, "reply": self._channel, "text": TEXT}
                await self._layer.send("requests", request)
                try:
                    await asyncio.wait_for(done, 1.0)
                except TimeoutError:  # a message was lost
                    continue
                took.append(time.perf_counter() - sent)

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
        return len(took) / (time.perf_counter() - begun), took


async def pairs(seconds):
    """Send and receive in one process, a second."""
    layer, count, channel = get_channel_layer(), 0, await listened_to("pairs")
    message = {"type": "websocket.receive", "path": "/echo", "order": 1, "text": TEXT}
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        await layer.send(channel, message)
        try:
            received = await asyncio.wait_for(layer.receive(channel), 1.0)
        except TimeoutError:  # it was lost
            continue
        if received != message:
            raise RuntimeError(f"The layer gave {received!r} back for {message!r}")
        count += 1
    return count / (time.perf_counter() - begun)


async def across(seconds):
    """Messages a second from this process, which awaits each send, to another."""
    layer, count = get_channel_layer(), 0

    async def send(text):
        while True:
            try:
                await layer.send(channel, {"type": "echo", "path": "/echo", "order": count, "text": text})
            except ChannelFull:  # the other one is behind
                await asyncio.sleep(0.001)
            else:
                return

    with other("take") as taking:
        channel = taking.stdout.readline().decode().strip()
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            await send(TEXT)
            count += 1
        await send(LAST)
        taken, took = json.loads(taking.stdout.readline())
        return taken / took if took else 0.0


def other(role):
    return subprocess.Popen([sys.executable, __file__, role], stdout=subprocess.PIPE)


async def measure(seconds):
    await pairs(0.2)
    rate_of_pairs = await pairs(seconds)
    rate_across = await across(seconds)
    with other("answer") as answering:
        answering.stdout.readline()
        asker = Asker()
        await asker.open()
        await asker.ask_for(0.3, 1)
        _, alone = await asker.ask_for(seconds, 1)
        await asker.ask_for(0.3, IN_FLIGHT)
        rate, in_flight = await asker.ask_for(seconds, IN_FLIGHT)
        answering.terminate()
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
        sys.stdout.flush()
        os._exit(0)  # some of these layers leave threads or pools behind that never end
