"""The layer kit catches what it is there for: for many a law a backend that breaks it."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, settings

from channels_core.layers import (
    ChannelFigures,
    Delivery,
    Exchange,
    LayerBackend,
    Outcome,
    Send,
    Settlement,
    Turn,
    Verdict,
)
from channels_core.testing.conformance import LayerConformance
from channels_layer_memory import MemoryBackend


class Kit(LayerConformance):
    takes_clock = True
    patience = 1.0
    model_settings = settings(
        LayerConformance.model_settings, max_examples=300, phases=[Phase.generate], derandomize=True
    )

    def __init__(self, make: type[LayerBackend]) -> None:
        self.make = make

    def make_backend(self, **options: Any) -> LayerBackend:
        return self.make(**options)


def check(law: str, backend: type[LayerBackend], *, is_async: bool = False) -> None:
    kit = Kit(backend)
    with kit.opening(is_async=is_async) as open_layer:
        getattr(kit, law)(open_layer)


class Spacious(MemoryBackend):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "capacity": 10**6})


class Stingy(MemoryBackend):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "capacity": max(1, options.get("capacity", 100) - 1)})


class Lower(MemoryBackend):
    def send_one(self, send: Send) -> Outcome:
        return super().send_one(
            Send(send.channel.lower(), send.content, send.headers, send.size, send.is_group)
        )


class Stack(MemoryBackend):
    def receive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        return super().receive_batch(channels, **{**options, "limit": 1000})[::-1]


class Jsonish(MemoryBackend):
    def receive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        found = super().receive_batch(channels, **options)
        for one in found:
            one.content.update(
                {key: int(value) for key, value in one.content.items() if isinstance(value, float | bool)}
            )
        return found


class Headless(MemoryBackend):
    def receive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        found = super().receive_batch(channels, **options)
        for one in found:
            one.headers.clear()
        return found


class Immortal(MemoryBackend):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            **{**options, "expiry": 1e9, "lease": 1e9, "group_expiry": 1e9, "process_lease": 1e9}
        )


class Mute(MemoryBackend):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, None if name == "on_expired" else value)


class Forgiving(MemoryBackend):
    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        outcomes = super().send_batch(sends)
        return [Outcome.SENT if one is Outcome.GONE else one for one in outcomes]


class EachMember(MemoryBackend):
    """Sends to each member of a group for itself, and gives all of them the same dict."""

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        for send in sends:
            if send.is_group:
                members = self.group_channels(send.channel)
                super().send_batch([Send(name, send.content, send.headers, send.size) for name in members])
        flat = [Send(send.channel, send.content, send.headers, send.size, send.is_group) for send in sends]
        direct = super().send_batch([send for send in flat if not send.is_group])
        return [Outcome.SENT if send.is_group else direct.pop(0) for send in sends]


class StrictGroups(MemoryBackend):
    def group_discard(self, group: str, channel: str) -> None:
        if channel not in self.group_channels(group):
            raise KeyError(channel)
        super().group_discard(group, channel)


class Undead(MemoryBackend):
    def close_channel(self, channel: str) -> None:
        pass

    def close_process(self, process: str) -> None:
        pass


class Unfair(MemoryBackend):
    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        for name in channels:
            found = super().receive_batch([name], limit=limit, timeout=0, process=process)
            if found:
                return found
        return super().receive_batch(channels, limit=limit, timeout=timeout, process=process)


class Greedy(MemoryBackend):
    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        receive = super().receive_batch
        return [one for name in channels for one in receive([name], limit=limit, timeout=0, process=process)]


class Deaf(MemoryBackend):
    def wake(self) -> None:
        pass


class Careless(MemoryBackend):
    """Loses what it had in hand when its task is cancelled."""

    async def areceive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        found = await super().areceive_batch(channels, **options)
        await asyncio.sleep(0.01)
        return found


class Generous(MemoryBackend):
    """Gives what it gave before to the next one too."""

    last: list[Delivery] | None = None

    def receive_batch(self, channels: Sequence[str], **options: Any) -> list[Delivery]:
        found = super().receive_batch(channels, **options)
        if self.last and found:
            found = [*self.last, *found]
            self.last = None
        elif found:
            self.last = found
        return found


class Repeating(MemoryBackend):
    def settle(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            if not settlement.delivery.is_leased:
                settlement.delivery.token.is_spent = False
        super().settle(settlements)


class FrontRequeue(MemoryBackend):
    def settle(self, settlements: Sequence[Settlement]) -> None:
        super().settle(
            [
                Settlement(one.delivery, Verdict.RELEASE) if one.verdict is Verdict.REQUEUE else one
                for one in settlements
            ]
        )


class Patient(MemoryBackend):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "max_attempts": 10**6})


class Hasty(MemoryBackend):
    """Settles a turn whatever became of its sends."""

    def exchange(self, turns: Sequence[Turn], channels: Sequence[str], **options: Any) -> Exchange:
        exchange = super().exchange([Turn(turn.sends) for turn in turns], channels, **options)
        self.settle([turn.settlement for turn in turns if turn.settlement is not None])
        return exchange


class Miscounting(MemoryBackend):
    def statistics(self, channels: Any = None) -> list[ChannelFigures]:
        return [
            ChannelFigures(channel=one.channel, pending=one.pending + one.leased, leased=0, oldest_age=0.0)
            for one in super().statistics(channels)
        ]


class HalfFlushed(MemoryBackend):
    def flush(self) -> None:
        kept = dict.fromkeys(self.groups())
        members = {group: self.group_channels(group) for group in kept}
        super().flush()
        for group, channels in members.items():
            for channel in channels:
                self.group_add(group, channel)


class Shy(MemoryBackend):
    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        return super().renew_process(process)


class Apart(MemoryBackend):
    """Each prefix is received from by itself."""

    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        found: list[Delivery] = []
        for name in sorted(channels):
            found += super().receive_batch([name], limit=limit - len(found), timeout=0, process=process)
        return found or super().receive_batch(channels, limit=limit, timeout=timeout, process=process)


class Ghostly(MemoryBackend):
    """Keeps in the child what the parent had."""

    def _start_empty(self) -> None:
        if not hasattr(self, "_queues"):
            super()._start_empty()


BROKEN: list[tuple[str, type[LayerBackend]]] = [
    ("test_a_message_arrives_on_its_channel_alone", Lower),
    ("test_every_kind_of_value_arrives_equal_and_of_its_type", Jsonish),
    ("test_any_value_arrives_equal_and_of_its_type", Jsonish),
    ("test_headers_arrive_beside_the_content", Headless),
    ("test_receivers_of_one_group_send_share_no_state", EachMember),
    ("test_capacity_never_refuses_below_the_limit_and_refuses_at_it", Spacious),
    ("test_capacity_never_refuses_below_the_limit_and_refuses_at_it", Stingy),
    ("test_each_send_has_its_outcome_in_order", Forgiving),
    ("test_sends_to_a_dead_process_are_gone_and_counted", Forgiving),
    ("test_one_reader_gets_a_channel_in_the_order_of_the_sends", Stack),
    ("test_order_holds_between_direct_and_group_sends_to_one_member", Stack),
    ("test_messages_older_than_the_expiry_are_not_delivered", Immortal),
    ("test_expired_messages_take_no_room", Immortal),
    ("test_expired_messages_under_flow_control_are_reported", Mute),
    ("test_a_broadcast_is_one_delivery_for_each_process", EachMember),
    ("test_discarding_a_stranger_is_nothing", StrictGroups),
    ("test_a_closed_channels_memberships_end_and_stay_ended", Undead),
    ("test_memberships_end_with_the_process_that_owns_the_member", Undead),
    ("test_memberships_of_channels_without_an_owner_lapse", Immortal),
    ("test_processes_are_listed_while_their_lease_runs", Shy),
    ("test_a_process_that_is_not_renewed_ends", Immortal),
    ("test_the_prefixes_of_a_process_are_received_in_one_order", Apart),
    ("test_the_limit_counts_over_all_channels", Greedy),
    ("test_a_busy_channel_cannot_starve_a_quiet_one", Unfair),
    ("test_busy_channels_take_turns_whoever_else_receives", Unfair),
    ("test_a_message_that_arrives_later_is_received", Greedy),
    ("test_wake_ends_every_wait", Deaf),
    ("test_settling_an_at_most_once_delivery_twice_is_nothing", Repeating),
    ("test_at_most_once_can_be_requeued_to_the_back", FrontRequeue),
    ("test_a_requeue_goes_to_the_back_with_its_content", FrontRequeue),
    ("test_a_lease_that_runs_out_brings_the_message_back", Immortal),
    ("test_after_its_last_attempt_a_message_is_dead", Patient),
    ("test_leases_come_back_when_their_process_ends", Undead),
    ("test_a_turn_is_settled_only_when_each_of_its_sends_is_final", Hasty),
    ("test_statistics_tell_leased_from_waiting", Miscounting),
    ("test_statistics_say_how_long_the_oldest_waits", Miscounting),
    ("test_flush_deletes_messages_and_groups_and_keeps_processes", HalfFlushed),
    ("test_each_message_has_exactly_one_reader", Generous),
    ("test_capacity_holds_under_many_writers", Spacious),
    ("test_a_forked_child_shares_nothing_of_a_local_layer", Ghostly),
    *(
        ("test_any_sequence_of_calls_does_what_the_model_says", broken)
        for broken in (Spacious, Stack, EachMember, Immortal)
    ),
]


@pytest.mark.parametrize(("law", "broken"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_backend_that_breaks_a_law_fails_that_test(law: str, broken: type[LayerBackend]) -> None:
    with pytest.raises((AssertionError, KeyError, TimeoutError, ValueError)):
        check(law, broken)


def test_losing_what_a_cancelled_task_had_in_hand_fails() -> None:
    with pytest.raises(AssertionError):
        check("test_a_cancelled_receive_loses_nothing", Careless, is_async=True)


def test_the_laws_that_are_broken_here_can_be_kept() -> None:
    for law in {law for law, _ in BROKEN}:
        check(law, partial(MemoryBackend))  # type: ignore[arg-type]  # makes a backend as the class does


def test_a_law_is_overridden_with_a_reason_or_not_at_all() -> None:
    with pytest.raises(TypeError) as caught:

        class Cheating(LayerConformance):
            def test_wake_ends_every_wait(self, open_layer: Any) -> None:
                pass

    assert str(caught.value) == (
        "test_a_law_is_overridden_with_a_reason_or_not_at_all.<locals>.Cheating.test_wake_ends_every_wait overrides a"
        " law of layers. A law may only be broken openly: decorate it with pytest.mark.xfail(strict=True, reason='why"
        " this backend cannot keep it') and call super().test_wake_ends_every_wait(...) in it; or give the test of your"
        " own another name."
    )
    with pytest.raises(TypeError, match=re.escape("overrides a law of layers")):

        class Wordless(LayerConformance):
            @pytest.mark.xfail(strict=True)
            def test_wake_ends_every_wait(self, open_layer: Any) -> None:
                super().test_wake_ends_every_wait(open_layer)

    class Honest(LayerConformance):
        @pytest.mark.xfail(strict=True, reason="the engine has no way to end a wait")
        def test_wake_ends_every_wait(self, open_layer: Any) -> None:
            super().test_wake_ends_every_wait(open_layer)

        def test_of_my_own(self) -> None:
            pass

    assert issubclass(Honest, LayerConformance)


def test_a_kit_without_its_backend_says_what_to_write() -> None:
    class Bare(LayerConformance):
        pass

    with pytest.raises(NotImplementedError) as caught:
        Bare().make_backend()
    assert str(caught.value) == (
        "Bare does not say how a backend is made: define make_backend(self, **options) in it, returning a LayerBackend"
        " that was given the options."
    )


def test_backends_without_leases_skip_what_is_about_them(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from channels_core.testing.conformance import LayerConformance
        from channels_layer_memory import MemoryBackend

        class AtMostOnce(MemoryBackend):
            delivery_classes = frozenset({"at-most-once"})

        class TestAtMostOnce(LayerConformance):
            takes_clock = True

            def make_backend(self, **options):
                return AtMostOnce(**options)
        """
    )
    result = pytester.runpytest_inprocess(
        "-q", "-rs", "-p", "no:asyncio", "-p", "no:django", "-k", "settled or requeue or dead"
    )
    outcomes = result.parseoutcomes()
    assert "failed" not in outcomes
    assert outcomes["skipped"] > 5
    result.stdout.fnmatch_lines(["*AtMostOnce has no at-least-once channels*"])


def test_failing_laws_show_what_differs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from channels_core.testing.conformance import LayerConformance
        from channels_layer_memory import MemoryBackend

        class Stack(MemoryBackend):
            def receive_batch(self, channels, **options):
                return super().receive_batch(channels, **options)[::-1]

        class TestStack(LayerConformance):
            def make_backend(self, **options):
                return Stack(**options)
        """
    )
    arguments = ("-q", "-p", "no:django", "-k", "takes_what_there_is and sync and not async")
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["E *assert ?3, 2, 1, 0? == ?0, 1, 2, 3?", "E *At index 0 diff: 3 != 0"])


pytest_plugins = ["pytester"]
