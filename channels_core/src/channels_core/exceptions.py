"""Every exception of the project, in one tree.

Errors (something is wrong and the text says what to do)::

    ChannelsError
    ├── ConfigurationError (ValueError)        settings, plugins, routes: found before traffic
    │   ├── InvalidChannelLayerError           a layer entry that cannot be built
    │   ├── InvalidRouteError                  a route that could never run
    │   └── PluginError                        what a registration asked for cannot be given
    │       ├── UnknownPluginError             nobody registers that name
    │       ├── ConflictingPluginsError        two distributions register one name
    │       ├── BrokenPluginError              the plugin that registers it failed
    │       └── IncompatiblePluginError        the plugin was written for another API version
    ├── InvalidNameError (TypeError)           a channel or group name outside the grammar
    ├── InvalidMessageError (TypeError, ValueError)   a value a message cannot carry
    ├── MessageTooLarge (ValueError)           over the layer's size limit
    ├── ChannelFull                            over the channel's capacity; nothing was sent
    ├── LayerUnavailable                       the engine is away; nothing is known to be lost
    │   └── SendUncertain                      the send may or may not have arrived
    ├── BlockingCallError (RuntimeError)       a sync call that would stall a running event loop
    ├── TransactionError (RuntimeError)        a message that cannot go with a database transaction here
    ├── SessionExists (ValueError)             a session store refused to create an existing key
    ├── RequestTimeout                         a request body came too slowly
    └── RequestAborted                         the client went away while sending the body

Signals (a consumer raises them on purpose)::

    ConsumerControl
    ├── ConsumeLater                           put the message at the back of its channel
    ├── ResponseLater                          a view answers another way: send nothing now
    └── ChannelSocketException                 does something to the socket, then ends the consumer
        ├── DenyConnection                     refuse the WebSocket that is connecting
        └── WebsocketCloseException            close the WebSocket, with a code
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels_core.message import Message

__all__ = [
    "BlockingCallError",
    "BrokenPluginError",
    "ChannelFull",
    "ChannelSocketException",
    "ChannelsError",
    "ConfigurationError",
    "ConflictingPluginsError",
    "ConsumeLater",
    "ConsumerControl",
    "DenyConnection",
    "IncompatiblePluginError",
    "InvalidChannelLayerError",
    "InvalidMessageError",
    "InvalidNameError",
    "InvalidRouteError",
    "LayerUnavailable",
    "MessageTooLarge",
    "PluginError",
    "RequestAborted",
    "RequestTimeout",
    "ResponseLater",
    "SendUncertain",
    "SessionExists",
    "TransactionError",
    "UnknownPluginError",
    "WebsocketCloseException",
]


class ChannelsError(Exception):
    """Root of everything that is an error."""


class ConfigurationError(ChannelsError, ValueError):
    """Settings, a plugin or a route is wrong; raised before any message is touched."""


class InvalidChannelLayerError(ConfigurationError):
    """An entry of ``CHANNEL_LAYERS`` cannot be turned into a layer."""


class InvalidRouteError(ConfigurationError):
    """A route, or what it points to, could never run."""


class PluginError(ConfigurationError):
    """What was asked of the plugins cannot be given."""


class UnknownPluginError(PluginError):
    """No installed plugin registers the name."""


class ConflictingPluginsError(PluginError):
    """Two distributions register the same name; neither wins."""


class BrokenPluginError(PluginError):
    """The plugin that registers, or may register, the name failed to load."""


class IncompatiblePluginError(PluginError):
    """The plugin was written for another version of the plugin API."""


class InvalidNameError(ChannelsError, TypeError):
    """A channel or group name is outside the grammar of :mod:`channels_core.names`."""


class InvalidMessageError(ChannelsError, TypeError, ValueError):
    """A message holds something that no layer could carry; the text names the key path."""


class MessageTooLarge(ChannelsError, ValueError):
    """The encoded message is over the layer's size limit; nothing was sent."""


