"""The signals that tell bindings of changes."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

if TYPE_CHECKING:
    from django.db.models import Model

    from channels_model_binding.binding import Binding

__all__ = ["connect", "disconnect"]

_REVERSE = "_binding_reverse_keys"


def connect(binding: type[Binding]) -> None:
    """Have the signals of the binding's model call it, for as long as the class lives."""
    model = binding.model
    uid = f"channels_model_binding.{id(binding)}"
    receivers = _Receivers(binding)
    binding._receivers = receivers  # type: ignore[attr-defined]  # signals hold them weakly, so the class has to
    for sender in _senders(model):
        pre_save.connect(receivers.before_save, sender=sender, dispatch_uid=uid)
        post_save.connect(receivers.after_save, sender=sender, dispatch_uid=uid)
        # Of a row in two tables, Django tells of the deletion in each.
        if sender._meta.concrete_model is model._meta.concrete_model:
            pre_delete.connect(receivers.before_delete, sender=sender, dispatch_uid=uid)
            post_delete.connect(receivers.after_delete, sender=sender, dispatch_uid=uid)
    names = binding.field_names()
    for field in model._meta.many_to_many:
        if field.name in names:
            m2m_changed.connect(receivers.on_relation, sender=field.remote_field.through, dispatch_uid=uid)


def _senders(model: type[Model]) -> list[type[Model]]:
    """The model, its proxies, and those that inherit its table: whose saves are saves of its rows."""
    heirs = [one for one in apps.get_models() if issubclass(one, model) and one is not model]
    return [model, *heirs]


def disconnect(binding: type[Binding]) -> None:
    """Undo :func:`connect`."""
    if "_receivers" in vars(binding):
        del binding._receivers  # type: ignore[attr-defined]  # nobody else holds it, and signals forget who is gone


def _may_be_stored(instance: Any, raw: bool) -> bool:
    """Whether saving an instance that was made, not loaded, may change a row instead of adding one."""
    key = instance._meta.pk
    return instance.pk is not None and (raw or not (key.has_default() or key.has_db_default()))


class _Receivers:
    """What the signals of one binding's model call."""

    def __init__(self, binding: type[Binding]) -> None:
        self._binding = binding

    def before_save(self, instance: Any, raw: bool = False, using: str | None = None, **_: Any) -> None:
        """Note the groups that hear of the instance as it is."""
        binding = self._binding
        if instance._state.adding and not (binding.compares_stored and _may_be_stored(instance, raw)):
            binding.remember_groups(instance, (), is_new=True)
            return
        if not binding.compares_stored:
            binding.remember_groups(instance, binding.group_names(instance) or ())
            return
        stored = type(instance)._base_manager.using(using).filter(pk=instance.pk).first()
        if stored is None:
            binding.remember_groups(instance, (), is_new=True)
        else:
            binding.remember_groups(instance, binding.group_names(stored) or ())

    def after_save(
        self,
        instance: Any,
        sender: Any,
        signal: Any,
        raw: bool = False,
        using: str | None = None,
        **kwargs: Any,
    ) -> None:
        tell = partial(
            self._binding.tell_of_change, instance, is_deleted=False, raw=raw, using=using, **kwargs
        )
        if raw:  # of a fixture, whose later rows the instance may refer to
            transaction.on_commit(tell, using=using)
        else:
            tell()

    def before_delete(self, instance: Any, **_: Any) -> None:
        self._binding.remember_groups(instance, self._binding.group_names(instance) or ())

    def after_delete(self, instance: Any, sender: Any, signal: Any, **kwargs: Any) -> None:
        self._binding.tell_of_change(instance, is_deleted=True, **kwargs)

    def on_relation(
        self, sender: Any, signal: Any, instance: Any, action: str, reverse: bool, pk_set: Any, **kwargs: Any
    ) -> None:
        """A many-to-many relation changed: an update of each of the model's rows that it concerns."""
        phase, _, what = action.partition("_")
        kwargs["m2m_action"] = action
        for row in self._rows(sender, instance, reverse, pk_set, phase, what, kwargs.get("using")):
            if phase == "pre":
                self._binding.remember_groups(row, self._binding.group_names(row) or ())
            else:
                self._binding.tell_of_change(row, is_deleted=False, **kwargs)

    def _rows(
        self,
        through: Any,
        instance: Any,
        reverse: bool,
        pk_set: Collection[Any] | None,
        phase: str,
        what: str,
        using: str | None,
    ) -> list[Any]:
        if not reverse and not (pk_set or what == "clear"):
            return []
        if not reverse and isinstance(instance, self._binding.model):
            return [instance]
        # Changed from the other side, or under another class: the rows are looked up once, before, and kept for
        # afterwards.
        kept: dict[Any, list[Any]] = instance.__dict__.setdefault(_REVERSE, {})
        key = (self._binding, through)
        if phase == "post":
            return kept.pop(key, [])
        rows = self._binding.model._base_manager.using(using)
        if not reverse:
            found = list(rows.filter(pk=instance.pk))
        elif what == "clear":
            name = next(
                field.name
                for field in self._binding.model._meta.many_to_many
                if field.remote_field.through is through
            )
            found = list(rows.filter(**{name: instance}))
        else:
            found = list(rows.filter(pk__in=pk_set or ()))
        kept[key] = found
        return found
