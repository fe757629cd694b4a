"""Several streams over one WebSocket, each with a consumer of its own that knows nothing of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, ClassVar

from channels_core.exceptions import ConfigurationError, ConsumerControl
from channels_core.message import Message
from channels_core.routing import Consumer, is_async_consumer
from channels_django.generic.consumers import Handler
from channels_django.generic.multiplexer import SendNotAvailableOnDemultiplexer, WebsocketMultiplexer
from channels_django.generic.websockets import JsonWebsocketConsumer

__all__ = ["WebsocketDemultiplexer"]


class _Failures:
    """Keeps what goes wrong inside it for later. What a consumer says by an exception it lets through."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, ConsumerControl):
            return False
        self._errors.append(error)
        return True

    def report(self) -> None:
        """Raise what was kept: one error as it is, several in a group."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ExceptionGroup("Several streams failed when the socket closed.", self._errors)


class WebsocketDemultiplexer(JsonWebsocketConsumer):
    """Hands frames ``{"stream": name, "payload": {...}}`` to the consumer that ``consumers`` has for the stream.

    The consumers are JSON consumers: classes, or functions that take the message. Each is called with the keyword
    argument ``multiplexer``, a :class:`WebsocketMultiplexer` of its stream, to send through, and sees the payload as
    the text of its frame. All of them are called when the socket connects, which the demultiplexer has accepted by
    then, and when it disconnects. The message is the same for all, with what decorators hang on it.

    All consumers have to be of one kind, plain or asynchronous, and the demultiplexer is of that kind too; otherwise
    the class cannot be made, which is a :class:`~channels_core.exceptions.ConfigurationError`.
    """

    consumers: ClassVar[Mapping[str, Consumer]] = {}
    """Stream -> consumer."""
    multiplexer_class: ClassVar[type[WebsocketMultiplexer]] = WebsocketMultiplexer

    @classmethod
    def _callees(cls) -> Iterator[tuple[str, Handler]]:
        yield from super()._callees()
        for stream, consumer in cls.consumers.items():
            if not callable(consumer):
                raise ConfigurationError(
                    f"The demultiplexer {cls.__module__}.{cls.__qualname__} has {consumer!r:.80} for stream {stream!r},"
                    " which cannot be called. Give it a JsonWebsocketConsumer, or a function that takes the message."
                )
            yield f"consumers[{stream!r}]", consumer

    def connect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """Accept the socket, then tell every consumer."""
        self._reply_channel.send({"accept": True})
        return self._run_all(message, kwargs)

    def receive(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Hand the payload to its stream's consumer.

        Raises ``ValueError`` for anything but ``{"stream": ..., "payload": {...}}`` with a stream that there is.
        """
        stream = content.get("stream") if isinstance(content, dict) else None
        if not isinstance(content, dict) or "stream" not in content or "payload" not in content:
            raise ValueError(
                f"A frame for {type(self).__qualname__} is {content!r:.80}: it has to be"
                ' {"stream": "...", "payload": {...}}.'
            )
        consumer = self.consumers.get(stream) if isinstance(stream, str) else None
        if consumer is None:
            raise ValueError(
                f"A frame for {type(self).__qualname__} names the stream {stream!r:.80}. There are:"
                f" {', '.join(sorted(self.consumers)) or 'none'}."
            )
        assert isinstance(stream, str)  # what has a consumer is text
        payload = content["payload"]
        if not isinstance(payload, dict):
            raise ValueError(
                f"The payload of a frame for stream {stream!r} is {payload!r:.80} ({type(payload).__name__}): it has to"
                " be an object."
            )
        kwargs["multiplexer"] = self._multiplexer(stream)
        text = self.encode_json(payload)
        if is_async_consumer(consumer):
            return self._arun_with(consumer, text, kwargs)
        with self._text(text):
            return consumer(self.message, **kwargs)

    async def _arun_with(self, consumer: Consumer, text: str, kwargs: dict[str, Any]) -> Any:
        with self._text(text):
            return await consumer(self.message, **kwargs)

    @contextmanager
    def _text(self, text: str) -> Iterator[None]:
        """The message is to read so for a consumer, and as it was when it goes back to its channel."""
        whole = self.message.content
        self.message.content = {**whole, "text": text}
        try:
            yield
        finally:
            self.message.content = whole

    def disconnect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """Tell every consumer, whichever of them fails: what that one raised is raised when all have been told."""
        return self._run_all(message, kwargs, _Failures())

    def _run_all(self, message: Message, kwargs: dict[str, Any], failures: _Failures | None = None) -> Any:
        if self.is_async:
            return self._arun_all(message, kwargs, failures)
        for stream, consumer in self.consumers.items():
            with failures or nullcontext():
                consumer(message, **{**kwargs, "multiplexer": self._multiplexer(stream)})
        if failures is not None:
            failures.report()
        return None

    async def _arun_all(self, message: Message, kwargs: dict[str, Any], failures: _Failures | None) -> None:
        for stream, consumer in self.consumers.items():
            with failures or nullcontext():
                await consumer(message, **{**kwargs, "multiplexer": self._multiplexer(stream)})
        if failures is not None:
            failures.report()

    def _multiplexer(self, stream: str) -> WebsocketMultiplexer:
        return self.multiplexer_class(stream, self._reply_channel)

    def send(self, *args: Any, **kwargs: Any) -> None:
        """Raises :class:`SendNotAvailableOnDemultiplexer`: a frame has to name its stream."""
        raise self._not_available("self.send()")

    async def asend(self, *args: Any, **kwargs: Any) -> None:
        """:meth:`send`."""
        raise self._not_available("self.asend()")

    @classmethod
    def group_send(cls, *args: Any, **kwargs: Any) -> None:
        """Raises :class:`SendNotAvailableOnDemultiplexer`: a frame has to name its stream."""
        raise cls._not_available("group_send()")

    @classmethod
    async def agroup_send(cls, *args: Any, **kwargs: Any) -> None:
        """:meth:`group_send`."""
        raise cls._not_available("agroup_send()")

    @classmethod
    def _not_available(cls, call: str) -> SendNotAvailableOnDemultiplexer:
        return SendNotAvailableOnDemultiplexer(
            f"{call} of the demultiplexer {cls.__qualname__} would leave out the stream's name. Use"
            " multiplexer.send(payload) in a consumer, and anywhere else"
            " WebsocketMultiplexer.group_send(name, stream, payload)."
        )
