"""The tables: messages that wait for their time, and receipts for orders that may be handed over again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import models
from django.utils import timezone

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, channel_layers
from channels_core.exceptions import ChannelFull
from channels_delay.stored import from_text

if TYPE_CHECKING:
    from channels_core.channel_layer import ChannelLayer

__all__ = ["DelayedMessage", "DelayedMessageQuerySet", "Receipt"]


class DelayedMessageQuerySet(models.QuerySet["DelayedMessage"]):
    """Queries for delayed messages."""

    def is_due(self) -> DelayedMessageQuerySet:
        """Those whose time has come and that no delay server has in hand."""
        return self.filter(due_date__lte=timezone.now())


class DelayedMessage(models.Model):
    """A message that is sent to ``channel_name`` at ``due_date``.

    ``content`` is text: the message as JSON, in which bytes are ``{"__bytes__": "<base64>"}``. A row may also be made
    by hand; a server sees it within its ``--sleep``. While a server has it in hand, ``claim`` is set and ``due_date``
    is when the claim ends, should that server die.
    """

    due_date = models.DateTimeField()
    channel_name = models.CharField(max_length=512)
    content = models.TextField()
    layer = models.CharField(max_length=100, default=DEFAULT_CHANNEL_LAYER)
    """Alias of the layer it is sent on."""
    claim = models.CharField(max_length=26, default="", blank=True)

    objects = DelayedMessageQuerySet.as_manager()

    class Meta:
        """Looked up by what is due next on a layer."""

        indexes = (models.Index(fields=["layer", "due_date"], name="channels_delay_due"),)

    _delay: float = 0

    @property
    def delay(self) -> float:
        """Milliseconds from now, when set: ``due_date`` follows. Reads back what was set.

        ``DelayedMessage(delay=500, ...)`` sets it too.
        """
        return self._delay

    @delay.setter
    def delay(self, milliseconds: float) -> None:
        self._delay = milliseconds
        self.due_date = timezone.now() + timedelta(milliseconds=milliseconds)

    def send(self, channel_layer: ChannelLayer | None = None, requeue_delay: float = 1000) -> None:
        """Send it now and delete the row; where its channel is full, put it off by ``requeue_delay`` milliseconds.

        Without ``channel_layer`` it goes to the layer that the row names. A message that is too large for the layer
        raises ``MessageTooLarge`` and stays.
        """
        layer = channel_layer or channel_layers[self.layer]
        try:
            layer.send(self.channel_name, from_text(self.content))
        except ChannelFull:
            self.delay = requeue_delay
            self.save()
        else:
            self.delete()

    def __str__(self) -> str:
        return f"to {self.channel_name} at {self.due_date}"


class Receipt(models.Model):
    """An order that has been accepted and not settled, so that it may come again.

    An order on an at-least-once channel whose server dies before it has settled it is handed to another server. The
    receipt, written together with the delayed message, tells that one that nothing is left to do.
    """

    fingerprint = models.CharField(max_length=40, db_index=True)
    accepted = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.fingerprint} at {self.accepted}"
