"""The queue of held sends among threads and forks."""

import os
import sys
import threading
from contextvars import copy_context

import pytest

from channels_core import Channel, ChannelLayer
from channels_core.held import HeldSends, current_held
from channels_core.layers import Send
from channels_layer_memory.layer import MemoryBackend


def test_threads_that_send_to_two_layers_at_once_never_part_a_send_from_its_layer() -> None:
    home, other = ChannelLayer(MemoryBackend()), ChannelLayer(MemoryBackend())
    held = HeldSends(home)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def add(layer: ChannelLayer, name: str) -> None:
        for _ in range(3000):
            assert held.append(layer, Send(name, {}, {}, 0))

    try:
        threads = [threading.Thread(target=add, args=pair) for pair in ((home, "home"), (other, "other"))]
        for thread in threads:
            thread.start()
        add(home, "home")
        add(other, "other")
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    held.close()

    assert [send.channel for send in held.sends] == ["home"] * 6000
    assert [(layer, send.channel) for layer, send in held.foreign] == [(other, "other")] * 6000


def test_whoever_adds_while_the_run_ends_knows_whether_it_was_in_time() -> None:
    layer = ChannelLayer(MemoryBackend())
    send = Send("x", {}, {}, 0)
    for _ in range(300):
        held = HeldSends(layer)
        begun = threading.Barrier(3)
        taken: list[int] = []

        def add(held: HeldSends = held, begun: threading.Barrier = begun, taken: list[int] = taken) -> None:
            begun.wait()
            count = 0
            while held.append(layer, send):
                count += 1
            taken.append(count)

        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        held.close()
        count = len(held.sends)
        for thread in threads:
            thread.join()

        assert count == len(held.sends) == sum(taken)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_process_forked_inside_a_consumer_sends_at_once() -> None:
    layer = ChannelLayer(MemoryBackend())
    held = HeldSends(layer)

    def consume() -> int:
        current_held.set(held)
        Channel("out", channel_layer=layer).send({"from": "parent"})
        child = os.fork()
        if child == 0:
            Channel("out", channel_layer=layer).send({"from": "child"})
            # The child's memory layer is its own and began empty.
            os._exit(0 if layer.receive(["out"]) == ("out", {"from": "child"}) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert copy_context().run(consume) == 0
    assert [send.content for send in held.sends] == [{"from": "parent"}]
    assert not held.is_closed
