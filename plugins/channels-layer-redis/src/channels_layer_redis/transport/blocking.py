"""The blocking client: plain sockets for a thread that has no event loop.

One connection to each server serves commands and blocking reads alike, since a thread does one thing at a time. While
it waits it also watches a socket pair of its own, through which :meth:`SyncClient.wake` reaches it from anywhere.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from channels_core.outage import pauses
from channels_layer_redis.transport.addresses import Address, Endpoint
from channels_layer_redis.transport.conversation import Conversation, Disorder, Request, Suffices, segments
from channels_layer_redis.transport.course import Course, Dispatch, Drop, Pause, settled
from channels_layer_redis.transport.greeting import Greeting, Refused, read_login
from channels_layer_redis.transport.replies import Reply, TransportError, Unanswered, Unsent
from channels_layer_redis.transport.routing import MASTER, Ask
from channels_layer_redis.transport.scripts import Command
from channels_layer_redis.transport.sockets import FIRST_PAUSE, LONGEST_PAUSE, keep_alive, shortened

if TYPE_CHECKING:
    from channels_layer_redis.transport.shared import Shared

__all__ = ["SyncClient"]

_STALE: Final = 1.0
"""Seconds of rest after which a connection is looked at before it is written to: the server may have closed it."""
_UNBLOCK_AGAIN: Final = 0.02
_DRAIN: Final = 1.0
"""Seconds for what an interrupted request still brings."""
_READ: Final = 65536


class _Socket:
    """One connection. Not thread-safe."""

    def __init__(self, endpoint: Endpoint, connect_timeout: float, answer_timeout: float) -> None:
        self._place = str(endpoint.address)
        self._answer_timeout = answer_timeout
        self._conversation = Conversation()
        self._waiting = self._conversation.waiting
        self._last = monotonic()
        self.is_up = True
        self.id = 0
        self.can_unblock = True
        self.is_nearly_done = False
        """Whether all replies but the last of a request are there, and nobody has looked at them yet."""
        self._socket = _connected(endpoint, connect_timeout)
        self._socket.setblocking(False)
        self._recv = self._socket.recv
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._watching: select.poll | None = None

    def fileno(self) -> int:
        """The descriptor, for whoever has to release it after a fork."""
        return self._socket.fileno()

    def expect_within(self, seconds: float) -> None:
        """From now on the server has ``seconds`` for an answer."""
        self._answer_timeout = seconds

    def is_stale(self) -> bool:
        """Whether the server has closed the connection, or said something unasked, while it was at rest."""
        return monotonic() - self._last > _STALE and bool(self._poll.poll(0))

    def write(self, request: Request) -> None:
        """Hand ``request`` to the kernel. A failure on the way makes it unanswered."""
        self._waiting.append(request)
        self.is_nearly_done = False  # of a request before that was broken off
        try:
            for segment in segments(request.packed):
                self._send(segment)
        except OSError as error:
            self.end(f"the connection to {self._place} was lost ({error})")
        except Disorder as error:
            self.end(f"{self._place}: {error}")
        except BaseException:
            self.end("it was interrupted while writing")
            raise

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        end = monotonic() + self._answer_timeout
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                poll = select.poll()
                poll.register(self._socket, select.POLLIN | select.POLLOUT)
                if not poll.poll(max(0.0, end - monotonic()) * 1000):
                    raise TimeoutError(f"nothing could be written for {self._answer_timeout:g} s") from None
                self._receive()  # so that the two ends never wait for each other

    def read(self, request: Request, silence: float = 0.0, wakes: int = -1) -> bool:
        """Wait for ``request``'s replies, which take ``silence`` seconds more than others; failures come in place.

        Returns early, with true, when something can be read from the descriptor ``wakes``, or is nearly done.
        """
        expected = request.expected
        replies = request.replies
        end = 0.0
        while len(replies) < expected and self.is_up:
            if self.is_nearly_done:
                return True
            if self._is_tls and self.received():
                continue
            if not end:
                end = monotonic() + silence + self._answer_timeout
            ready = self.ready(max(0.0, end - monotonic()), wakes)
            if not ready:
                self.end(f"{self._place} has not answered for {self._answer_timeout:g} s")
            elif wakes >= 0 and all(descriptor == wakes for descriptor, _ in ready):
                return True
            elif self.received():
                end = 0.0
        self._last = monotonic()
        self.is_nearly_done = False
        return False

    def note_nearly(self, request: Request) -> None:
        """See :attr:`Request.nearly`."""
        self.is_nearly_done = True

    def ready(self, seconds: float, wakes: int) -> list[tuple[int, int]]:
        """Wait for input on the connection or on ``wakes``; what can be read, empty when time is up."""
        if wakes < 0:
            return self._poll.poll(seconds * 1000 + 1)
        if self._watching is None:
            self._watching = select.poll()
            self._watching.register(self._socket, select.POLLIN)
            self._watching.register(wakes, select.POLLIN)
        return self._watching.poll(seconds * 1000 + 1)

    def received(self) -> bool:
        """Take what there is, if anything; a connection that ends here ends its requests."""
        try:
            return self._receive()
        except OSError as error:
            self.end(f"the connection to {self._place} was lost ({error})")
        except Disorder as error:
            self.end(f"{self._place}: {error}")
        return False

    def _receive(self) -> bool:
        try:
            data = self._recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not data:
            raise ConnectionError("closed by the server")
        self._conversation.feed(data)
        return True

    def end(self, reason: str) -> None:
        """Give the connection up."""
        if self.is_up:
            self.is_up = False
            self._socket.close()
        self._conversation.lose(Unanswered(f"No answer: {reason}"))


def _connected(endpoint: Endpoint, timeout: float) -> socket.socket:
    address = endpoint.address
    if not address.port:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(address.host)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((address.host, address.port), timeout)
    try:
        keep_alive(sock)
        if endpoint.tls is not None:
            return endpoint.tls.context.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
    return sock


class _Place:
    """One server as a thread sees it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.socket: _Socket | None = None
        self.not_before = 0.0
        self.pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)


