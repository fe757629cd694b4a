"""Send to and receive from the in-memory layer of Django Channels 4, one message at a time."""

import asyncio
import json
import sys
import time

from channels.layers import InMemoryChannelLayer


async def exchange(pairs):
    """Seconds for that many pairs of send and receive."""
    layer = InMemoryChannelLayer()
    message = {"type": "websocket.receive", "path": "/echo", "order": 1, "text": "x" * 100}
    begun = time.perf_counter()
    for _ in range(pairs):
        await layer.send("bench", message)
        received = await layer.receive("bench")
    seconds = time.perf_counter() - begun
    if received != message:
        raise RuntimeError(f"The layer gave {received!r} back for {message!r}")
    return seconds


def main():
    """Warm up, then time the number of pairs that the command line asks for."""
    pairs = int(sys.argv[1])
    asyncio.run(exchange(pairs // 10))
    seconds = asyncio.run(exchange(pairs))
    print(json.dumps({"pairs": pairs / seconds}))


if __name__ == "__main__":
    main()
