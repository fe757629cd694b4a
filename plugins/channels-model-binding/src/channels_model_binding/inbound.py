"""What a client sends, put into rows: only the fields that travel, checked as a form would, saved by ``save()``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ValidationError
from django.db import DatabaseError, InterfaceError, OperationalError, router, transaction

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

__all__ = ["Refused", "clean_pk", "create", "delete", "update"]

logger = logging.getLogger("channels.binding")

_ALL: Final = "__all__"
_NOT_A_VALUE: Final = (TypeError, ValueError, AttributeError, OverflowError, ArithmeticError)


class Refused(ValueError):
    """What a client asked for cannot be done.

    ``code`` is one of ``"malformed"``, ``"unknown action"``, ``"not found"`` and ``"invalid"``; ``errors`` says why, by
    field, or under ``"__all__"``.
    """

    def __init__(self, code: str, errors: Mapping[str, Sequence[str]]) -> None:
        self.code = code
        self.errors = {name: list(texts) for name, texts in errors.items()}
        super().__init__(f"{code}: {self.errors}")


def clean_pk(model: type[Model], action: str, pk: Any) -> Any:
    """``pk`` as the model's key field has it. Raises :class:`Refused` for what is no key."""
    if pk is None or isinstance(pk, bool | list | dict):
        raise Refused("malformed", {_ALL: [f"{action!r:.80} needs the key of a row, as 'pk'."]})
    try:
        return model._meta.pk.to_python(pk)
    except (ValidationError, *_NOT_A_VALUE):
        raise _not_found(model) from None


def _not_found(model: type[Model]) -> Refused:
    return Refused("not found", {_ALL: [f"There is no such {model._meta.verbose_name}."]})


def create(instance: Any, data: Any, names: Sequence[str]) -> Any:
    """Save ``instance``, which is new, with the ``names`` of ``data``."""
    using = router.db_for_write(type(instance), instance=instance)
    with _refusing(), transaction.atomic(using=using):
        _save(instance, data, names, is_new=True)
    return instance


def update(queryset: QuerySet[Any], pk: Any, data: Any, names: Sequence[str]) -> Any:
    """Save the ``names`` of ``data`` into the row, locked where the database has row locks."""
    using = router.db_for_write(queryset.model)
    with _refusing(), transaction.atomic(using=using):
        try:
            instance = (
                queryset.using(using).select_for_update(of=("self",) if _locks_of(using) else ()).get(pk=pk)
            )
        except (queryset.model.DoesNotExist, *_NOT_A_VALUE):
            raise _not_found(queryset.model) from None
        _save(instance, data, names, is_new=False)
    return instance


def _locks_of(using: str) -> bool:
    from django.db import connections

    features = connections[using].features
    return bool(features.has_select_for_update and features.has_select_for_update_of)


def delete(queryset: QuerySet[Any], pk: Any) -> None:
    """Delete the row, if it is there."""
    using = router.db_for_write(queryset.model)
    with _refusing(), transaction.atomic(using=using):
        queryset.using(using).filter(pk=pk).delete()


def _save(instance: Any, data: Any, names: Sequence[str], *, is_new: bool) -> None:
    if not isinstance(data, Mapping):
        raise Refused("malformed", {_ALL: ["'data' has to be an object with the values of fields."]})
    settable = {field.name: field for field in _settable(type(instance), names)}
    given = {name: value for name, value in data.items() if name in settable}
    errors: dict[str, list[str]] = {}
    related: dict[str, list[Any]] = {}
    for name, value in given.items():
        field = settable[name]
        try:
            if field.many_to_many:
                related[name] = _related(field, value)
            elif field.is_relation:
                setattr(instance, field.attname, field.target_field.to_python(value))
            else:
                setattr(instance, name, _finite(field.to_python(value)))
        except ValidationError as error:
            errors[name] = list(error.messages)
        except _NOT_A_VALUE:
            errors[name] = ["That is no value for this field."]
    if errors:
        raise Refused("invalid", errors)
    checked = settable if is_new else given  # a new row needs all that a form would ask for
    others = {field.name for field in instance._meta.get_fields() if field.name not in checked}
    instance.full_clean(exclude=others)
    instance.save()
    for name, rows in related.items():
        getattr(instance, name).set(rows)


def _finite(value: Any) -> Any:
    """``value``, unless it is a number that JSON does not have, and that no browser would read."""
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return value


def _settable(model: type[Model], names: Sequence[str]) -> Iterator[Any]:
    """The fields that a client may write: not the key, not what the model computes, and no files, which text is not."""
    from django.db.models import FileField

    for field in [*model._meta.concrete_fields, *model._meta.many_to_many]:
        if (
            field.name in names
            and field.editable
            and not field.primary_key
            and not isinstance(field, FileField)
        ):
            yield field


def _related(field: Any, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValidationError("A list of keys is needed.")
    target = field.remote_field.model
    keys = {target._meta.pk.to_python(key) for key in value}
    rows = list(target._default_manager.filter(pk__in=keys))
    if len(rows) != len(keys):
        raise ValidationError(f"There is no such {target._meta.verbose_name}.")
    return rows


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a client's values is the client's business; a database that is away is not."""
    try:
        yield
    except ValidationError as error:
        by_field = error.message_dict if hasattr(error, "error_dict") else {_ALL: error.messages}
        raise Refused("invalid", by_field) from error
    except (OperationalError, InterfaceError, Refused):
        raise
    except (DatabaseError, ValueError) as error:
        # What the database says of a value is not for clients' eyes.
        logger.warning("A client's values were refused when they were saved.", exc_info=error)
        raise Refused("invalid", {_ALL: ["These values cannot be saved."]}) from error
