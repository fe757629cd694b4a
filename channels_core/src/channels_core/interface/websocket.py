"""One WebSocket, from handshake to disconnect.

The connection's own task reads frames and sends them into the layer; what comes back is handed to the server by the
receiving task. An idle socket is this object and a suspended ``receive()``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from channels_core.credit import take_credit
from channels_core.headers import ALONE, CREDIT, FRAME, SENT_AT
from channels_core.interface.asgi import (
    EXCLUSIVE_SERVERS,
    STEPPED_SERVERS,
    Event,
    Receive,
    Scope,
    ServerSend,
    abort_connection,
    server_of,
)
from channels_core.interface.headers import BadHeaders, BadReply, clean_request_headers, header_values
from channels_core.interface.outbound import Backlog, step
from channels_core.interface.refusals import refusal
from channels_core.interface.replies import SocketReply, frame_of, read_socket_reply
from channels_core.interface.scopes import address, path_of
from channels_core.layers import Outcome, Send
from channels_core.names import redact

if TYPE_CHECKING:
    from channels_core.interface.inbox import Inbox
    from channels_core.origins import OriginValidator

__all__ = ["WebSocketConnection"]

logger = logging.getLogger("channels.interface")

_CONNECTING: Final = 0
_OPEN: Final = 1
_CLOSING: Final = 2
_GONE: Final = 3

_CLOSE_PATIENCE: Final = 10.0
_LAST_WORDS: Final = 2.0
_LINGER: Final = 5.0
"""Seconds in which a client whose connection was ended may still take what the server has of it."""
_MOST_ANSWERS: Final = 1000
_ENVELOPE: Final = 160
"""About the bytes that a frame's message has beside its payload and path."""

_LOST: Final = 1006
_NO_CODE: Final = 1005
_NOT_TEXT: Final = 1007
_TOO_BIG: Final = 1009
_RESTART: Final = 1012
_TRY_LATER: Final = 1013

_UNANSWERED: Final[dict[str, Any]] = {}
"""Stands among the answers to a handshake for: there will be none."""


