"""The layer, seen from a process of its own that knows the site's settings and nothing else of it.

Reads one JSON command a line and answers each with one JSON line; :class:`deployment.fleet.Probe` is the other end.
"""

import json
import sys
import time
from typing import Any

from django.db import connection

from channels_core import Channel, ChannelFull, Group, channel_layers
from channels_django import conf


def group_count(group: str) -> int:
    return channel_layers["default"].backend.group_count(group)


def groups() -> dict[str, int]:
    return channel_layers["default"].backend.groups()


def processes() -> list[dict[str, Any]]:
    return [
        {"id": process.id, "kind": process.kind, "counters": process.counters}
        for process in channel_layers["default"].backend.processes()
    ]


def fill(channel: str, count: int) -> dict[str, int]:
    """How many of so many sends were refused, and how many were counted as refused."""
    counters = channel_layers["default"].counters
    before, refused = counters.full, 0
    for n in range(count):
        try:
            Channel(channel).send({"n": n})
        except ChannelFull:
            refused += 1
    return {"refused": refused, "full": counters.full - before}


def broadcast(group: str, count: int) -> int:
    """How many members were left out of so many broadcasts, in all."""
    counters = channel_layers["default"].counters
    before = counters.group_dropped
    for n in range(1, count + 1):
        Group(group).send({"text": f"room {n} 0"})
    return counters.group_dropped - before


def waiting(channel: str) -> int:
    """The messages of a channel that nobody has settled."""
    return sum(
        figures.pending + figures.leased
        for figures in channel_layers["default"].backend.statistics([channel])
    )


def numbers(table: str) -> list[int]:
    """The column ``number`` of a table."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT number FROM {connection.ops.quote_name(table)}")
        return [number for (number,) in cursor.fetchall()]


def pose() -> str:
    """Takes a lease as an interface server; returns its process id."""
    return channel_layers["default"].backend.open_process("interface")


def answers(process: str, count: int, patience: float) -> list[list[Any]]:
    """So many messages to the connections of ``process``: local part, content, and the credit that came with it."""
    prefixes = [f"http.response.{process}!", f"websocket.send.{process}!"]
    found: list[list[Any]] = []
    end = time.monotonic() + patience
    while len(found) < count and time.monotonic() < end:
        for one in channel_layers["default"].backend.receive_batch(
            prefixes, limit=9, timeout=0.2, process=process
        ):
            content = {key: str(value) for key, value in one.content.items()}
            found += [[local, content, one.headers.get("c-credited")] for local in one.locals]
    return found


COMMANDS = {
    function.__name__: function
    for function in (group_count, groups, processes, fill, broadcast, waiting, numbers, pose, answers)
}


def main() -> None:
    conf.configure()
    answer("ready")
    for line in sys.stdin:
        command = json.loads(line)
        answer(COMMANDS[command.pop("do")](**command))
    channel_layers["default"].close()


def answer(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
