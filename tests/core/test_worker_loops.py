"""The event loop that async consumers run on is the one that was chosen."""

import asyncio
import sys

import pytest
import uvloop

from channels_core import ConfigurationError
from channels_core.config import WorkerConfig
from channels_core.worker.loops import loop_factory


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ("auto", uvloop.Loop),
        ("asyncio", asyncio.SelectorEventLoop),
        ("uvloop.new_event_loop", uvloop.Loop),
        ("asyncio:SelectorEventLoop", asyncio.SelectorEventLoop),
    ],
)
def test_the_loop_is_of_the_chosen_kind(choice: str, kind: type) -> None:
    loop = loop_factory(choice)()
    try:
        assert type(loop) is kind
    finally:
        loop.close()


def test_without_uvloop_auto_is_asyncios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("auto") is asyncio.new_event_loop


def test_a_path_that_names_nothing_is_refused_when_the_worker_is_made() -> None:
    with pytest.raises(ConfigurationError) as caught:
        loop_factory(WorkerConfig(event_loop="asyncio.no_loop").event_loop)
    assert str(caught.value) == (
        "The worker's option event_loop names 'asyncio.no_loop', but 'asyncio' has no attribute 'no_loop'."
        " Write 'auto', 'asyncio' or such a path."
    )
