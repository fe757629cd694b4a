"""What a million messages that nobody will read cost those that somebody does.

Two layers in one database: one has a million expired messages in ten thousand channels, the other is empty. Pairs of
send and receive on a channel beside them, in turn on either; then `channels clean` in another process, and how long
senders wait meanwhile. `measure SECONDS` prints one line of JSON.
"""

import json
import os
import subprocess
import sys
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_settings")

import django

django.setup()

from channels_core import channel_layers  # noqa: E402 - importable only once Django is set up
from channels_core.layers import Delivery, LayerBackend, Outcome, Send  # noqa: E402 - as above
from channels_layer_database.rows import pack  # noqa: E402 - as above

EXPIRED = 1_000_000
CHANNELS = 10_000
BATCHES = 1, 10, 50
TURNS = 6
CONTENT = {"path": "/echo", "order": 1, "text": "x" * 100}

FILL = {
    "postgresql": (
        "INSERT INTO channels_msg (key, size, since, expires, body)"
        " SELECT 'dead.' || n %% {channels}, 200, now() - interval '2 min', now() - interval '1 min', %s"
        " FROM generate_series(1, {expired}) n"
    ),
    "mariadb": (
        "INSERT INTO channels_msg (id, `key`, room, size, since, expires, body)"
        " SELECT seq, CONCAT('dead.', seq %% {channels}), 1, 200, UNIX_TIMESTAMP() - 120, UNIX_TIMESTAMP() - 60, %s"
        " FROM seq_1_to_{expired} ORDER BY 2, 1"
    ),
    "sqlite": (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {expired})"
        " INSERT INTO channels_msg (key, room, size, since, expires, body)"
        " SELECT 'dead.' || i % {channels}, 1, 200, unixepoch() - 120, unixepoch() - 60, ? FROM n"
    ),
}


def fill() -> None:
    """A message of each channel in turn, all of them as old as another."""
    engine = os.environ["BENCH_ENGINE"]
    statement = FILL[engine].format(channels=CHANNELS, expired=EXPIRED)
    body = pack(CONTENT, {})
    if engine == "sqlite":
        import sqlite3

        connection = sqlite3.connect(f"{os.environ['BENCH_SQLITE_FILE']}.channels")
        with connection:
            connection.execute(statement, (body,))
        connection.close()
        return
    from django.db import connection as projects

    with projects.cursor() as cursor:
        cursor.execute(statement, [body])
    projects.close()


def pair(backend: LayerBackend, sends: list[Send]) -> None:
    outcomes = backend.send_batch(sends)
    got: list[Delivery] = []
    while len(got) < len(sends):
        got += backend.receive_batch(["live"], limit=len(sends), timeout=5.0)
    if outcomes != [Outcome.SENT] * len(sends):
        raise RuntimeError(f"The layer gave {outcomes} for {len(sends)} sends")


def pairs(backend: LayerBackend, batch: int, seconds: float) -> float:
    """Messages sent and received, a second."""
    sends = [Send("live", CONTENT, {}, 200)] * batch
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        pair(backend, sends)
        count += batch
    return count / (time.perf_counter() - begun)


def compare(seconds: float) -> dict[str, dict[str, list[float]]]:
    """For each size of batch the rates on either layer, one for each turn."""
    layers = {name: channel_layers[name].backend for name in ("default", "empty")}
    rates: dict[str, dict[str, list[float]]] = {}
    for batch in BATCHES:
        rates[str(batch)] = {"default": [], "empty": []}
        for backend in layers.values():
            pairs(backend, batch, 0.2)
        for turn in range(TURNS):
            for name in ("default", "empty") if turn % 2 else ("empty", "default"):
                rates[str(batch)][name].append(pairs(layers[name], batch, seconds / TURNS))
    return rates


def clean_beside(seconds: float) -> dict[str, object]:
    """How long each pair of one message takes while another process cleans, and how much that deletes meanwhile."""
    backend, waits = channel_layers["default"].backend, []
    sends = [Send("live", CONTENT, {}, 200)]
    with subprocess.Popen([sys.executable, __file__, "clean"], stdout=subprocess.PIPE) as cleaning:
        assert cleaning.stdout is not None
        cleaning.stdout.readline()
        before, begun = waiting(), time.perf_counter()
        while time.perf_counter() - begun < seconds and cleaning.poll() is None:
            at = time.perf_counter()
            pair(backend, sends)
            waits.append(time.perf_counter() - at)
        took = time.perf_counter() - begun
        cleaned = before - waiting()
        cleaning.kill()
    return {"waits": waits, "cleaned": cleaned / took}


def waiting() -> int:
    """The rows that are there, without the layer's help."""
    if os.environ["BENCH_ENGINE"] == "sqlite":
        import sqlite3

        connection = sqlite3.connect(f"{os.environ['BENCH_SQLITE_FILE']}.channels")
        [(count,)] = connection.execute("SELECT count(*) FROM channels_msg")
        connection.close()
    else:
        from django.db import connection as projects

        with projects.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM channels_msg")
            [(count,)] = cursor.fetchall()
    return int(count)


def clean() -> None:
    print("cleaning", flush=True)
    channel_layers["default"].backend.clean()


def measure(seconds: float) -> None:
    for name in ("default", "empty"):
        pairs(channel_layers[name].backend, 1, 0.1)  # makes the tables where migrate does not
    fill()
    print(json.dumps({"rates": compare(seconds), **clean_beside(4 * seconds)}))


if __name__ == "__main__":
    measure(float(sys.argv[2])) if sys.argv[1] == "measure" else clean()
    for layer in ("default", "empty"):
        channel_layers[layer].backend.close()
