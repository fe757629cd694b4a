"""Send to and receive from this project's memory layer, one message at a time, as users do it.

BENCH_VARIANT=async takes the asynchronous methods.
"""

import asyncio
import json
import os
import sys
import time

from channels_core import ChannelLayer, ChannelLayers, Config, LayerConfig

MESSAGE = {"reply_channel": "websocket.send.bench!1", "path": "/echo", "order": 1, "text": "x" * 100}


def make_layer() -> ChannelLayer:
    return ChannelLayers(Config(layers={"default": LayerConfig(backend="memory")}))["default"]


def exchange(pairs: int) -> float:
    """Seconds for that many pairs of send and receive."""
    layer, received = make_layer(), None
    begun = time.perf_counter()
    for _ in range(pairs):
        layer.send("bench", MESSAGE)
        _, received = layer.receive(["bench"])
    return since(begun, received)


async def aexchange(pairs: int) -> float:
    """The same with the asynchronous methods."""
    layer, received = make_layer(), None
    begun = time.perf_counter()
    for _ in range(pairs):
        await layer.asend("bench", MESSAGE)
        _, received = await layer.areceive(["bench"])
    return since(begun, received)


def since(begun: float, received: object) -> float:
    seconds = time.perf_counter() - begun
    if received != MESSAGE or received is MESSAGE:
        raise RuntimeError(f"The layer gave {received!r} back for {MESSAGE!r}")
    return seconds


def run(pairs: int) -> float:
    return asyncio.run(aexchange(pairs)) if os.environ.get("BENCH_VARIANT") == "async" else exchange(pairs)


def main() -> None:
    """Warm up, then time the number of pairs that the command line asks for."""
    pairs = int(sys.argv[1])
    run(pairs // 10)
    print(json.dumps({"pairs": pairs / run(pairs)}))


if __name__ == "__main__":
    main()
