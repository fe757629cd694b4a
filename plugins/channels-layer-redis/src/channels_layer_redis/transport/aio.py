"""The asynchronous client: one coalescing connection for commands to each server, others for reads that block.

Whatever is asked for in one turn of the event loop leaves in one write; nothing on that way makes a task or takes a
lock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from channels_core.outage import pauses
from channels_layer_redis.transport.addresses import Address, Endpoint, Login
from channels_layer_redis.transport.conversation import Conversation, Disorder, Request, Suffices, segments
from channels_layer_redis.transport.course import Course, Dispatch, Drop, Pause, settled
from channels_layer_redis.transport.greeting import Greeting, Refused, read_login
from channels_layer_redis.transport.replies import Reply, TransportError, Unanswered, Unsent
from channels_layer_redis.transport.routing import MASTER, Ask
from channels_layer_redis.transport.scripts import Command
from channels_layer_redis.transport.sockets import FIRST_PAUSE, LONGEST_PAUSE, keep_alive, shortened

if TYPE_CHECKING:
    from channels_layer_redis.transport.shared import Shared

__all__ = ["AsyncClient"]

_LOOKS: Final = 4
"""How often a connection is looked at within the time it has to answer."""
_UNBLOCK_AGAIN: Final = 0.02


class _Link(asyncio.Protocol):
    """One connection. ``lost`` is called once, when it is of no use any more."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        place: str,
        answer_timeout: float,
        lost: Callable[[_Link], None],
    ) -> None:
        self._loop = loop
        self._place = place
        self._lost = lost
        self._call_soon = loop.call_soon
        self._conversation = Conversation()
        self._waiting = self._conversation.waiting
        self._feed = self._conversation.feed
        self._posted: list[Request] = []
        self._transport: asyncio.Transport | None = None
        self._is_writable = True
        self._is_flush_due = False
        self._answer_timeout = answer_timeout
        self._period = answer_timeout / _LOOKS
        self._timer: asyncio.TimerHandle | None = None
        self._has_heard = False
        self._silent_looks = 0
        self._patience = _LOOKS
        self.id = 0
        self.can_unblock = True
        self.is_up = False
        self.is_closing = False
        self.is_retired = False

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._posted

    def post(self, request: Request) -> None:
        """Write the request at the end of this turn of the loop."""
        if self.is_closing:
            request.fail(Unsent(f"Not sent: the connection to {self._place} was lost"))
            return
        self._posted.append(request)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._call_soon(self._flush)

    def retire(self) -> None:
        """Take no more requests, and end with the last answer that is still to come."""
        self.is_retired = True
        if self.is_idle:
            self.end("it was no longer wanted")

    def expect_silence(self, seconds: float) -> None:
        """The next answer may take ``seconds`` longer than others."""
        self._patience = _LOOKS + math.ceil(seconds / self._period)
        self._silent_looks = 0

    def _flush(self) -> None:
        self._is_flush_due = False
        if not self._is_writable or not self.is_up:
            return  # resume_writing() comes, or connection_lost() has been
        posted, self._posted = self._posted, []
        packed: list[bytes] = []
        for request in posted:
            waiter = request.waiter
            if waiter is not None and waiter.cancelled():
                request.fail(Unsent("Not sent: cancelled before"))
                continue
            self._waiting.append(request)
            packed += request.packed
            request.packed = []
        if packed:
            write = self._transport.write  # type: ignore[union-attr]  # is_up
            for segment in segments(packed):
                write(segment)
            if self._timer is None:
                self._silent_looks = 0
                self._timer = self._loop.call_later(self._period, self._look)

    def _look(self) -> None:
        """Whether the server still answers; runs only while something waits, a few times per ``answer_timeout``."""
        self._timer = None
        if not self._waiting:
            return
        self._silent_looks = 0 if self._has_heard else self._silent_looks + 1
        self._has_heard = False
        if self._silent_looks >= self._patience:
            self.end(f"{self._place} has not answered for {self._answer_timeout:g} s")
        else:
            self._timer = self._loop.call_later(self._period, self._look)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is one
        self.is_up = True
        keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self._has_heard = True
        try:
            self._feed(data)
        except Disorder as error:
            self.end(f"{self._place}: {error}")
        if self.is_retired and self.is_idle:
            self.end("it was no longer wanted")

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._posted and not self._is_flush_due:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"the connection to {self._place} was lost" + (f" ({exc})" if exc else ""))

    def end(self, reason: str) -> None:
        """Give the connection up: what was written is unanswered, what was not is unsent."""
        if self.is_closing:
            return
        self.is_closing = True
        self.is_up = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        self._lost(self)
        self._conversation.lose(Unanswered(f"No answer: {reason}"))
        posted, self._posted = self._posted, []
        for request in posted:
            request.fail(Unsent(f"Not sent: {reason}"))

    def abandon(self) -> None:
        """Close the socket of a connection whose loop was closed: asyncio would only complain of it."""
        outer: Any = self._transport
        if outer is None:
            return
        protocol = getattr(outer, "_ssl_protocol", None)
        inner = outer if protocol is None else protocol._transport
        if protocol is not None:
            outer._closed = True
        sock = getattr(inner, "_sock", None)  # other loops close what is theirs when they end
        if sock is not None:
            inner._sock = None
            sock.close()

    @property
    def socket(self) -> Any:
        return None if self._transport is None else self._transport.get_extra_info("socket")


