"""What has to happen until every command of a request has its reply: redirects, missing scripts, passing refusals.

A :class:`Course` knows what to do next and does no input or output: the asynchronous and the blocking client carry out
its steps. Commands that did not run are repeated, in their order; one that may have run never is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeAlias

from channels_core.outage import pauses
from channels_layer_redis.transport.addresses import Address
from channels_layer_redis.transport.replies import (
    TRANSIENT,
    CommandError,
    Reply,
    TransportError,
    Unanswered,
    Unsent,
)
from channels_layer_redis.transport.routing import Ask, Router
from channels_layer_redis.transport.scripts import Command, Script

__all__ = ["Course", "Dispatch", "Drop", "Pause", "Step", "settled"]

_REPEATS: Final = 4
"""Times a command is repeated at once; beyond, a cluster is taken not to have made up its mind."""


@dataclass(frozen=True)
class Dispatch:
    """Put each parcel to its server, all at the same time; send back a list of replies for each, failures in place."""

    parcels: Sequence[tuple[Address, Sequence[Command]]]


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """Give up the connection to this server, which is not what it was; the next command makes a new one."""

    address: Address


Step: TypeAlias = Dispatch | Pause | Drop | Ask


class _Open:
    """In the place of a reply that is still to come: where the command goes, with what before it, and why again."""

    __slots__ = ("address", "before", "error")

    def __init__(
        self,
        address: Address | None = None,
        before: Sequence[Command] = (),
        error: TransportError | None = None,
    ) -> None:
        self.address = address
        self.before = before
        self.error = error


class Course:
    """A request's way. ``replies`` may hold what a first attempt brought."""

    def __init__(
        self,
        router: Router,
        scripts: Mapping[str, Script],
        commands: Sequence[Command],
        replies: list[Reply] | None = None,
        *,
        retry_timeout: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._router = router
        self._scripts = scripts
        self._commands = commands
        self._retry_timeout = retry_timeout
        self._clock = clock
        self.replies: list[Reply] = [_Open() for _ in commands] if replies is None else replies
        self._before: list[Sequence[Command]] = [()] * len(commands)
        self._repeats = 0
        self._must_pause = False
        self._must_survey = False

    @property
    def answered(self) -> tuple[list[Command], list[Reply]]:
        """The commands that have a reply so far, and their replies."""
        pairs = [
            (command, reply)
            for command, reply in zip(self._commands, self.replies, strict=True)
            if not isinstance(reply, (_Open, TransportError))
        ]
        return [command for command, _ in pairs], [reply for _, reply in pairs]

    def steps(self) -> Generator[Step, Any, list[Reply]]:
        """What to do, one step after the other; returns the replies, failures in the places of theirs."""
        end = self._clock() + self._retry_timeout
        waits = pauses(0.02, 0.5)
        self._must_survey = self._router.needs_survey
        if not any(reply.__class__ is _Open for reply in self.replies):
            yield from self._judge(range(len(self.replies)), [None] * len(self.replies))
        while indexes := [i for i, reply in enumerate(self.replies) if reply.__class__ is _Open]:
            is_over = self._must_pause and self._clock() >= end
            if self._must_pause and not is_over:
                yield Pause(next(waits))
            if self._must_survey:  # also when it comes too late for this request
                try:
                    yield from self._router.survey()
                except Unsent as error:
                    self._give_up(str(error))
                    break
            if is_over:
                break
            self._must_pause = self._must_survey = False
            addresses, parcels = self._parcels(indexes)
            answers = yield Dispatch(list(parcels.items()))
            self._take(indexes, addresses, dict(zip(parcels, answers, strict=True)))
            yield from self._judge(indexes, addresses)
        self._give_up(f"Refused for longer than {self._retry_timeout:g} s")
        return self.replies

    def _give_up(self, reason: str) -> None:
        for index, reply in enumerate(self.replies):
            if isinstance(reply, _Open):
                self.replies[index] = Unsent(f"{reason} ({reply.error})" if reply.error else reason)

    def _parcels(self, indexes: list[int]) -> tuple[list[Address], dict[Address, list[Command]]]:
        addresses: list[Address] = []
        parcels: dict[Address, list[Command]] = {}
        for index in indexes:
            reply = self.replies[index]
            address = reply.address or self._router.address_for(self._commands[index])
            addresses.append(address)
            parcels.setdefault(address, []).extend((*reply.before, self._commands[index]))
        return addresses, parcels

    def _take(
        self, indexes: list[int], addresses: list[Address], answers: dict[Address, list[Reply]]
    ) -> None:
        """Put each answer to its command; those to what went before it are of no interest."""
        places = dict.fromkeys(answers, 0)
        for index, address in zip(indexes, addresses, strict=True):
            place = places[address] + len(self.replies[index].before)
            self.replies[index] = answers[address][place]
            places[address] = place + 1

    def _judge(
        self, indexes: Sequence[int], addresses: Sequence[Address | None]
    ) -> Generator[Step, Any, None]:
        """Open again what did not run and may run another time."""
        dropped: set[Address] = set()
        for index, address in zip(indexes, addresses, strict=True):
            reply = self.replies[index]
            if isinstance(reply, TransportError):
                asked = address or self._router.address_for(self._commands[index])
                again = self._again(index, reply, asked)
                self._before[index] = () if again is None else again.before
                if again is not None:
                    self.replies[index] = again
                    if isinstance(reply, CommandError) and _has_changed_role(reply):
                        dropped.add(asked)
        for address in dropped:
            yield Drop(address)

    def _again(self, index: int, reply: TransportError, asked: Address) -> _Open | None:
        """How the command is to be repeated, if it did not run."""
        if isinstance(reply, CommandError):
            if reply.code in ("MOVED", "ASK"):
                return self._redirected(reply, asked)
            if reply.code == "NOSCRIPT":
                return self._with_script(index, reply, asked)
            if reply.code in TRANSIENT or _has_changed_role(reply):
                self._must_pause = True
                self._must_survey |= reply.code not in ("LOADING", "TRYAGAIN", "BUSY")
                return _Open(error=reply)
        elif isinstance(reply, Unsent) and self._router.is_discovered:
            self._must_pause = self._must_survey = True
            return _Open(error=reply)
        return None

    def _redirected(self, reply: CommandError, asked: Address) -> _Open | None:
        if not self._router.is_discovered:
            return None
        code, slot, place = reply.text.split()[:3]
        host, _, port = place.rpartition(":")
        address = Address(host or asked.host, int(port))
        self._count()
        if code == "ASK":
            return _Open(address, (("ASKING",),), reply)
        self._router.moved(int(slot), address)
        self._must_survey = True
        return _Open(address, (), reply)

    def _with_script(self, index: int, reply: CommandError, asked: Address) -> _Open | None:
        script = self._scripts.get(str(self._commands[index][1]))
        if script is None:
            return None
        self._count()
        kept = tuple(command for command in self._before[index] if command[0] == "ASKING")
        return _Open(asked, (("SCRIPT", "LOAD", script.source), *kept), reply)

    def _count(self) -> None:
        self._repeats += 1
        self._must_pause |= self._repeats > _REPEATS * len(self._commands)


def _has_changed_role(reply: CommandError) -> bool:
    """Whether the server is no master any more; it ends blocking reads with the last of these."""
    return reply.code in ("READONLY", "MASTERDOWN") or (
        reply.code == "UNBLOCKED" and "instance state changed" in reply.text
    )


def settled(replies: list[Reply]) -> list[Reply]:
    """``replies``, if any of them is a server's.

    Raises :class:`Unsent` when no command was written at all, :class:`Unanswered` when some were and none answered.
    """
    unanswered: TransportError | None = None
    for reply in replies:
        if not isinstance(reply, (Unsent, Unanswered)):
            return replies
        if isinstance(reply, Unanswered):
            unanswered = reply
    if unanswered is not None:
        raise Unanswered(str(unanswered))
    raise Unsent(str(replies[0]))
