"""One HTTP request: into the layer as http.request, and the response back out of it.

Everything happens in the request's own task. A second one, which watches for the client leaving, is made only for
requests that are not answered at once.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Awaitable, Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channels_core.credit import credit_of, take_credit
from channels_core.headers import CREDIT, FRAME, PROCESS, SENT_AT, WINDOW
from channels_core.interface.asgi import Event, Receive, Scope, ServerSend
from channels_core.interface.headers import (
    BadHeaders,
    BadReply,
    clean_request_headers,
    header_values,
    root_path_of,
)
from channels_core.interface.refusals import refusal
from channels_core.interface.replies import read_response_body, read_response_start
from channels_core.interface.scopes import address, path_of
from channels_core.layers import Outcome, Send
from channels_core.names import redact

if TYPE_CHECKING:
    from channels_core.interface.inbox import Inbox

__all__ = ["HttpRequest"]

logger = logging.getLogger("channels.interface")

T = TypeVar("T")

_READY_PATIENCE: Final = 5.0
_ENVELOPE: Final = 400
_SLOWEST_WRITE: Final = 16 * 2**10
"""A client takes at least so many bytes in each ``outbound_timeout``."""
_BODILESS: Final = frozenset({204, 304})


class _Ending(enum.Enum):
    """Why a request ends without the response its consumer would give."""

    GONE = "the client left"
    TIMEOUT = "nobody answered in time"
    STALLED = "the client takes nothing"
    OVERRUN = "its consumer sends faster than the client takes, without pacing"
    ABORTED = "the server stops"
    BROKEN = "its consumer failed in the middle"
    LOST = "its worker died in the middle"
    REFUSED = "its body is longer than it may be"


_PATIENT: Final = frozenset({_Ending.TIMEOUT, _Ending.LOST})
"""Endings that what has arrived goes before."""


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Interrupted(Exception):
    """The sweep ended a wait for the client."""


class HttpRequest:
    """See :class:`~channels_core.interface.inbox.Connection`."""

    __slots__ = (
        "_announced",
        "_awaited",
        "_body_channel",
        "_chunks",
        "_deadline",
        "_ending",
        "_flight_since",
        "_has_begun",
        "_inbox",
        "_is_at_client",
        "_is_complete",
        "_is_interrupted",
        "_is_sent",
        "_local",
        "_must_watch",
        "_paced_by",
        "_path",
        "_queued",
        "_received",
        "_replies",
        "_reply_channel",
        "_send",
        "_task",
        "_waiter",
        "_watcher",
        "_worker",
        "_worker_missing_since",
        "_write_until",
    )

    def __init__(self, inbox: Inbox, send: ServerSend) -> None:
        self._inbox = inbox
        self._send = send
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._local = self._reply_channel = self._path = ""
        self._body_channel: str | None = None
        self._announced: int | None = None
        self._received = 0
        self._replies: deque[tuple[Mapping[str, Any], str | None]] = deque()
        self._queued = 0
        self._paced_by: str | None = None
        """Where the credit of the reply in hand goes."""
        self._worker: str | None = None
        """The process that sends the rest of the response, where it says so."""
        self._worker_missing_since: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._write_until: float | None = None
        self._chunks = 0
        self._awaited: list[int] = []
        """The chunks whose credit has not come back."""
        self._flight_since = 0.0
        self._ending: _Ending | None = None
        self._has_begun = self._is_complete = self._is_sent = False
        self._is_at_client = self._is_interrupted = self._must_watch = False

    async def serve(self, scope: Scope, receive: Receive) -> None:
        """Answer one request."""
        self._inbox.counters.requests += 1
        try:
            rest = await self._request(scope, receive)
            if rest is not None:
                await self._upload_until_answered(rest, receive)
            await self._respond(receive)
        except (_Refused, BadHeaders) as refused:
            self._ending = _Ending.REFUSED
            await self._answer(refused.status, str(refused))
        except _Interrupted:
            await self._conclude()
        except BaseException:  # the server gave up: the consumer is to know
            self._ending = self._ending or _Ending.ABORTED
            raise
        finally:
            self._end()

    # The request.

    async def _request(self, scope: Scope, receive: Receive) -> bytes | None:
        """Send http.request; returns what was read of the body beyond it, or ``None`` where it holds all."""
        inbox, config = self._inbox, self._inbox.config
        headers = clean_request_headers(
            scope["headers"], max_headers=config.max_headers, max_bytes=config.max_header_bytes
        )
        root_path = root_path_of(headers, scope.get("root_path") or "")
        self._path = path = path_of(scope)
        self._announced = _announced_size(headers)
        self._count(0)
        if (
            not await inbox.ready(_READY_PATIENCE)
            or not await inbox.workers.is_served()
            or inbox.process is None
        ):
            raise _Refused(503, "No worker is running.")
        self._deadline = inbox.loop.time() + config.http_timeout
        self._local, self._reply_channel = inbox.add("http.response", self)
        body, has_more = await self._read_start(receive)
        query_string = bytes(scope.get("query_string") or b"")
        content: dict[str, Any] = {
            "reply_channel": self._reply_channel,
            "http_version": str(scope.get("http_version") or "1.1"),
            "method": str(scope["method"]).upper(),
            "scheme": str(scope.get("scheme") or "http"),
            "path": path,
            "query_string": query_string,
            "root_path": root_path,
            "headers": headers,
            "body": body[: config.body_inline] if has_more else body,
            "client": address(scope.get("client")),
            "server": address(scope.get("server")),
        }
        if has_more:
            self._body_channel = content["body_channel"] = inbox.backend.new_channel("http.request.body?")
        size = (
            _ENVELOPE
            + len(path.encode())
            + len(query_string)
            + len(content["body"])
            + sum(len(name) + len(value) + 8 for name, value in headers)
        )
        if size > inbox.backend.max_message_size:
            raise _Refused(413, "The request is too large.")
        stamps: dict[str, str | int] = {SENT_AT: time_ns() // 1_000_000, WINDOW: config.response_window}
        outcome = await inbox.send(Send("http.request", content, stamps, size))
        if outcome is Outcome.FULL:
            raise _Refused(503, "The server is busy.")
        if outcome is Outcome.TOO_LARGE:
            raise _Refused(413, "The request is too large.")
        self._is_sent = True
        return body[config.body_inline :] if has_more else None

    async def _read_start(self, receive: Receive) -> tuple[bytes, bool]:
        """The body as far as it is inline, and whether it goes on. The last event's bytes may go beyond that."""
        limit = self._inbox.config.body_inline
        body, has_more = await self._read(receive)
        if not has_more and len(body) <= limit:
            return body, False
        parts, size = [body], len(body)
        while has_more and size <= limit:
            body, has_more = await self._read(receive)
            parts.append(body)
            size += len(body)
        body = b"".join(parts)
        self._is_complete = not has_more
        return body, has_more or len(body) > limit

    async def _read(self, receive: Receive) -> tuple[bytes, bool]:
        """The next part of the body, counted, and whether more follow."""
        while True:
            event = await self._interruptible(receive())
            kind = event.get("type")
            if kind == "http.disconnect":
                self._ending = _Ending.GONE
                raise _Interrupted
            if kind == "http.request":
                body = bytes(event.get("body") or b"")
                self._count(len(body))
                has_more = bool(event.get("more_body", False))
                self._is_complete = not has_more
                return body, has_more

    def _count(self, size: int) -> None:
        """Bytes are counted as they come, whatever the client announced."""
        self._received += size
        most = self._inbox.config.max_body_size
        if most is not None and max(self._received, self._announced or 0) > most:
            raise _Refused(413, f"The body has more than {most} bytes.")
        if self._announced is not None and self._received > self._announced:
            raise _Refused(400, "The body is longer than announced.")

    async def _upload_until_answered(self, rest: bytes, receive: Receive) -> None:
        try:
            await self._upload(rest, receive)
        except _Interrupted:
            if not self._replies or self._ending is not None:
                raise

    async def _upload(self, rest: bytes, receive: Receive) -> None:
        """Send the rest of the body in chunks, at most ``body_window`` of them unread, until there is an answer."""
        chunk = min(self._inbox.config.body_chunk, self._inbox.backend.max_message_size - _ENVELOPE)
        buffer = bytearray(rest)
        has_more = not self._is_complete
        while True:
            while len(buffer) > chunk or (buffer and len(buffer) == chunk and has_more) or not has_more:
                piece = bytes(buffer[:chunk])
                del buffer[:chunk]
                is_last = not has_more and not buffer
                if not await self._send_chunk(piece, is_last):
                    return
                if is_last:
                    self._body_channel = None
                    return
            body, has_more = await self._read(receive)
            buffer += body

    async def _send_chunk(self, piece: bytes, is_last: bool) -> bool:
        inbox = self._inbox
        while len(self._awaited) >= inbox.config.body_window and not self._replies and self._ending is None:
            await self._wait()
        if self._replies or self._ending is not None:
            return False
        assert self._body_channel is not None
        chunk = self._chunks
        self._chunks += 1
        self._awaited.append(chunk)
        self._flight_since = inbox.now
        headers: dict[str, str | int] = {
            SENT_AT: time_ns() // 1_000_000,
            CREDIT: self._reply_channel,
            FRAME: chunk,
        }
        content = {"content": piece, "more_content": not is_last}
        outcome = await inbox.insist(
            Send(self._body_channel, content, headers, len(piece) + 64), until=self._deadline
        )
        if outcome is Outcome.SENT:
            return True
        self._ending = self._ending or _Ending.ABORTED  # a hole in the body cannot be mended
        return False

    # The response.

    async def _respond(self, receive: Receive) -> None:
        reply = await self._next_reply(receive)
        if reply is None:
            await self._conclude()
            return
        try:
            status, headers = read_response_start(reply)
            data, has_more = read_response_body(reply)
        except BadReply as bad:
            logger.error(
                "A response to %r is refused and answered by 500: %s.", redact(self._reply_channel), bad
            )
            await self._answer(500, "Internal Server Error")
            return
        self._has_begun = True
        await self._write({"type": "http.response.start", "status": status, "headers": headers}, 0)
        while True:
            if status in _BODILESS:
                data = b""
            await self._write({"type": "http.response.body", "body": data, "more_body": has_more}, len(data))
            self._acknowledge()
            if not has_more:
                self._ending = None
                return
            self._must_watch = True
            following = await self._next_part(receive)
            if following is None:
                self._ending = self._ending or _Ending.GONE
                if self._ending is _Ending.LOST:
                    self._inbox.counters.worker_lost += 1
                    self._warn_of_breaking_off(_Ending.LOST)
                return
            data, has_more = following

    async def _next_part(self, receive: Receive) -> tuple[bytes, bool] | None:
        while True:
            reply = await self._next_reply(receive)
            if reply is None:
                return None
            if reply.get("closed"):
                self._ending = self._ending or _Ending.BROKEN
                return None
            try:
                if "status" in reply:
                    raise BadReply("its response has begun, so it cannot have a status")
                data, has_more = read_response_body(reply)
            except BadReply as bad:
                logger.error("A message to %r is ignored: %s.", redact(self._reply_channel), bad)
                self._acknowledge()
                continue
            return data, has_more

    async def _next_reply(self, receive: Receive) -> Mapping[str, Any] | None:
        while True:
            if self._ending is not None and (self._ending not in _PATIENT or not self._replies):
                return None
            if self._replies:
                reply, self._paced_by = self._replies.popleft()
                self._queued -= _weight(reply)
                return reply
            if self._must_watch and self._watcher is None:
                self._watcher = self._inbox.loop.create_task(self._watch(receive))
            await self._wait()

    def _acknowledge(self) -> None:
        """The client has what was sent last: give its credit back, if it asked for one."""
        paced_by, self._paced_by = self._paced_by, None
        if paced_by is not None:
            self._inbox.spawn(self._inbox.acknowledge(paced_by))

    async def _watch(self, receive: Receive) -> None:
        """Notice a client that leaves before its response is complete."""
        try:
            while (await receive()).get("type") != "http.disconnect":
                pass
        except Exception as error:  # noqa: BLE001 - servers have no common exception for a client that left
            logger.debug("A request could not be watched: %r", error)
        self._ending = self._ending or _Ending.GONE
        self._wake()

    async def _write(self, event: Event, size: int) -> None:
        patience = self._inbox.config.outbound_timeout
        self._write_until = self._inbox.loop.time() + patience * max(1.0, size / _SLOWEST_WRITE)
        try:
            await self._interruptible(self._send(event))
        except (_Interrupted, asyncio.CancelledError):
            raise
        except Exception as error:
            self._ending = _Ending.GONE
            level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
            logger.log(level, "A response to %r could not be written: %r", redact(self._reply_channel), error)
            raise _Interrupted from error
        finally:
            self._write_until = None

    async def _conclude(self) -> None:
        """End a request that gets no response from its consumer."""
        if self._has_begun or self._ending is _Ending.GONE:
            return
        if self._ending is _Ending.TIMEOUT and not self._is_complete:
            await self._answer(408, "The request came too slowly.")
        else:
            await self._answer(503, "Nobody answered in time.")

    async def _answer(self, status: int, reason: str) -> None:
        """A response of the interface's own."""
        self._inbox.counters.refused += 1
        if self._has_begun:
            return
        self._has_begun = True
        headers, body = refusal(status, reason)
        try:
            await self._write({"type": "http.response.start", "status": status, "headers": headers}, 0)
            await self._write({"type": "http.response.body", "body": body, "more_body": False}, len(body))
        except _Interrupted:
            logger.debug("A refused client did not take the answer.")

    def _end(self) -> None:
        """Forget the request, and tell whom it concerns. Never waits."""
        inbox = self._inbox
        if self._watcher is not None:
            self._watcher.cancel()
        if not self._local:
            return
        inbox.forget(self._local)
        self._local = ""
        for paced_by in (self._paced_by, *(paced_by for _, paced_by in self._replies)):
            if paced_by is not None:
                inbox.spawn(inbox.acknowledge(paced_by, is_closed=True))
        if not self._is_sent:
            return
        if self._body_channel is not None and self._ending is not None:
            closed = Send(self._body_channel, {"closed": True}, {SENT_AT: time_ns() // 1_000_000}, 32)
            inbox.spawn(self._try(closed))
        if self._ending is not None or inbox.config.http_disconnect == "always":
            content = {"reply_channel": self._reply_channel, "path": self._path}
            size = _ENVELOPE + len(self._path)
            inbox.spawn(self._try(Send("http.disconnect", content, {SENT_AT: time_ns() // 1_000_000}, size)))

    async def _try(self, send: Send) -> None:
        await self._inbox.send(send)

    # What the inbox calls. These do not wait.

    def deliver(self, content: Mapping[str, Any], headers: Mapping[str, str | int]) -> None:
        worker = headers.get(PROCESS)
        if worker is not None:
            if self._worker not in (None, worker) and "status" in content:
                self._lose_worker()  # another one runs the request again, and the two cannot become one response
            self._worker = str(worker)
        if self._ending is _Ending.LOST:
            paced_by = credit_of(headers)
            if paced_by is not None:
                self._inbox.spawn(self._inbox.acknowledge(paced_by, is_closed=True))
            return
        self._replies.append((content, credit_of(headers)))
        self._queued += _weight(content)
        if self._queued > self._inbox.outbound_bytes and len(self._replies) > 1:
            self._end_by(_Ending.OVERRUN)
        self._wake()

    def deliver_frame(self, event: Event, content: Mapping[str, Any]) -> None:
        self.deliver(content, {})

    def credited(self, number: int | None) -> None:
        if take_credit(self._awaited, number):
            self._flight_since = self._inbox.now
            self._wake()
        else:
            self._inbox.counters.credit_late += 1

    def sweep(self, now: float) -> None:
        if self._awaited and now - self._flight_since > self._inbox.credit_patience:
            self._inbox.counters.credit_lost += 1
            self.credited(None)
        if self._write_until is not None:
            if now > self._write_until:
                self._end_by(_Ending.STALLED)
        elif not self._has_begun and now > self._deadline:
            self._end_by(_Ending.TIMEOUT)
        elif self._is_at_client and self._replies:
            self._interrupt()
        elif not self._must_watch:
            self._must_watch = True
            self._wake()
        if self._worker is not None:
            since = self._inbox.workers.missing_since(self._worker, self._worker_missing_since)
            self._worker_missing_since = since
            if since is not None and self._inbox.workers.has_missed(since):
                self._lose_worker()

    def _lose_worker(self) -> None:
        """End the response where what has arrived of it ends, which is not its end: the client is to notice."""
        self._ending = self._ending or _Ending.LOST
        self._wake()

    def _end_by(self, ending: _Ending) -> None:
        """Settle for ``ending``, unless another came first, and end any wait for the client."""
        if self._ending is None:
            self._ending = ending
            if ending in (_Ending.STALLED, _Ending.OVERRUN):
                self._inbox.counters.slow_closed += 1
                self._warn_of_breaking_off(ending)
        self._wake()
        self._interrupt()

    def _warn_of_breaking_off(self, ending: _Ending) -> None:
        logger.warning("The response to %r is broken off: %s.", redact(self._reply_channel), ending.value)

    def shut_down(self) -> None:
        """Requests may finish."""

    def abort(self) -> None:
        self._end_by(_Ending.ABORTED)

    def lose_lease(self) -> None:
        self._end_by(_Ending.ABORTED)

    # Waiting.

    async def _wait(self) -> None:
        """Wait for a reply, a credit or an ending; may return without one."""
        self._waiter = self._inbox.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _interrupt(self) -> None:
        if self._is_at_client and not self._is_interrupted and self._task is not None:
            self._is_interrupted = True
            self._task.cancel()

    async def _interruptible(self, awaitable: Awaitable[T]) -> T:
        """Wait for the client; raises :class:`_Interrupted` when the sweep ends it."""
        self._is_at_client = True
        try:
            return await awaitable
        except asyncio.CancelledError:
            if not self._is_interrupted or self._task is None:
                raise
            self._is_interrupted = False
            self._task.uncancel()
            raise _Interrupted from None
        finally:
            self._is_at_client = False


def _weight(content: Mapping[str, Any]) -> int:
    data = content.get("content")
    return 64 + (len(data) if isinstance(data, bytes) else 0)


def _announced_size(headers: list[list[bytes]]) -> int | None:
    values = set(header_values(headers, b"content-length"))
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise BadHeaders("Content-Length is not one number.")
    return int(value)
