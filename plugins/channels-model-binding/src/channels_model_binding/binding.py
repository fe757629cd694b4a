"""Bindings: classes that tie a model to groups, in both directions.

Outward, Django's signals tell of every save and delete; a message for each goes to the groups that the instance belongs
to, when the transaction has committed. Inward, a consumer reads what a client asks for, asks whether it may, and saves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from asgiref.sync import sync_to_async
from django.utils.encoding import is_protected_type

from channels_core.channel import Group
from channels_core.exceptions import ChannelsError
from channels_model_binding import inbound
from channels_model_binding.inbound import Refused
from channels_session_django import channel_session, channel_session_user

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

    from channels_core.message import Message

__all__ = ["CREATE", "DELETE", "UPDATE", "Binding", "BindingMetaclass", "Refused"]

logger = logging.getLogger("channels.binding")

CREATE: Final = "create"
UPDATE: Final = "update"
DELETE: Final = "delete"

_ALL: Final = "__all__"
_GROUPS: Final = "_binding_group_names"


class _ConsumerOf:
    """An attribute of the class, made once for each: what its class method ``maker`` returns."""

    def __init__(self, maker: str) -> None:
        self._maker = maker

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_made_{name}"

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        made = vars(owner).get(self._name)
        if made is None:
            made = getattr(owner, self._maker)()
            setattr(owner, self._name, made)
        handler: Callable[..., Any] = made
        return handler


class BindingMetaclass(type):
    """The type of bindings. A class that has a ``model`` is connected to its signals once Django is set up.

    Raises ``ValueError`` for a class that has neither ``fields`` nor ``exclude``: then, or where Django is set up
    already, when the class is made.
    """

    binding_classes: ClassVar[list[type[Binding]]] = []
    """Every binding that has a model, in the order in which they were made."""
    is_ready: ClassVar[bool] = False

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> None:
        super().__init__(name, bases, namespace, **options)
        binding: Any = cls
        if binding.model is None:
            return
        if BindingMetaclass.is_ready or _is_django_ready():
            binding.register()
        BindingMetaclass.binding_classes.append(binding)

    @classmethod
    def register_all(mcs) -> None:  # noqa: N804 - the class of classes, as always
        """Connect every binding made so far, and from now on each as it is made. Idempotent."""
        for binding in mcs.binding_classes:
            binding.register()
        mcs.is_ready = True


def _is_django_ready() -> bool:
    from django.apps import apps

    return apps.ready


class Binding(metaclass=BindingMetaclass):
    """Ties ``model`` to the groups that :meth:`group_names` returns.

    A subclass says which ``model``, a class or ``"app.Model"``, and which of its ``fields`` (or all but ``exclude``)
    travel, in both directions: ``fields = ["__all__"]`` is all. It writes :meth:`group_names`,
    :meth:`has_permission`, :meth:`serialize` and :meth:`deserialize`; for WebSockets the last two are there already,
    in :class:`~channels_model_binding.WebsocketBinding`. A class without ``model`` is for others to inherit from.
    """

    model: ClassVar[Any] = None
    fields: ClassVar[Iterable[str] | None] = None
    exclude: ClassVar[Iterable[str] | None] = None

    channel_session_user: ClassVar[bool] = True
    """Whether :attr:`user` is the one of the channel session. ``message.user`` of a decorator further out wins."""
    channel_session: ClassVar[bool] = False
    """Whether ``self.message.channel_session`` is there without the user."""
    compares_stored: ClassVar[bool] = True
    """Whether a save looks up the stored row, so that groups the instance leaves are told that it is gone. Where
    false, the groups before a save are asked of the instance, which has its new values by then, as in Channels 1.x."""

    on_commit: ClassVar[bool] = True
    """Whether messages leave when the transaction that is open has committed; they leave with the save otherwise."""

    model_label: ClassVar[str]
    """``app.model``, in lower case."""

    signal_kwargs: Mapping[str, Any] | None = None
    """Outward: what the signal was sent with."""
    message: Message
    """Inward: the message."""
    kwargs: Mapping[str, Any]
    """Inward: what the route captured."""
    user: Any = None
    """Inward: who is asking; ``None`` where nobody knows, an AnonymousUser where nobody has signed in."""

    # Registration.

    @classmethod
    def register(cls) -> None:
        """Connect this class to its model's signals. Idempotent.

        Raises ``ValueError`` where the class has neither ``fields`` nor ``exclude``, or names fields that are none;
        ``LookupError`` for a ``model`` that is not there.
        """
        from channels_model_binding import outbound

        if "model_label" in vars(cls):
            return
        if isinstance(cls.model, str):
            from django.apps import apps

            cls.model = apps.get_model(cls.model)
        cls._check_fields()
        cls.model_label = cls.model._meta.label_lower
        outbound.connect(cls)

    @classmethod
    def unregister(cls) -> None:
        """Disconnect this class from its model's signals for good; for tests that make bindings. Idempotent."""
        from channels_model_binding import outbound

        if cls in BindingMetaclass.binding_classes:
            BindingMetaclass.binding_classes.remove(cls)
            outbound.disconnect(cls)

    @classmethod
    def _check_fields(cls) -> None:
        name, label = f"{cls.__module__}.{cls.__qualname__}", cls.model._meta.label
        if cls.fields is None and cls.exclude is None:
            raise ValueError(
                f"The binding {name} says neither which fields of {label} travel nor which do not: give it"
                " fields = [...], exclude = [...], or fields = ['__all__'] for all of them."
            )
        for attribute in ("fields", "exclude"):
            value = getattr(cls, attribute)
            if isinstance(value, str):
                raise ValueError(
                    f"The binding {name} has {attribute} = {value!r}: give a list of names, such as [{value!r}]."
                )
        known = {field.name for field in _fields_of(cls.model)}
        named = {*(cls.fields or ()), *(cls.exclude or ())} - {_ALL}
        unknown = sorted(named - known)
        if unknown:
            raise ValueError(
                f"The binding {name} names {', '.join(map(repr, unknown))}, which {label} does not have. Its"
                f" fields: {', '.join(sorted(known))}."
            )

    @classmethod
    def field_names(cls) -> list[str]:
        """The names of the fields that travel, in the model's order; the primary key is not among them, since it
        travels by itself."""
        wanted = None if cls.fields is None or _ALL in cls.fields else {*cls.fields}
        excluded = {*(cls.exclude or ())}
        return [
            field.name
            for field in _fields_of(cls.model)
            if (wanted is None or field.name in wanted) and field.name not in excluded
        ]

    # Outward.

    @classmethod
    def group_names(cls, instance: Any) -> Iterable[str]:
        """The names of the groups that hear of ``instance``."""
        raise NotImplementedError(f"{cls.__qualname__} has to say which groups hear of an instance.")

    def serialize(self, instance: Any, action: str) -> dict[str, Any]:
        """The message that tells of ``action`` on ``instance``; an empty one is not sent."""
        raise NotImplementedError(f"{type(self).__qualname__} has to say what is sent.")

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """The fields of ``instance`` that travel, by name, as Django's serializers write them."""
        travelling = self.field_names()
        return {
            field.name: _written(field, instance)
            for field in _fields_of(self.model)
            if field.name in travelling
        }

    def send_messages(self, instance: Any, group_names: Iterable[str], action: str, **kwargs: Any) -> None:
        """Send what :meth:`serialize` returns to groups; ``kwargs`` is what the signal was sent with."""
        names = sorted(group_names)
        on_commit = self.on_commit and (kwargs.get("using") or True)
        if not names:
            return
        self.signal_kwargs = kwargs
        message = self.serialize(instance, action)
        if not message:
            return
        for name in names:
            try:
                Group(name).send(message, on_commit=on_commit)
            except ChannelsError as error:
                if isinstance(error, TypeError | ValueError):
                    raise  # a name or a message that is none: a mistake in the binding
                # The row is saved: whoever saved it can do nothing about a layer that is away.
                logger.error(
                    "Group %r was not told of %s of %s %s: %s",
                    name,
                    action,
                    self.model_label,
                    instance.pk,
                    error,
                )

    @classmethod
    def remember_groups(cls, instance: Any, names: Iterable[str], *, is_new: bool = False) -> None:
        """Note the groups of ``instance`` before a change, for :meth:`tell_of_change`; none, of one ``is_new``."""
        noted: list[set[str] | None] = instance.__dict__.setdefault(_GROUPS, {}).setdefault(cls, [])
        if is_new:
            noted[:] = [None]  # what an earlier try noted, which failed, means nothing
        else:
            noted.append(set(names))

    @classmethod
    def tell_of_change(cls, instance: Any, *, is_deleted: bool, **kwargs: Any) -> None:
        """Compare the groups noted before with those of now: delete to those left, update to those kept, create to
        those joined, in this order."""
        noted: list[set[str] | None] = instance.__dict__.get(_GROUPS, {}).get(cls) or [set()]
        old = noted.pop() or set()
        is_inside_creation = noted[:1] == [None]  # a receiver of post_save has changed the row again
        if is_inside_creation:
            old = set()
        if not is_deleted:
            instance = _as_stored(instance, kwargs.get("using"))
        new = set() if is_deleted else set(cls.group_names(instance) or ())
        if is_inside_creation:
            noted[0] = new
        binding = cls()
        binding.send_messages(instance, old - new, DELETE, **kwargs)
        binding.send_messages(instance, old & new, UPDATE, **kwargs)
        binding.send_messages(instance, new - old, CREATE, **kwargs)

    # Inward.

    consumer = _ConsumerOf("get_handler")
    """What messages from clients are routed to, or given to a demultiplexer: a plain consumer."""
    aconsumer = _ConsumerOf("get_async_handler")
    """The same as an asynchronous consumer, for a demultiplexer of that kind. The binding runs in a thread."""

    @classmethod
    def is_inbound(cls, message: Message) -> bool:
        """Whether ``message`` asks for something; nothing is done with others."""
        return True

    @classmethod
    def get_handler(cls) -> Callable[..., Any]:
        """:meth:`trigger_inbound` in the decorators that the class asks for."""

        def run(message: Message, **kwargs: Any) -> None:
            cls.trigger_inbound(message, **kwargs)

        with_user, with_session = channel_session_user(run), channel_session(run)

        def consume(message: Message, **kwargs: Any) -> None:
            if not cls.is_inbound(message):
                return
            if cls.channel_session_user and "user" not in message.__dict__:
                with_user(message, **kwargs)
            elif cls.channel_session:
                with_session(message, **kwargs)
            else:
                run(message, **kwargs)

        consume.__name__, consume.__qualname__ = "consumer", f"{cls.__qualname__}.consumer"
        return consume

    @classmethod
    def get_async_handler(cls) -> Callable[..., Any]:
        """:meth:`get_handler`, to be awaited."""
        consume = cls.get_handler()

        async def aconsume(message: Message, **kwargs: Any) -> None:
            if cls.is_inbound(message):
                await sync_to_async(consume)(message, **kwargs)

        aconsume.__name__, aconsume.__qualname__ = "aconsumer", f"{cls.__qualname__}.aconsumer"
        return aconsume

    @classmethod
    def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """Do what ``message`` asks for, if its sender may; what cannot be done goes to :meth:`refuse`.

        Permission is asked before any row is looked at. Where it is not given nothing happens, without a word.
        """
        if not cls.is_inbound(message):
            return
        binding = cls()
        binding.message, binding.kwargs = message, kwargs
        binding.user = getattr(message, "user", None)
        action = pk = None
        try:
            action, pk, data = binding.deserialize(message)
            key = binding.clean_pk(action, pk)
            if binding.has_permission(binding.user, action, key):
                binding.run_action(action, key, data)
        except Refused as refused:
            binding.refuse(refused, action, pk)

    def deserialize(self, message: Message) -> tuple[str, Any, Any]:
        """What ``message`` asks for: action, primary key (or ``None``), data (or ``None``)."""
        raise NotImplementedError(f"{type(self).__qualname__} has to say what a message asks for.")

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        """Whether ``user`` may do ``action`` to the row with the key ``pk``, which is ``None`` for create."""
        raise NotImplementedError(f"{type(self).__qualname__} has to say who may do what.")

    def clean_pk(self, action: str, pk: Any) -> Any:
        """``pk`` as the model's key has it, so that permission is asked for the very row that is touched.

        A new row's key is not the client's to choose: ``None``; as for an action that there is not. Raises
        :class:`Refused` for what cannot be a key.
        """
        return inbound.clean_pk(self.model, action, pk) if action in (UPDATE, DELETE) else None

    def run_action(self, action: str, pk: Any, data: Any) -> None:
        """Call :meth:`create`, :meth:`update` or :meth:`delete`. Raises :class:`Refused` for any other action."""
        if action == CREATE:
            self.create(data)
        elif action == UPDATE:
            self.update(pk, data)
        elif action == DELETE:
            self.delete(pk)
        else:
            raise Refused(
                "unknown action",
                {_ALL: [f"There is no action {action!r:.80}: there are create, update and delete."]},
            )

    def get_queryset(self) -> QuerySet[Any]:
        """The rows that clients may update and delete at all; for others, there is no such row."""
        queryset: QuerySet[Any] = self.model._default_manager.all()
        return queryset

    def create(self, data: Any) -> Any:
        """Save a new instance with those fields of ``data`` that travel; returns it.

        Raises :class:`Refused` where the data is not valid.
        """
        return inbound.create(self.model(), data, self.field_names())

    def update(self, pk: Any, data: Any) -> Any:
        """Save those fields of ``data`` that travel into the row ``pk``, which is locked meanwhile; returns the
        instance. Raises :class:`Refused` where there is no such row, or the data is not valid."""
        return inbound.update(self.get_queryset(), pk, data, self.field_names())

    def delete(self, pk: Any) -> None:
        """Delete the row ``pk``; nothing happens where it is gone."""
        inbound.delete(self.get_queryset(), pk)

    def refuse(self, refused: Refused, action: Any, pk: Any) -> None:
        """Deal with what cannot be done; here it is raised."""
        raise refused


def _fields_of(model: type[Model]) -> list[Any]:
    """The fields that serializers know: columns but the key, and many-to-many relations that are rows of two keys."""
    options = model._meta
    columns = [field for field in options.concrete_fields if not field.primary_key]
    relations = [
        field
        for field in options.many_to_many
        if field.remote_field.through._meta.auto_created  # type: ignore[union-attr]  # a relation has it
    ]
    return [*columns, *relations]


def _written(field: Any, instance: Any) -> Any:
    """A field's value, as Django's serializers write it; they leave out what a model inherits from another table."""
    if field.many_to_many:
        key = field.remote_field.model._meta.pk
        return [_written(key, row) for row in getattr(instance, field.name).only(key.name)]
    value = field.value_from_object(instance)
    return value if is_protected_type(value) else field.value_to_string(instance)


def _as_stored(instance: Any, using: str | None) -> Any:
    """``instance``, read anew where it holds expressions, of which only the database knows what they came to."""
    if not any(hasattr(value, "resolve_expression") for value in instance.__dict__.values()):
        return instance
    return type(instance)._base_manager.using(using).filter(pk=instance.pk).first() or instance
