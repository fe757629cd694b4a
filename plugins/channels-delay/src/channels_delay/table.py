"""What delay servers do with the table: take what is due, so that no two have the same, and say what became of it.

A row in hand is claimed: it carries the claim's name, and its date is put off, so that it becomes due again by itself
where whoever claimed it dies. Claims are single statements in transactions of their own, and nothing is locked while
messages are on their way. All functions raise Django's database errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Final

from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.utils import timezone

from channels_core.names import new_id
from channels_delay.models import DelayedMessage, DelayedMessageQuerySet, Receipt
from channels_delay.orders import Order

__all__ = [
    "CLAIM_TIME",
    "NotOurs",
    "accept",
    "claim_due",
    "database",
    "finish",
    "forget",
    "forget_receipts",
    "next_due",
    "put_off",
    "still_claimed",
]

CLAIM_TIME: Final = timedelta(seconds=30)
"""How long a claim keeps others away: longer than any send takes."""
_RECEIPTS_KEPT: Final = timedelta(hours=1)


def database() -> str:
    """Alias of the database that the table is in."""
    return router.db_for_write(DelayedMessage)


def _rows() -> DelayedMessageQuerySet:
    return DelayedMessage.objects.using(database())


def _receipts() -> QuerySet[Receipt]:
    return Receipt.objects.using(database())


class NotOurs(Exception):
    """The orders may have gone to another server by now, so none was kept."""


def accept(
    orders: Sequence[Order], repeated: Sequence[Order], layer: str, *, is_ours: Callable[[], bool]
) -> list[int]:
    """Keep orders, all or none, each with a receipt. Of ``repeated``, which may have been kept before, those that there
    is a receipt for are left out; one receipt stands for one order, since orders may be equal.

    Returns the keys of all these receipts, for :func:`forget`. Raises :class:`NotOurs` where ``is_ours()`` is false
    when all is written, which may have taken its time.
    """
    with transaction.atomic(using=database()):
        found: dict[str, list[int]] = {}
        if repeated:
            prints = [order.fingerprint for order in repeated]
            known = _receipts().filter(fingerprint__in=prints).values_list("fingerprint", "pk")
            for fingerprint, key in known:
                found.setdefault(fingerprint, []).append(key)
        used: list[int] = []
        wanted = [*orders]
        for order in repeated:
            if keys := found.get(order.fingerprint):
                used.append(keys.pop())
            else:
                wanted.append(order)
        _rows().bulk_create(
            DelayedMessage(due_date=order.due, channel_name=order.channel, content=order.text, layer=layer)
            for order in wanted
        )
        now = timezone.now()
        written = _receipts().bulk_create(
            Receipt(fingerprint=order.fingerprint, accepted=now) for order in wanted
        )
        if not is_ours():
            raise NotOurs
        # Where the database does not tell the keys, time forgets them.
        return used + [receipt.pk for receipt in written if receipt.pk is not None]


def forget(receipts: Sequence[int]) -> None:
    """Delete receipts of orders that have been settled, so that an equal one is not taken for one of them."""
    _receipts().filter(pk__in=receipts).delete()


def forget_receipts() -> None:
    """Delete the receipts of orders that will not come again."""
    old = timezone.now() - _RECEIPTS_KEPT
    _receipts().filter(accepted__lt=old).delete()


def next_due(layer: str) -> datetime | None:
    """When the next message on ``layer`` is due; ``None`` where none waits."""
    return _rows().filter(layer=layer).order_by("due_date").values_list("due_date", flat=True).first()


def claim_due(layer: str, limit: int) -> list[DelayedMessage]:
    """At most ``limit`` messages that are due, earliest first, which nobody else gets for :data:`CLAIM_TIME`.

    The dates of what is returned are those the messages were due at; their claim is ours.
    """
    features = connections[database()].features
    skips_locked = features.has_select_for_update_skip_locked
    claim = new_id()
    # Without row locks, statements stand alone: the update alone decides who gets a row.
    with transaction.atomic(using=database()) if skips_locked else nullcontext():
        now = timezone.now()
        due = _rows().filter(layer=layer, due_date__lte=now).order_by("due_date", "pk")
        if skips_locked:
            due = due.select_for_update(skip_locked=True)
        found = list(due[:limit])
        if not found:
            return []
        taken = _rows().filter(pk__in=[row.pk for row in found], due_date__lte=now)
        if taken.update(claim=claim, due_date=now + CLAIM_TIME) != len(found):
            ours = set(
                _rows().filter(pk__in=[row.pk for row in found], claim=claim).values_list("pk", flat=True)
            )
            found = [row for row in found if row.pk in ours]
    for row in found:
        row.claim = claim
    return found


def still_claimed(rows: Sequence[DelayedMessage]) -> set[int]:
    """The keys of those ``rows``, claimed together, that nobody else has claimed since; locked until the transaction
    ends that has to be open."""
    held = _rows().filter(pk__in=[row.pk for row in rows], claim=rows[0].claim)
    if connections[database()].features.has_select_for_update:
        held = held.select_for_update()
    return set(held.values_list("pk", flat=True))


def finish(keys: Sequence[int]) -> None:
    """Delete messages that have been sent, or never can be."""
    _rows().filter(pk__in=keys).delete()


def put_off(dates: Mapping[int, datetime]) -> None:
    """End the claim of messages that were not sent: each becomes due at its date."""
    rows = [DelayedMessage(pk=key, due_date=date, claim="") for key, date in dates.items()]
    _rows().bulk_update(rows, ["due_date", "claim"])