class SyncClient:
    """What one thread says to the servers. Only :meth:`wake` may be called by others.

    Replies, failures and repeats are as :class:`~channels_layer_redis.transport.aio.AsyncClient` says.
    """

    def __init__(self, shared: Shared) -> None:
        self.is_closed = True  # until there is something to close
        self.shared = shared
        self._places: dict[Address, _Place] = {}
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._control: dict[Address, _Socket] = {}
        self.is_closed = False

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        """The commands' replies, in order.

        Raises :class:`Unsent` when nothing was sent, :class:`Unanswered` when something was and nothing answered.
        """
        return self._run(commands, None, 0.0)

    def block(
        self, commands: Sequence[Command], *, timeout: float, suffices: Suffices | None = None
    ) -> list[Reply]:
        """As :meth:`call`, where the last command waits in the server, for ``timeout`` seconds at most.

        :meth:`wake` makes it return early, with the server's answer for nothing there; so do errors among the replies
        before it, and ``suffices``, which is asked of them when it waits. When an exception breaks it off (an
        interrupt), the read is ended in the server too, and ``on_salvaged`` gets what it brought.
        """
        if suffices is not None and not self.shared.can_unblock:
            first = self.call(commands[:-1])
            if suffices(first):
                return [*first, None]
            try:
                return [*first, *self.block(commands[-1:], timeout=timeout)]
            except (Unsent, Unanswered) as error:  # the first ones were answered all the same
                return [*first, error]
        return self._run(commands, commands[-1], timeout, suffices)

    def _run(
        self,
        commands: Sequence[Command],
        last: Command | None,
        timeout: float,
        suffices: Suffices | None = None,
    ) -> list[Reply]:
        if not commands:
            return []
        if self.is_closed:
            raise Unsent("Not sent: the client was closed.")
        router = self.shared.router
        replies: list[Reply] | None = None
        if not router.is_sharded:
            (request,) = self._exchange([(router.only, commands)], last, timeout, suffices)
            if not request.is_flawed:
                return request.replies
            replies = request.replies
        course = Course(
            router, self.shared.scripts, commands, replies, retry_timeout=self.shared.servers.retry_timeout
        )
        try:
            return settled(self.drive(course.steps(), last, timeout, suffices))
        except (Unsent, Unanswered):
            raise
        except BaseException:
            self.shared.salvage(*course.answered)
            raise

    def _place(self, address: Address) -> _Place:
        place = self._places.get(address)
        if place is None:
            place = self._places[address] = _Place(address)
        return place

    def _begin(self, place: _Place, commands: Sequence[Command], last: Command | None) -> Request:
        """Write ``commands``, on a new connection where there is none."""
        sock = place.socket
        request = Request(commands, _ignore)
        if sock is None or not sock.is_up or sock.is_stale():
            try:
                sock = self._open(place)
            except Unsent as error:
                request.fail(error)
                return request
        if last is not None and commands[-1] is last and not sock.can_unblock:
            request = Request([*commands[:-1], shortened(last)], _ignore)
            request.commands = commands
        request.link = place, sock
        sock.write(request)
        return request

    def _exchange(
        self,
        parcels: Sequence[tuple[Address, Sequence[Command]]],
        last: Command | None,
        timeout: float,
        suffices: Suffices | None = None,
    ) -> list[Request]:
        """Write all parcels, each to its server, then wait for all replies."""
        requests: list[Request] = []
        try:
            for address, commands in parcels:
                requests.append(self._begin(self._place(address), commands, last))
            for request in requests:
                if request.link is None:
                    continue
                place, sock = request.link
                if last is None or request.commands[-1] is not last:
                    sock.read(request)
                else:
                    if suffices is not None:
                        request.nearly = sock.note_nearly
                    while sock.read(request, timeout, self._wakes.fileno()):
                        if sock.is_nearly_done:
                            sock.is_nearly_done = False
                            if (
                                not request.is_flawed
                                and suffices is not None
                                and not suffices(request.replies)
                            ):
                                continue
                        else:
                            self._drain_wakes()
                        self._unblock(place.address, sock, request)
            return requests
        except BaseException:
            for request in requests:
                if request.link is not None:
                    self._salvage(request, last)
            raise

    def _salvage(self, request: Request, last: Command | None) -> None:
        """An interrupted request: take what it still brings, or give up its connection."""
        place, sock = request.link
        end = monotonic() + _DRAIN
        if last is not None and request.commands[-1] is last:
            self._unblock(place.address, sock, request)
        while sock.is_up and len(request.replies) < request.expected:
            if monotonic() > end:
                sock.end("it was interrupted")
            elif sock.ready(end - monotonic(), -1):
                sock.received()
        self.shared.salvage(request.commands, request.replies)

    def _unblock(self, address: Address, sock: _Socket, request: Request) -> None:
        """End the read that blocks in the server; again and again, as the server may not have come to it yet."""
        if not sock.can_unblock:
            return
        end = monotonic() + _DRAIN
        while sock.is_up and len(request.replies) < request.expected and monotonic() < end:
            control = self._control.get(address)
            if control is None or not control.is_up or control.is_stale():
                try:
                    control = self._control[address] = self._connect(address)
                except (OSError, Refused, Unsent, ValueError):
                    return
            asking = Request((("CLIENT", "UNBLOCK", sock.id),), _ignore)
            control.write(asking)
            control.read(asking)
            if asking.replies[0] == 1:
                return
            sock.ready(_UNBLOCK_AGAIN, -1)
            sock.received()  # what comes may be but the reply to a command before the read

    def wake(self) -> None:
        """The :meth:`block` under way returns early, or else the next one. From any thread, or a signal handler."""
        with suppress(OSError):  # full: it will wake; closed: there is nobody to wake
            self._waker.send(b"w")

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            self._wakes.recv(4096)

    def _open(self, place: _Place) -> _Socket:
        """A new connection, greeted. Waits out the pause that earlier failures left.

        Raises :class:`Unsent`.
        """
        if place.socket is not None:
            place.socket.end("it was closed while at rest")
            place.socket = None
            self.shared.lost(place.address)
        wait = place.not_before - monotonic()
        if wait > 0:
            self._sleep(wait)
        try:
            sock = self._connect(place.address)
        except (OSError, Refused, Unsent, Unanswered, ValueError) as error:
            place.not_before = monotonic() + next(place.pauses)
            raise self.shared.unreachable(place.address, error) from error
        place.pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)
        place.not_before = 0.0
        place.socket = sock
        return sock

    def _sleep(self, seconds: float) -> None:
        """Wait, unless woken."""
        select.select([self._wakes], [], [], seconds)

    def _connect(self, address: Address) -> _Socket:
        shared = self.shared
        servers = shared.servers
        if address == MASTER:
            endpoint: Endpoint = self.drive(shared.router.find_master())
        else:
            endpoint = shared.router.endpoint_of(address)
        greeting = Greeting(
            login=read_login(endpoint.login),
            db=endpoint.db,
            client_name=servers.client_name,
            scripts=tuple(shared.scripts.values()),
            needs_master=address == MASTER,
            may_be_cluster=servers.kind == "cluster",
        )
        sock = _Socket(endpoint, servers.connect_timeout, servers.connect_timeout)
        try:
            request = Request(greeting.commands, _ignore)
            sock.write(request)
            sock.read(request)
            sock.id, facts = greeting.judge(request.replies)
        except BaseException:
            sock.end("it was not greeted")
            raise
        sock.can_unblock = facts.can_unblock
        sock.expect_within(servers.answer_timeout)
        shared.reached(address, facts)
        return sock

    def drive(
        self,
        steps: Generator[Any, Any, Any],
        last: Command | None = None,
        timeout: float = 0.0,
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
                requests = self._exchange(step.parcels, last, timeout, suffices)
                answer = [request.replies for request in requests]
            elif isinstance(step, Ask):
                answer = self._ask(step)
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
            elif isinstance(step, Drop):
                sock = self._place(step.address).socket
                if sock is not None:
                    sock.end(f"{step.address} is not the master any more")

    def _ask(self, step: Ask) -> list[Reply] | TransportError:
        timeout = self.shared.servers.connect_timeout
        try:
            given = read_login(step.endpoint.login)
            sock = _Socket(step.endpoint, timeout, timeout)
        except (OSError, Refused, ValueError) as error:
            return Unsent(str(error) or type(error).__name__)
        before = [("AUTH", *given)] if given else []
        request = Request([*before, *step.commands], _ignore)
        try:
            sock.write(request)
            sock.read(request)
        finally:
            sock.end("the question was answered")
        return request.replies

    def _sockets(self) -> list[_Socket]:
        found = [place.socket for place in self._places.values() if place.socket is not None]
        return [sock for sock in (*found, *self._control.values()) if sock.is_up]

    def descriptors(self) -> list[int]:
        """The descriptors of all connections there are."""
        return [sock.fileno() for sock in self._sockets()]

    def close(self) -> None:
        """End all connections. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        for sock in self._sockets():
            sock.end("the client was closed")
        self._wakes.close()
        self._waker.close()

    def __del__(self) -> None:
        self.close()


def _ignore(request: Request) -> None:
    """Nobody has to be told: who made the request is the one who reads its replies."""