class WebSocketConnection:
    """See :class:`~channels_core.interface.inbox.Connection`."""

    __slots__ = (
        "_answers",
        "_awaited",
        "_backlog",
        "_close_code",
        "_deadline",
        "_expires",
        "_flight_since",
        "_inbox",
        "_is_hurried",
        "_is_interrupted",
        "_is_refused",
        "_is_slow",
        "_is_yielding",
        "_local",
        "_order",
        "_path",
        "_peek",
        "_pending",
        "_reader",
        "_reply_channel",
        "_send",
        "_state",
        "_steps",
        "_task",
        "_waiter",
    )

    def __init__(self, inbox: Inbox, send: ServerSend) -> None:
        self._inbox = inbox
        self._send = send
        self._steps = server_of(send) in STEPPED_SERVERS
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._state = _CONNECTING
        self._answers: list[Mapping[str, Any]] | None = []
        self._backlog: Backlog | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._local = self._reply_channel = self._path = ""
        self._order = 0
        self._awaited: list[int] = []
        """The numbers of the messages whose credit has not come back."""
        self._flight_since = 0.0
        self._deadline = 0.0
        self._expires: float | None = None
        self._close_code: int | None = None
        self._is_interrupted = False
        self._is_hurried = False
        self._is_refused = False
        """Whether a frame in the window waits for room in its channel: no credit of it can come back."""
        self._is_slow = self._is_yielding = False
        self._reader: asyncio.Task[Any] | None = None
        """The task that waits in the server's receive, where that matters."""
        self._peek: asyncio.Task[Event] | None = None
        """Looks at the client's next event while the last one is stuck."""
        self._pending: Send | asyncio.Task[Outcome] | None = None
        """A frame that waits for a credit, or for room."""

    async def serve(self, scope: Scope, receive: Receive, validator: OriginValidator | None) -> None:
        """Hold the connection until it is over. A ``websocket.connect`` that was sent is followed by a disconnect."""
        code = _LOST
        try:
            if await self._shake_hands(scope, receive, validator):
                code = await self._read_frames(receive)
        except asyncio.CancelledError:
            if self._is_interrupted and self._task is not None:
                self._task.uncancel()
            else:
                goodbye = self._leave(code)
                if goodbye is not None:
                    await asyncio.wait({goodbye}, timeout=_LAST_WORDS)
                raise
        finally:
            self._leave(self._close_code or code)

    # The handshake.

    async def _admit(
        self, scope: Scope, receive: Receive, validator: OriginValidator | None
    ) -> dict[str, Any] | None:
        """Everything that can refuse a connection before it enters the layer; returns the connect message's content."""
        event = await receive()
        if event.get("type") != "websocket.connect":
            return None
        inbox, config = self._inbox, self._inbox.config
        try:
            headers = clean_request_headers(
                scope["headers"], max_headers=config.max_headers, max_bytes=config.max_header_bytes
            )
            path = path_of(scope)
        except BadHeaders as bad:
            await self._refuse(scope, bad.status, str(bad))
            return None
        if validator is not None and not _is_origin_allowed(validator, headers):
            await self._refuse(scope, 403, "This origin may not open a WebSocket here.")
            return None
        if not await inbox.ready(config.websocket_handshake_timeout) or not await inbox.workers.is_served():
            await self._refuse(scope, 503, "No worker is running.")
            return None
        self._path = path
        return {
            "reply_channel": "",
            "path": path,
            "query_string": bytes(scope.get("query_string") or b""),
            "headers": headers,
            "client": address(scope.get("client")),
            "server": address(scope.get("server")),
            "order": 0,
        }

    async def _shake_hands(self, scope: Scope, receive: Receive, validator: OriginValidator | None) -> bool:
        """Send the connect message and do as the answer says; whether the socket is open now."""
        connect = await self._admit(scope, receive, validator)
        if connect is None:
            return False
        inbox = self._inbox
        self._deadline = inbox.loop.time() + inbox.config.websocket_handshake_timeout
        if inbox.process is None:
            await self._refuse(scope, 503, "The server restarts.")
            return False
        self._local, self._reply_channel = inbox.add("websocket.send", self)
        connect["reply_channel"] = self._reply_channel
        size = (
            _ENVELOPE
            + len(self._path)
            + len(connect["query_string"])
            + sum(len(name) + len(value) + 8 for name, value in connect["headers"])
        )
        self._awaited.append(0)
        self._flight_since = inbox.loop.time()
        headers = {**self._headers(), CREDIT: self._reply_channel, FRAME: 0}
        outcome = await inbox.send(Send("websocket.connect", connect, headers, size))
        if outcome is not Outcome.SENT and outcome is not Outcome.UNCERTAIN:
            inbox.forget(self._local)
            self._local = ""
            await self._refuse(scope, 503, "The server is busy.")
            return False
        inbox.counters.connections += 1
        answers = self._answers
        assert answers is not None
        while True:
            while answers:
                content = answers.pop(0)
                if content is _UNANSWERED:
                    await self._refuse(scope, 503, "Nobody answered in time.")
                    return False
                try:
                    reply = read_socket_reply(content)
                except BadReply as bad:
                    self._report(bad)
                    continue
                if reply.accept or (reply.frame is not None and reply.accept is None):
                    return await self._accept(scope, reply, answers)
                if reply.accept is False or reply.close is not None:
                    await self._refuse(scope, 403, "Access denied.")
                    return False
            await self._wait()

    async def _accept(self, scope: Scope, reply: SocketReply, answers: list[Mapping[str, Any]]) -> bool:
        event: Event = {"type": "websocket.accept"}
        subprotocol = self._subprotocol(scope, reply)
        if subprotocol is not None:
            event["subprotocol"] = subprotocol
        if reply.headers:
            event["headers"] = reply.headers
        try:
            await self._send(event)
        except Exception as error:  # noqa: BLE001 - servers have no common exception for a client that left
            logger.debug("A WebSocket could not be accepted: %r", error)
            return False
        self._state = _OPEN
        self._answers = None
        max_age = self._inbox.config.websocket_max_age
        if max_age is not None:
            self._expires = self._inbox.loop.time() + max_age
        self._obey(reply)
        for content in answers:
            if content is _UNANSWERED:
                self.close(_RESTART if self._inbox.is_closing else _TRY_LATER)
            else:
                self.deliver(content, {})
        return True

    def _subprotocol(self, scope: Scope, reply: SocketReply) -> str | None:
        offered = scope.get("subprotocols") or []
        if reply.subprotocol is not None:
            if reply.subprotocol in offered:
                return reply.subprotocol
            logger.error(
                "A consumer accepts a WebSocket with subprotocol %r, which the client did not offer (%s). None is"
                " used; choose among what it offers.",
                reply.subprotocol,
                ", ".join(map(repr, offered)) or "it offered none",
            )
            return None
        spoken = self._inbox.config.websocket_protocols
        return next((protocol for protocol in offered if protocol in spoken), None)

    async def _refuse(self, scope: Scope, status: int, reason: str) -> None:
        """Answer the handshake with ``status`` where the server can, else by the 403 that it makes of a close."""
        self._inbox.counters.refused += 1
        self._state = _GONE
        try:
            if status != 403 and "websocket.http.response" in (scope.get("extensions") or {}):
                headers, body = refusal(status, reason)
                await self._send(
                    {"type": "websocket.http.response.start", "status": status, "headers": headers}
                )
                await self._send({"type": "websocket.http.response.body", "body": body, "more_body": False})
            else:
                await self._send({"type": "websocket.close", "code": _TRY_LATER if status == 503 else 1000})
        except Exception as error:  # noqa: BLE001 - servers have no common exception for a client that left
            logger.debug("A WebSocket could not be refused: %r", error)

    # From the client to the layer.

    async def _read_frames(self, receive: Receive) -> int:
        """Send frame after frame, each when the window has room; returns the code the socket closed with."""
        inbox = self._inbox
        window = inbox.config.credit_window
        send_one = None if inbox.is_waiting else inbox.backend.send_one
        path, reply_channel, awaited = self._path, self._reply_channel, self._awaited
        max_size = min(
            inbox.config.max_frame_size, inbox.backend.max_message_size - _ENVELOPE - len(path.encode())
        )
        if server_of(self._send) in EXCLUSIVE_SERVERS:
            receive = partial(self._receive_until_closing, receive)
        while True:
            if self._peek is None:
                event = await receive()
            else:
                peek, self._peek = self._peek, None
                event = await peek
            kind = event.get("type")
            if kind == "websocket.disconnect":
                return self._code_of(event)
            if kind != "websocket.receive" or self._state != _OPEN:
                continue
            order = self._order + 1
            text = event.get("text")
            if type(text) is str and text.isascii():
                content = {"reply_channel": reply_channel, "path": path, "order": order, "text": text}
                size = len(text)
            else:
                content = {"reply_channel": reply_channel, "path": path, "order": order}
                size = _put_payload(content, text, event.get("bytes"))
            if size > max_size or size < 0:
                self.close(_TOO_BIG if size > 0 else _NOT_TEXT)
                continue
            headers: dict[str, str | int]
            if window == 1:
                headers = {SENT_AT: time_ns() // 1_000_000, CREDIT: reply_channel, FRAME: order, ALONE: 1}
            else:
                headers = {SENT_AT: time_ns() // 1_000_000, CREDIT: reply_channel, FRAME: order}
            message = Send("websocket.receive", content, headers, size + _ENVELOPE)
            if len(awaited) >= window and not await self._get_credit(message, receive):
                continue
            self._order = order
            awaited.append(order)
            self._flight_since = inbox.now
            if send_one is None or inbox.lines:
                outcome = await inbox.send(message)
            else:
                try:
                    outcome = send_one(message)
                except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
                    outcome = inbox.failed(error)
            if outcome is not Outcome.SENT:
                await self._insist(message, outcome, receive)

    async def _receive_until_closing(self, receive: Receive) -> Event:
        """Receive as servers want it that close nothing while they are asked for the next event."""
        if self._state == _OPEN:
            self._reader = asyncio.current_task()
            try:
                return await receive()
            except asyncio.CancelledError:
                if not self._is_yielding or self._reader is None:
                    raise
                self._reader.uncancel()
            finally:
                self._reader = None
        if self._backlog is not None:
            await asyncio.wait({self._backlog.task})
        return {"type": "websocket.disconnect", "code": self._close_code}

    async def _get_credit(self, message: Send, receive: Receive) -> bool:
        """Wait until the window has room for ``message``. ``False`` when it must not be sent here any more: the socket
        is being closed, or the client has left, and the message goes ahead of the disconnect."""
        self._pending = message
        while len(self._awaited) >= self._inbox.config.credit_window and self._state == _OPEN:
            if await self._has_left(receive):
                return False
        self._pending = None
        return self._state == _OPEN

    async def _insist(self, message: Send, outcome: Outcome, receive: Receive) -> None:
        """A frame was refused: it stays in the window, and nothing more is read, until it is sent or time is up."""
        inbox = self._inbox
        patience = inbox.config.websocket_send_timeout
        if patience and (
            outcome is Outcome.FULL or (outcome is Outcome.UNCERTAIN and inbox.bears_repeat(message.channel))
        ):
            self._is_refused = True
            trying = inbox.insist(message, until=inbox.loop.time() + patience)
            self._pending = sending = inbox.loop.create_task(trying)
            sending.add_done_callback(self._wake)
            while not sending.done():
                if await self._has_left(receive):
                    return
            self._pending = None
            outcome = sending.result()
        self._settle(outcome, self._order)

    def _settle(self, outcome: Outcome, order: int) -> None:
        """What the last outcome of sending the frame ``order`` means for its connection."""
        self._flight_since = self._inbox.now
        self._is_refused = False
        if outcome is Outcome.SENT or outcome is Outcome.UNCERTAIN:
            return  # an uncertain frame is not sent twice: its credit comes back, or is counted as lost
        self.credited(order)
        if outcome is Outcome.TOO_LARGE:
            self.close(_TOO_BIG)
        elif outcome is Outcome.FULL:
            self._inbox.counters.slow_closed += 1
            self.close(_TRY_LATER)

    async def _has_left(self, receive: Receive) -> bool:
        """Wait for anything to happen. When that takes long, look one event ahead: whether the client has left.

        Servers wait for their applications when they stop, and must not wait for a slow worker.
        """
        if self._is_slow and self._peek is None:
            self._peek = self._inbox.loop.create_task(_next_event(receive))
            self._peek.add_done_callback(self._wake)
        peek = self._peek
        if peek is not None and peek.done():
            if peek.cancelled() or peek.exception() is not None:
                return True
            if peek.result().get("type") == "websocket.disconnect":
                return True
        self._is_slow = False
        await self._wait()
        return False

    def _headers(self) -> dict[str, str | int]:
        headers: dict[str, str | int] = {SENT_AT: time_ns() // 1_000_000}
        if self._inbox.config.credit_window == 1:
            headers[ALONE] = 1
        return headers

    def _code_of(self, event: Event) -> int:
        if self._close_code is not None:
            return self._close_code
        code = event.get("code")
        if isinstance(code, bool) or not isinstance(code, int) or not 1000 <= code <= 4999:
            return _NO_CODE
        # uvicorn reports a lost connection as 1005 without a reason; a close without a code has a reason, "".
        if code == _NO_CODE and "reason" not in event and server_of(self._send) == "uvicorn":
            return _LOST
        return code

    # From the layer to the client. These do not wait.

    def deliver(self, content: Mapping[str, Any], headers: Mapping[str, str | int]) -> None:
        if self._state == _OPEN:
            event = frame_of(content)
            if event is not None:
                self._transmit(event)
                return
            try:
                reply = read_socket_reply(content)
            except BadReply as bad:
                self._report(bad)
            else:
                self._obey(reply)
        elif self._state == _CONNECTING and self._answers is not None:
            self._answers.append(content if len(self._answers) < _MOST_ANSWERS else _UNANSWERED)
            self._wake()
        else:
            self._inbox.counters.unknown_reply += 1

    def deliver_frame(self, event: Event, content: Mapping[str, Any]) -> None:
        if self._state == _OPEN:
            self._transmit(event)
        else:
            self.deliver(content, {})

    def _obey(self, reply: SocketReply) -> None:
        if reply.frame is not None:
            self._transmit(reply.frame)
        if reply.close is not None:
            self.close(reply.close)

    def _transmit(self, event: Event) -> None:
        backlog = self._backlog
        if backlog is None:
            if not self._steps:
                self._queue(event, _size_of(event))
                return
            try:
                rest = step(self._send(event))
            except Exception as error:  # noqa: BLE001 - servers have no common exception for a client that left
                self._fail(error)
                return
            if rest is not None:
                self._backlog = backlog = Backlog(self._inbox.loop.time())
                backlog.size = _size_of(event)
                backlog.task = self._inbox.loop.create_task(self._drain(backlog, rest))
            return
        size = _size_of(event)
        if backlog.size + size > self._inbox.outbound_bytes:
            self._cut()
        else:
            backlog.append(event, size)

    def _queue(self, event: Event, size: int) -> None:
        backlog = self._backlog
        if backlog is None:
            self._backlog = backlog = Backlog(self._inbox.loop.time())
            backlog.task = self._inbox.loop.create_task(self._drain(backlog, None))
        backlog.append(event, size)

    async def _drain(self, backlog: Backlog, rest: Awaitable[None] | None) -> None:
        loop = self._inbox.loop
        try:
            if rest is not None:
                size = backlog.size
                await rest
                backlog.size -= size
            while backlog.events:
                backlog.progress_at = loop.time()
                event, size = backlog.events.popleft()
                if event["type"] == "websocket.close":
                    await self._send_close(event["code"])
                else:
                    await self._send(event)
                backlog.size -= size
        except Exception as error:  # noqa: BLE001 - servers have no common exception for a client that left
            self._fail(error)
        finally:
            if self._backlog is backlog:
                self._backlog = None

    async def _send_close(self, code: int) -> None:
        if self._reader is not None and not self._is_yielding:
            self._is_yielding = True
            self._reader.cancel()
            await asyncio.sleep(0)
        try:
            await self._send({"type": "websocket.close", "code": code})
        except OSError:
            raise
        except Exception:
            if not 1000 < code < 3000:
                raise
            # daphne sends no code that is the protocol's own; the same in the private range tells as much.
            await self._send({"type": "websocket.close", "code": code + 3000})

    def close(self, code: int) -> None:
        """Close the socket behind what was sent before. Only the first call counts."""
        if self._state != _OPEN:
            return
        self._state = _CLOSING
        self._close_code = code
        self._deadline = self._inbox.loop.time() + _CLOSE_PATIENCE
        self._queue({"type": "websocket.close", "code": code}, 0)
        self._wake()

    def _fail(self, error: Exception) -> None:
        """The server does not take frames any more; its disconnect event is on the way, or else the sweep ends it."""
        logger.debug("A frame to %r could not be sent: %r", redact(self._reply_channel), error)
        if self._state == _OPEN:
            self._state = _CLOSING
            self._deadline = self._inbox.loop.time() + _CLOSE_PATIENCE
            self._wake()

    def _cut(self) -> None:
        """The client does not keep up: drop what waits for it, and it."""
        self._inbox.counters.slow_closed += 1
        self._state = _CLOSING
        self._close_code = _TRY_LATER
        self._deadline = self._inbox.loop.time() + _CLOSE_PATIENCE
        if self._backlog is not None:
            self._backlog.events.clear()
            self._backlog.task.cancel()
        self._inbox.spawn(self._cut_off())

    async def _cut_off(self) -> None:
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._send_close(_TRY_LATER)
        except Exception as error:  # noqa: BLE001 - a client that takes nothing takes no close frame either
            logger.debug("A slow client took no close frame: %r", error)
        self._interrupt()

    def _interrupt(self) -> None:
        """End the connection's own task, wherever it waits."""
        if self._task is not None and not self._is_interrupted and self._state != _GONE:
            self._is_interrupted = True
            self._task.cancel()
            self._inbox.loop.call_later(_LINGER, abort_connection, self._send)

    def _report(self, bad: BadReply) -> None:
        logger.error(
            "A message to the WebSocket %r is ignored: %s. Send any of accept, text or bytes, and close.",
            redact(self._reply_channel),
            bad,
        )

    # Credit and time.

    async def _wait(self) -> None:
        """Wait for a credit or an answer; may return without one."""
        self._waiter = self._inbox.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def credited(self, number: int | None) -> None:
        if take_credit(self._awaited, number):
            self._flight_since = self._inbox.now
            self._wake()
        else:
            self._inbox.counters.credit_late += 1

    def sweep(self, now: float) -> None:
        inbox = self._inbox
        if self._is_refused:
            self._flight_since = now
        elif inbox.stood_still:
            self._flight_since = min(now, self._flight_since + inbox.stood_still)
        elif self._awaited and now - self._flight_since > inbox.credit_patience:
            inbox.counters.credit_lost += 1
            logger.warning(
                "A message of %r was lost: its worker neither answered nor gave its credit back in time.",
                redact(self._reply_channel),
            )
            self.credited(None)
        if self._state == _CONNECTING:
            if now > self._deadline:
                self._give_up_handshake()
            return
        if self._pending is not None and not self._is_slow:
            self._is_slow = True
            self._wake()
        backlog = self._backlog
        if backlog is not None and now - backlog.progress_at > inbox.config.outbound_timeout:
            backlog.progress_at = now
            self._cut()
        elif self._state == _CLOSING:
            if now > self._deadline:
                self._interrupt()
        elif self._expires is not None and now > self._expires:
            self.close(1000)

    def _give_up_handshake(self) -> None:
        if self._answers is not None and _UNANSWERED not in self._answers:
            self._answers.append(_UNANSWERED)
            self._wake()

    def shut_down(self) -> None:
        if self._state == _CONNECTING:
            self._give_up_handshake()
        else:
            self.close(_RESTART)

    def abort(self) -> None:
        self._is_hurried = True
        self._wake()
        self._interrupt()

    def lose_lease(self) -> None:
        self._awaited.clear()
        self._wake()
        self.shut_down()

    # The end.

    def _leave(self, code: int) -> asyncio.Task[None] | None:
        """Send the disconnect message, now if the window has room, else by a task, which is returned. Idempotent."""
        inbox, self._state = self._inbox, _GONE
        local, self._local = self._local, ""
        if not local:
            return None
        self._answers = None
        if self._backlog is not None:
            self._backlog.task.cancel()
        content = {
            "reply_channel": self._reply_channel,
            "code": code,
            "path": self._path,
            "order": self._order + (2 if isinstance(self._pending, Send) else 1),
        }
        disconnect = Send("websocket.disconnect", content, self._headers(), _ENVELOPE + len(self._path))
        if self._peek is not None:
            self._peek.cancel()
        if not inbox.is_waiting and self._pending is None and len(self._awaited) < inbox.config.credit_window:
            try:
                inbox.backend.close_channel(self._reply_channel)
                outcome = inbox.backend.send_one(disconnect)
            except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
                outcome = inbox.failed(error)
            if outcome is not Outcome.FULL:
                inbox.forget(local)
                return None
        return inbox.spawn(self._say_goodbye(local, disconnect))

    async def _say_goodbye(self, local: str, disconnect: Send) -> None:
        """Send what is still to be sent: a frame that was read, if there is one, then the disconnect, each in turn."""
        inbox = self._inbox
        try:
            await inbox.close_channel(self._reply_channel, until=inbox.loop.time() + inbox.backend.expiry)
            pending = self._pending
            if isinstance(pending, asyncio.Task):
                self._settle(await pending, self._order)
            elif pending is not None:
                await self._wait_for_room()
                order = pending.content["order"]
                self._awaited.append(order)
                self._is_refused = True
                outcome = await inbox.insist(pending, until=inbox.loop.time() + inbox.backend.expiry)
                self._settle(outcome, order)
            await self._wait_for_room()
            await inbox.insist(disconnect, until=inbox.loop.time() + inbox.backend.expiry)
        finally:
            inbox.forget(local)

    async def _wait_for_room(self) -> None:
        while len(self._awaited) >= self._inbox.config.credit_window and not self._is_hurried:
            await self._wait()


async def _next_event(receive: Receive) -> Event:
    return await receive()


def _put_payload(content: dict[str, Any], text: Any, data: Any) -> int:
    """Put what the client sent into ``content``; returns its bytes, or -1 for text that UTF-8 cannot carry."""
    if text is None:
        if type(data) is not bytes:
            data = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b""
        content["bytes"] = data
        return len(data)
    content["text"] = text = str(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def _size_of(event: Event) -> int:
    text = event.get("text")
    if text is None:
        return len(event["bytes"])
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _is_origin_allowed(validator: OriginValidator, headers: list[list[bytes]]) -> bool:
    """Whether the page may connect. A request without Origin comes from no browser, and passes."""
    origins = header_values(headers, b"origin")
    if not origins:
        return True
    if len(origins) > 1:
        return False
    hosts = header_values(headers, b"host")
    try:
        return validator.is_allowed(
            origins[0].decode("latin-1"), hosts[0].decode("latin-1") if len(hosts) == 1 else None
        )
    except Exception:
        logger.exception("The origin validator failed; the connection is refused.")
        return False