class _Node:
    """One server: its connection for commands, and those for reads that block."""

    def __init__(self, client: AsyncClient, address: Address) -> None:
        self._client = client
        self.address = address
        self.link: _Link | None = None
        self._queued: list[Request] = []
        self._connecting: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self.resting: list[_Link] = []
        self.links: set[_Link] = set()

    def post(self, request: Request) -> None:
        """To the connection for commands, or to its making."""
        if self.link is not None:
            self.link.post(request)
            return
        self._queued.append(request)
        if self._connecting is None:
            self._connecting = self._client.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            link = await self.open()
        except Unsent as error:
            self._connecting = None
            self._fail_queued(error)
        except BaseException as error:  # whatever it is, nobody may wait for it in vain
            self._connecting = None
            self._fail_queued(Unsent(f"Not sent: connecting was broken off by {type(error).__name__}"))
            raise
        else:
            self._connecting = None
            self.link = link if link.is_up else None  # it may have been lost in the turn it was made in
            queued, self._queued = self._queued, []
            for request in queued:
                link.post(request)

    def _fail_queued(self, error: Unsent) -> None:
        queued, self._queued = self._queued, []
        for request in queued:
            request.fail(error)

    async def open(self) -> _Link:
        """A new connection, greeted. Waits out the pause that earlier failures left.

        Raises :class:`Unsent`.
        """
        wait = self._not_before - monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        shared = self._client.shared
        try:
            endpoint = await self._endpoint()
            async with asyncio.timeout(shared.servers.connect_timeout):
                link = await self._greeted(endpoint)
        except (OSError, Refused, Unsent, Unanswered, ValueError) as error:
            self._not_before = monotonic() + next(self._pauses)
            raise shared.unreachable(self.address, error) from error
        self._pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self._not_before = 0.0
        return link

    async def _endpoint(self) -> Endpoint:
        if self.address != MASTER:
            return self._client.shared.router.endpoint_of(self.address)
        return await self._client.drive(self._client.shared.router.find_master())  # type: ignore[no-any-return]  # drive() is untyped

    async def _greeted(self, endpoint: Endpoint) -> _Link:
        client = self._client
        shared = client.shared
        given = await client.read_login(endpoint.login)
        greeting = Greeting(
            login=given,
            db=endpoint.db,
            client_name=shared.servers.client_name,
            scripts=tuple(shared.scripts.values()),
            needs_master=self.address == MASTER,
            may_be_cluster=shared.servers.kind == "cluster",
        )
        link = await client.connect(endpoint, self._on_lost)
        try:
            link.id, facts = greeting.judge(await client.request(link, greeting.commands))
        except BaseException:
            link.end("it was not greeted")
            raise
        link.can_unblock = facts.can_unblock
        self.links.add(link)
        shared.reached(self.address, facts)
        return link

    def _on_lost(self, link: _Link) -> None:
        if link in self.links:
            self.links.discard(link)
            if not link.is_retired and not self._client.is_closed:
                self._client.shared.lost(self.address)
        if link is self.link:
            self.link = None
        if link in self.resting:
            self.resting.remove(link)

    def retire(self) -> None:
        """Use none of the connections again; what waits on them may still be answered."""
        self.link = None
        self.resting.clear()
        for link in list(self.links):
            link.retire()

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._fail_queued(Unsent("Not sent: the client was closed"))
        for link in list(self.links):
            link.end("the client was closed")