class ChannelFull(ChannelsError):
    """The channel holds as many messages as its capacity allows; nothing was sent."""


class LayerUnavailable(ChannelsError):
    """The layer's engine cannot be reached; what it already kept is not lost."""


class SendUncertain(LayerUnavailable):
    """The engine went away in the middle of a send: the message may or may not have arrived."""


class BlockingCallError(ChannelsError, RuntimeError):
    """A synchronous call that waits was made in a thread whose event loop is running."""


class TransactionError(ChannelsError, RuntimeError):
    """A send asked to go with a database transaction, which its layer or its caller cannot do."""


class SessionExists(ChannelsError, ValueError):
    """``SessionStore.create`` found the key taken."""


class RequestTimeout(ChannelsError):
    """The body of a request did not arrive in time."""


class RequestAborted(ChannelsError):
    """The client broke the request off while its body was being read."""


class ConsumerControl(Exception):
    """What a consumer raises to tell the worker something, rather than to report a failure."""


class ConsumeLater(ConsumerControl):
    """Put the message, with the changes made to its content, at the back of its channel.

    Allowed ``message_retries`` times (10), which makes eleven runs; then the message is dropped with a
    warning, or dead-lettered where its channel is at-least-once. On the last run, and only then, the
    message has the attribute ``__doomed__``.
    """


class ResponseLater(ConsumerControl):
    """Raised in a view that answers through ``request.reply_channel`` later; nothing is sent now."""


class ChannelSocketException(ConsumerControl):
    """Base of the exceptions that act on the socket behind a message.

    Subclass it to bundle a reaction: the worker calls :meth:`run` with the message, inside the run's held
    sends, and then goes on with the next one.
    """

    def run(self, message: Message) -> None:
        """Act on the socket; ``message`` is the one whose consumer raised."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to do: define run(self, message) in it, or raise"
            " DenyConnection or WebsocketCloseException instead."
        )


class DenyConnection(ChannelSocketException):
    """Refuse the WebSocket that is connecting; the client sees a 403.

    Meant for ``websocket.connect``. Anywhere else it is an error, logged, and the worker goes on.
    Sends made before it was raised go out first, so an earlier accept wins.
    """

    def run(self, message: Message) -> None:
        if message.channel is None or message.channel.name != "websocket.connect":
            where = None if message.channel is None else message.channel.name
            raise ConfigurationError(
                f"DenyConnection was raised on channel {where!r}: only a message on 'websocket.connect' has a"
                " connection to deny. Raise WebsocketCloseException to close an open socket."
            )
        if message.reply_channel is None:
            raise ConfigurationError(
                "DenyConnection was raised for a message without a reply_channel: there is no socket to refuse."
            )
        message.reply_channel.send({"close": True})


class WebsocketCloseException(ChannelSocketException):
    """Close the WebSocket behind any ``websocket.*`` message.

    ``code`` is 1000 or 3000 to 4999, the codes RFC 6455 leaves to applications; none means 1000.

    Raises ``ValueError`` at construction for any other code.
    """

    def __init__(self, code: int | None = None) -> None:
        if code is not None and (
            isinstance(code, bool) or not isinstance(code, int) or not (code == 1000 or 3000 <= code <= 4999)
        ):
            raise ValueError(
                f"{code!r} is not a close code an application may send: use 1000 or 3000 to 4999"
                " (RFC 6455, section 7.4), or none for 1000."
            )
        super().__init__(code)
        self.code = code

    def run(self, message: Message) -> None:
        name = None if message.channel is None else message.channel.name
        if name is None or not name.startswith("websocket."):
            raise ConfigurationError(
                f"WebsocketCloseException was raised on channel {name!r}: only a message on a 'websocket.*'"
                " channel has a socket to close."
            )
        if message.reply_channel is None:
            raise ConfigurationError(
                "WebsocketCloseException was raised for a message without a reply_channel: there is no socket"
                " to close."
            )
        message.reply_channel.send({"close": self.code or True})
