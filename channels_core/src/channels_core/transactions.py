"""Sends that go with the caller's database transaction: written in it, or held back until it has committed.

The core knows no database. A backend that keeps its messages in one writes them in the caller's transaction
(:meth:`~channels_core.layers.LayerBackend.send_in_transaction`); what runs after a commit is for the framework around
the application to know, which installs it in ``channel_layers.commit_hook``, as channels_django does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from channels_core.exceptions import ChannelsError, TransactionError
from channels_core.layer_views import in_running_loop
from channels_core.names import redact

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer
    from channels_core.layers import Send

__all__ = ["CommitHook", "refuse_in_async", "send_with_transaction"]

logger = logging.getLogger("channels.layer")

CommitHook = Callable[[Callable[[], None], str | None], None]
"""Calls its first argument once the transaction that is open on the database of that alias (``None``: the default one)
has committed; at once where none is open; never when it is rolled back."""


def send_with_transaction(
    layer: ChannelLayer,
    send: Send,
    on_commit: bool | str,
    transactional: bool | None,
    leave: Callable[[Send], None],
) -> None:
    """Send as the options ask; ``leave`` is how the message goes where no transaction is in its way.

    Raises :class:`~channels_core.exceptions.TransactionError` where that cannot be, and what a send raises.
    """
    if on_commit:
        if transactional:
            raise TransactionError(
                f"The message to {redact(send.channel)!r} is to be written in the transaction and to leave after it:"
                " give either transactional=True or on_commit=True, not both."
            )
        _send_after_commit(layer, send, on_commit if isinstance(on_commit, str) else None, leave)
        return
    backend = layer.backend
    if transactional and not backend.is_transactional:
        raise TransactionError(
            f"Layer {layer.alias!r} ({type(backend).__name__}) cannot write a message in a database transaction. Send"
            " with on_commit=True, which every layer can, or give the layer a BACKEND that keeps its messages in that"
            " database."
        )
    if in_running_loop():
        if transactional:
            raise _in_async(layer, send, "transactional")
        leave(send)  # no transaction of this thread's can be open
        return
    outcomes = backend.send_in_transaction((send,))
    if outcomes is None:
        leave(send)
    else:
        layer.raise_for(outcomes[0], send)


def refuse_in_async(
    layer: ChannelLayer, send: Send, on_commit: bool | str, transactional: bool | None
) -> None:
    """For the ``a`` twins. Raises :class:`~channels_core.exceptions.TransactionError` where an option asks for more
    than the default."""
    if on_commit:
        raise _in_async(layer, send, "on_commit")
    if transactional:
        raise _in_async(layer, send, "transactional")


def _in_async(layer: ChannelLayer, send: Send, option: str) -> TransactionError:
    return TransactionError(
        f"{option} for the message to {redact(send.channel)!r} on layer {layer.alias!r} was asked for in asynchronous"
        " code, where no database transaction can be open. Send in the synchronous function that opens it, with"
        f" send(..., {option}=True), and await that function by sync_to_async."
    )


def _send_after_commit(
    layer: ChannelLayer, send: Send, using: str | None, leave: Callable[[Send], None]
) -> None:
    # Not at the top: the handler makes layers, and they use this module.
    from channels_core.channel_layer.handler import channel_layers

    if in_running_loop():
        raise _in_async(layer, send, "on_commit")
    hook = channel_layers.commit_hook
    if hook is None:
        raise TransactionError(
            f"on_commit for the message to {redact(send.channel)!r}: nobody here knows of commits. Put"
            " 'channels_django' into INSTALLED_APPS and call django.setup(), or set channel_layers.commit_hook."
        )
    is_late = False

    def go() -> None:
        if not is_late:
            leave(send)
            return
        try:
            leave(send)
        except ChannelsError as error:
            # The data is committed, and other callbacks wait behind this one: there is nobody to raise to.
            layer.counters.dropped += 1
            logger.error(
                "A message to %r on layer %r was to be sent after a commit, and is lost. %s",
                redact(send.channel),
                layer.alias,
                error,
            )

    hook(go, using)
    is_late = True