class AsyncClient:
    """What one event loop says to the servers. Use it only in that loop; many tasks may call it at once.

    Commands of calls made in the same turn of the loop leave in one write to each server, in the order of the calls.
    A call returns the replies in the order of its commands; an error reply is a :class:`CommandError` in its place.
    Where some commands were answered and others lost, :class:`Unsent` and :class:`Unanswered` stand in the places of
    the latter. Redirects, missing scripts and refusals that pass are dealt with inside.
    """

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop) -> None:
        self.shared = shared
        self.loop = loop
        self._new_future = loop.create_future
        self._nodes: dict[Address, _Node] = {}
        self._only = None if shared.router.is_sharded else self._node(shared.router.only)
        self._blocked: dict[_Link, tuple[Request, _Node]] = {}
        self._wakes = 0
        self._is_wake_due = False
        self.is_closed = False
        self.companion: Any = None
        """For whoever uses the client: what lives as long as it does."""

    def _node(self, address: Address) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = _Node(self, address)
        return node

    def _finish(self, request: Request) -> None:
        waiter = request.waiter
        if not waiter.done():
            waiter.set_result(request.replies)
        else:
            self.shared.salvage(request.commands, request.replies)

    def _salvage_arrived(self, request: Request) -> None:
        """For a request whose caller was cancelled between the replies' arrival and its own turn."""
        if request.waiter.done() and not request.waiter.cancelled():
            self.shared.salvage(request.commands, request.replies)

    def _post(self, node: _Node, commands: Sequence[Command]) -> Request:
        request = Request(commands, self._finish)
        request.waiter = self._new_future()
        link = node.link
        if link is not None:
            link.post(request)
        else:
            node.post(request)
        return request

    async def call(self, commands: Sequence[Command]) -> list[Reply]:
        """The commands' replies, in order. Cancelled, the commands may run all the same; ``on_salvaged`` gets the
        replies that come then.

        Raises :class:`Unsent` when nothing was sent, :class:`Unanswered` when something was and nothing answered.
        """
        if not commands:
            return []
        if self.is_closed:
            raise Unsent("Not sent: the client was closed.")
        node = self._only
        if node is None:
            node = self._common_node(commands)
            if node is None:
                return settled(await self._conduct(commands, None))
        request = self._post(node, commands)
        try:
            replies: list[Reply] = await request.waiter
        except asyncio.CancelledError:
            self._salvage_arrived(request)
            raise
        if request.is_flawed:
            return settled(await self._conduct(commands, replies))
        return replies

    def _common_node(self, commands: Sequence[Command]) -> _Node | None:
        """The one server that all of ``commands`` go to; ``None`` where it takes more than that to know."""
        router = self.shared.router
        if router.needs_survey:
            return None
        address = router.address_for(commands[0])
        for command in commands[1:]:
            if router.address_for(command) != address:
                return None
        return self._node(address)

    async def block(
        self, commands: Sequence[Command], *, timeout: float, suffices: Suffices | None = None
    ) -> list[Reply]:
        """As :meth:`call`, where the last command waits in the server, for ``timeout`` seconds at most.

        It has a connection to itself meanwhile. :meth:`wake` makes it return early, with the server's answer for
        nothing there; so do errors among the replies before it, and ``suffices``, which is asked of them when it waits.
        Cancelled, the read is ended in the server too, and ``on_salvaged`` gets what it brought.
        """
        if self.is_closed:
            raise Unsent("Not sent: the client was closed.")
        if suffices is not None and not self.shared.can_unblock:
            first = await self.call(commands[:-1])
            if suffices(first):
                return [*first, None]
            try:
                return [*first, *await self.block(commands[-1:], timeout=timeout)]
            except (Unsent, Unanswered) as error:  # the first ones were answered all the same
                return [*first, error]
        node = self._only or self._common_node(commands)
        if node is None:
            return settled(await self._conduct(commands, None, commands[-1], timeout, suffices))
        request = await self._blocked_read(node, commands, timeout, suffices)
        replies: list[Reply] = request.replies
        if request.is_flawed:
            return settled(await self._conduct(commands, replies, commands[-1], timeout, suffices))
        return replies

    async def _blocked_read(
        self, node: _Node, commands: Sequence[Command], timeout: float, suffices: Suffices | None = None
    ) -> Request:
        wakes = self._wakes
        request = Request(commands, self._finish_blocked)
        if node.resting:
            link = node.resting.pop()
        else:
            try:
                link = await node.open()
            except Unsent as error:
                request.finished = _ignore
                request.fail(error)
                return request
        if not link.can_unblock:
            request = Request([*commands[:-1], shortened(commands[-1])], self._finish_blocked)
            request.commands = commands
        request.waiter = self._new_future()
        request.link = link
        if suffices is not None:
            request.nearly = partial(self._end_if_enough, suffices)
        self._blocked[link] = request, node
        link.expect_silence(timeout)
        link.post(request)
        if self._is_wake_due or wakes != self._wakes:
            self._is_wake_due = False
            self._unblock(link, request)
        try:
            await request.waiter
        except asyncio.CancelledError:
            self._salvage_arrived(request)
            self._unblock(link, request)
            raise
        return request

    def _end_if_enough(self, suffices: Suffices, request: Request) -> None:
        if request.is_flawed or suffices(request.replies):
            self._unblock(request.link, request)

    def _finish_blocked(self, request: Request) -> None:
        link = request.link
        _, node = self._blocked.pop(link)
        if link.is_up and not link.is_retired:
            node.resting.append(link)
        self._finish(request)

    def wake(self) -> None:
        """Every :meth:`block` returns early; with none under way, the next one does. In the client's loop only."""
        self._wakes += 1
        self._is_wake_due = not self._blocked
        for link, (request, _) in list(self._blocked.items()):
            self._unblock(link, request)

    def _unblock(self, link: _Link, request: Request) -> None:
        """End the blocked read in the server; again and again, as the server may not have come to it yet."""
        blocked = self._blocked.get(link)
        if blocked is None or blocked[0] is not request or not link.can_unblock:
            return
        control = Request((("CLIENT", "UNBLOCK", link.id),), partial(self._unblocked, link, request))
        blocked[1].post(control)

    def _unblocked(self, link: _Link, request: Request, control: Request) -> None:
        if control.replies[0] != 1 and not self.is_closed:
            self.loop.call_later(_UNBLOCK_AGAIN, self._unblock, link, request)

    async def _conduct(
        self,
        commands: Sequence[Command],
        replies: list[Reply] | None,
        last: Command | None = None,
        timeout: float = 0,
        suffices: Suffices | None = None,
    ) -> list[Reply]:
        """The way of a request that is not answered at once: see :class:`Course`."""
        shared = self.shared
        course = Course(
            shared.router, shared.scripts, commands, replies, retry_timeout=shared.servers.retry_timeout
        )
        try:
            return await self.drive(course.steps(), last, timeout, suffices)  # type: ignore[no-any-return]  # as steps() says
        except BaseException:
            shared.salvage(*course.answered)
            raise

    async def drive(
        self,
        steps: Generator[Any, Any, Any],
        last: Command | None = None,
        timeout: float = 0,
        suffices: Suffices | None = None,
    ) -> Any:
        """Carry out ``steps`` and give back what they return. ``last`` is the command that blocks."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as stop:
                return stop.value
            answer = None
            if isinstance(step, Dispatch):
                answer = await self._dispatch(step, last, timeout, suffices)
            elif isinstance(step, Ask):
                answer = await self._ask(step)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, Drop):
                self._node(step.address).retire()

    async def _dispatch(
        self, step: Dispatch, last: Command | None, timeout: float, suffices: Suffices | None
    ) -> list[list[Reply]]:
        requests: list[Request | None] = []
        blocked: tuple[int, _Node, Sequence[Command]] | None = None
        for address, commands in step.parcels:
            node = self._node(address)
            if last is not None and commands[-1] is last:
                blocked = len(requests), node, commands
                requests.append(None)
            else:
                requests.append(self._post(node, commands))
        try:
            if blocked is not None:
                index, node, commands = blocked
                requests[index] = await self._blocked_read(node, commands, timeout, suffices)
            answers: list[list[Reply]] = []
            for request in requests:
                if request is not None:
                    if request.waiter is not None and not request.waiter.done():
                        await request.waiter
                    answers.append(request.replies)
            return answers
        except BaseException:
            for request in requests:
                if request is not None and request.waiter is not None and not request.waiter.cancel():
                    self._salvage_arrived(request)
            raise

    async def connect(self, endpoint: Endpoint, lost: Callable[[_Link], None]) -> _Link:
        """A connection to ``endpoint``, with not a word said yet. Raises ``OSError``."""
        address = endpoint.address
        timeout = self.shared.servers.answer_timeout
        make = partial(_Link, self.loop, str(address), timeout, lost)
        if not address.port:
            _, link = await self.loop.create_unix_connection(make, address.host)
            return link
        context = None if endpoint.tls is None else endpoint.tls.context
        _, link = await self.loop.create_connection(make, address.host, address.port, ssl=context)
        return link

    async def read_login(self, login: Login) -> tuple[str, ...]:
        """As the function of this name, in another thread where it may wait."""
        if login.provider is None:
            return read_login(login)
        return await self.loop.run_in_executor(None, read_login, login)

    async def request(self, link: _Link, commands: Sequence[Command]) -> list[Reply]:
        """The replies of ``commands`` on this very connection, failures in place."""
        request = Request(commands, _finish_unsalvaged)
        request.waiter = self._new_future()
        link.post(request)
        replies: list[Reply] = await request.waiter
        return replies

    async def _ask(self, step: Ask) -> list[Reply] | TransportError:
        try:
            async with asyncio.timeout(self.shared.servers.connect_timeout):
                given = await self.read_login(step.endpoint.login)
                link = await self.connect(step.endpoint, _forget)
                try:
                    before = [("AUTH", *given)] if given else []
                    return await self.request(link, [*before, *step.commands])
                finally:
                    link.end("the question was answered")
        except (OSError, Refused, ValueError) as error:
            return Unsent(str(error) or type(error).__name__)

    def descriptors(self) -> list[int]:
        """The descriptors of all connections there are; those of a closed loop may be others' by now."""
        if self.loop.is_closed():
            return []
        sockets = [link.socket for node in self._nodes.values() for link in node.links]
        return [sock.fileno() for sock in sockets if sock is not None and sock.fileno() >= 0]

    def abandon(self) -> None:
        """End all connections of a client whose loop is closed. From any thread."""
        self.is_closed = True
        for node in self._nodes.values():
            for link in tuple(node.links):
                link.abandon()

    def close(self) -> None:
        """End all connections; whoever waits gets :class:`Unsent` or :class:`Unanswered`. In the client's loop only."""
        self.is_closed = True
        for node in self._nodes.values():
            node.close()


def _ignore(request: Request) -> None:
    """For requests whose maker looks at them himself."""


def _finish_unsalvaged(request: Request) -> None:
    """For the transport's own questions, which matter to nobody else."""
    if not request.waiter.done():
        request.waiter.set_result(request.replies)


def _forget(link: _Link) -> None:
    """For connections that nobody keeps."""
