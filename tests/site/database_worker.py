"""Processes that write to and read from a database layer, for tests: ``python -m database_worker ROLE OPTIONS``.

Options are a JSON object on the command line: ``entry`` of DATABASES, ``config`` of the layer, and the role's own.
"""

import json
import sys
import time
from typing import Any


def say(text: str) -> None:
    """A line for the test that started this process."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def make_layer(options: dict[str, Any]) -> Any:
    from django.conf import settings

    settings.configure(DATABASES={"default": options["entry"]}, USE_TZ=True)
    from channels_layer_database import DatabaseLayer

    return DatabaseLayer(**options["config"])


def write(options: dict[str, Any]) -> None:
    """Send ``count`` messages in batches; a full channel is tried again."""
    from channels_core.exceptions import LayerUnavailable
    from channels_core.layers import Outcome, Send

    layer = make_layer(options)
    writer, batch = options["writer"], options.get("batch", 10)
    numbers = list(range(options["count"]))
    while numbers:
        part = numbers[:batch]
        sends = [Send(options["channel"], {"w": writer, "n": number}, {}, 20) for number in part]
        try:
            outcomes = layer.send_batch(sends)
        except LayerUnavailable:
            time.sleep(0.02)
            continue
        done = [number for number, outcome in zip(part, outcomes, strict=True) if outcome is Outcome.SENT]
        numbers = [number for number in numbers if number not in done]
        if len(done) < len(part):
            time.sleep(0.002)
    say("done")


def read(options: dict[str, Any]) -> None:
    """Print what is received, a line for each batch, until a message of writer -1 comes."""
    from channels_core.exceptions import LayerUnavailable
    from channels_core.layers import Send, Settlement, Verdict

    layer = make_layer(options)
    say("ready")
    while True:
        try:
            found = layer.receive_batch([options["channel"]], limit=options.get("limit", 10), timeout=0.3)
            layer.settle([Settlement(one, Verdict.DONE) for one in found])
        except LayerUnavailable:
            time.sleep(0.02)
            continue
        stops = [one for one in found if one.content["w"] == -1]
        work = [[one.content["w"], one.content["n"]] for one in found if one.content["w"] != -1]
        if work:
            say(json.dumps(work))
        if stops:
            if len(stops) > 1:  # the others' share
                layer.send_batch([Send(options["channel"], one.content, {}, 20) for one in stops[1:]])
            return


def commit_late(options: dict[str, Any]) -> None:
    """Write one message to a transaction that stays open for a little while, so that ids commit out of order."""
    import random

    layer = make_layer(options)
    from django.db import transaction

    from channels_core.layers import Outcome, Send

    for number in range(options["count"]):
        with transaction.atomic():
            send = Send(options["channel"], {"w": options["writer"], "n": number}, {}, 20)
            assert layer.send_in_transaction([send]) == [Outcome.SENT]
            time.sleep(random.uniform(0, 0.003))
    say("done")


def hold(options: dict[str, Any]) -> None:
    """Take one message with a process's lease, and do nothing with it."""
    layer = make_layer(options)
    process = layer.open_process("worker")
    [delivery] = layer.receive_batch([options["channel"]], timeout=10, process=process)
    say(f"holds {delivery.content['n']}")
    time.sleep(60)  # until killed


def rest(options: dict[str, Any]) -> None:
    """Wait for a message."""
    layer = make_layer(options)
    layer.receive_batch([options["channel"]], timeout=0)
    say("rests")
    layer.receive_batch([options["channel"]], timeout=60)


if __name__ == "__main__":
    {"hold": hold, "rest": rest, "write": write, "read": read, "commit_late": commit_late}[sys.argv[1]](
        json.loads(sys.argv[2])
    )
