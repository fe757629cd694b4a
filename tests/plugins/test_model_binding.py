"""Data binding: what is saved reaches groups, what clients send is saved, and nothing else is."""

import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from channels_core import ChannelLayer, Message, channel_layers
from channels_core.exceptions import LayerUnavailable
from channels_core.held import HeldSends, current_held
from channels_core.layers import Outcome
from channels_core.routing import is_async_consumer
from channels_layer_memory.layer import MemoryBackend
from channels_router_regex import Router
from testsite.fixtures import set_up_django
from workbench import Bench

set_up_django()

from django.contrib.auth.models import AnonymousUser, User  # noqa: E402 - Django comes first
from django.db import connection, transaction  # noqa: E402 - as above
from django.test.utils import CaptureQueriesContext  # noqa: E402 - as above

from channels_django.generic import WebsocketDemultiplexer, WebsocketMultiplexer  # noqa: E402 - as above
from channels_model_binding import (  # noqa: E402 - as above
    CREATE,
    DELETE,
    UPDATE,
    Binding,
    BindingMetaclass,
    WebsocketBinding,
    WebsocketBindingWithMembers,
)
from channels_model_binding.inbound import Refused  # noqa: E402 - as above
from testsite.bound.models import Book, Item, Label, Shop, Ticket  # noqa: E402 - as above

pytest_plugins = ["testsite.databases"]

FIELDS = ["title", "code", "count", "price", "wanted", "shop", "labels"]


class ItemBinding(WebsocketBinding):
    model = Item
    stream = "items"
    fields: ClassVar[list[str]] = FIELDS
    allowed: ClassVar[bool] = True
    asked: ClassVar[list[tuple[Any, str, Any]]] = []

    @classmethod
    def group_names(cls, instance: Any) -> list[str]:
        return ["items", f"count.{instance.count}"]

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        self.asked.append((user, action, pk))
        return self.allowed


@pytest.fixture
def layer(file_database: Path) -> Iterator[ChannelLayer]:
    with connection.schema_editor() as editor:
        for model in (Shop, Label, Item, Book, Ticket):
            editor.create_model(model)
    made = ChannelLayer(MemoryBackend())
    channel_layers.set("default", made)
    for group in ("items", "count.1", "count.2", "room.a", "room.b"):
        made.group_add(group, f"in.{group}")
    yield made
    channel_layers.set("default", None)
    made.close()


@pytest.fixture(autouse=True)
def _fresh_bindings() -> Iterator[None]:
    ItemBinding.allowed = True
    ItemBinding.asked.clear()
    before = [*BindingMetaclass.binding_classes]
    yield
    for binding in [*BindingMetaclass.binding_classes]:
        if binding not in before:
            binding.unregister()


def heard(layer: ChannelLayer, group: str) -> list[dict[str, Any]]:
    """The payloads that a member of ``group`` has got, which it has once."""
    found: list[Any] = []
    while True:
        _, content = layer.receive([f"in.{group}"])
        if content is None:
            return found
        found.append(json.loads(content["text"]))


def payloads(layer: ChannelLayer, group: str) -> list[tuple[str, Any]]:
    return [(frame["payload"]["action"], frame["payload"]["pk"]) for frame in heard(layer, group)]


# Outward.


def test_b80_a_frame_has_the_stream_the_action_the_key_the_data_and_the_model(layer: ChannelLayer) -> None:
    shop = Shop.objects.create(name="corner")
    item = Item.objects.create(title="tea", count=5, price=Decimal("2.50"), shop=shop)
    [frame] = heard(layer, "items")
    assert frame == {
        "stream": "items",
        "payload": {
            "action": "create",
            "pk": item.pk,
            "model": "bound.item",
            "data": {
                "title": "tea",
                "code": None,
                "count": 5,
                "price": "2.50",
                "wanted": None,
                "shop": shop.pk,
                "labels": [],
            },
        },
    }
    item.title = "green tea"
    item.save()
    [frame] = heard(layer, "items")
    assert frame["payload"]["action"] == "update"
    assert frame["payload"]["data"]["title"] == "green tea"
    pk = item.pk
    item.delete()
    [frame] = heard(layer, "items")
    assert (frame["payload"]["action"], frame["payload"]["pk"]) == ("delete", pk)
    assert frame["payload"]["data"]["title"] == "green tea"


def test_groups_that_are_left_hear_delete_and_those_that_are_joined_create(layer: ChannelLayer) -> None:
    item = Item.objects.create(title="tea", count=1)
    assert payloads(layer, "count.1") == [("create", item.pk)]
    item.count = 2
    item.save()
    assert payloads(layer, "count.1") == [("delete", item.pk)]
    assert payloads(layer, "count.2") == [("create", item.pk)]
    assert payloads(layer, "items") == [("create", item.pk), ("update", item.pk)]
    pk = item.pk
    item.delete()
    assert payloads(layer, "count.1") == []
    assert payloads(layer, "count.2") == [("delete", pk)]


def test_b81_the_groups_before_may_be_asked_of_the_instance_as_it_is(
    layer: ChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ItemBinding, "compares_stored", False)
    item = Item.objects.create(title="tea", count=1)
    item.count = 2
    with CaptureQueriesContext(
        connection,
    ) as queries:
        item.save()
    assert [query["sql"].split()[0] for query in queries] == [
        "UPDATE",
        "SELECT",
    ]  # the second is for the labels
    assert payloads(layer, "count.1") == [("create", item.pk)]
    assert payloads(layer, "count.2") == [("update", item.pk)]


def test_messages_leave_when_the_transaction_has_committed(layer: ChannelLayer) -> None:
    with transaction.atomic():
        item = Item.objects.create(title="tea")
        item.title = "green tea"
        item.save()
        assert heard(layer, "items") == []
    frames = heard(layer, "items")
    assert [frame["payload"]["data"]["title"] for frame in frames] == ["tea", "green tea"]
    with transaction.atomic():
        item.delete()
        transaction.set_rollback(True)
    assert heard(layer, "items") == []


def test_they_may_leave_with_the_save_and_are_held_inside_a_consumer(
    layer: ChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ItemBinding, "on_commit", False)
    with transaction.atomic():
        Item.objects.create(title="tea")
        assert len(heard(layer, "items")) == 1
    held = HeldSends(layer)
    token = current_held.set(held)
    try:
        Item.objects.create(title="coffee")
    finally:
        current_held.reset(token)
        held.close()
    assert heard(layer, "items") == []
    assert [send.channel for send in held.sends] == ["count.0", "items"]


def test_deleting_many_tells_of_each(layer: ChannelLayer) -> None:
    keys = [Item.objects.create(title=title).pk for title in "abc"]
    heard(layer, "items")
    Item.objects.all().delete()
    assert sorted(payloads(layer, "items")) == [("delete", key) for key in keys]


def test_a_relation_that_changes_is_an_update_from_either_side(layer: ChannelLayer) -> None:
    item, other = Item.objects.create(title="tea"), Item.objects.create(title="coffee")
    hot, black = Label.objects.create(text="hot"), Label.objects.create(text="black")
    heard(layer, "items")
    item.labels.add(hot, black)
    [frame] = heard(layer, "items")
    assert frame["payload"]["action"] == "update"
    assert sorted(frame["payload"]["data"]["labels"]) == [hot.pk, black.pk]
    item.labels.add(hot)  # was there
    assert heard(layer, "items") == []
    item.labels.remove(black)
    [frame] = heard(layer, "items")
    assert frame["payload"]["data"]["labels"] == [hot.pk]
    hot.items.add(other)
    assert payloads(layer, "items") == [("update", other.pk)]
    hot.items.clear()
    assert sorted(payloads(layer, "items")) == [("update", item.pk), ("update", other.pk)]
    item.labels.set([black])
    heard(layer, "items")
    item.labels.clear()
    [frame] = heard(layer, "items")
    assert frame["payload"]["data"]["labels"] == []


def test_an_empty_message_is_not_sent(layer: ChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    def serialize(self: Binding, instance: Any, action: str) -> dict[str, Any]:
        assert self.signal_kwargs is not None
        assert {"created", "raw", "using", "update_fields"} <= set(self.signal_kwargs)
        return {}

    monkeypatch.setattr(ItemBinding, "serialize", serialize)
    Item.objects.create(title="tea")
    assert heard(layer, "items") == []


class Away(MemoryBackend):
    def send_one(self, send: Any) -> Outcome:
        raise LayerUnavailable("nobody answers")


def test_a_layer_that_is_away_does_not_fail_a_save(
    layer: ChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    channel_layers.set("default", ChannelLayer(Away()))
    item = Item.objects.create(title="tea")
    assert Item.objects.get() == item
    assert [record.getMessage() for record in caplog.records] == [
        f"Group 'count.0' was not told of create of bound.item {item.pk}: nobody answers",
        f"Group 'items' was not told of create of bound.item {item.pk}: nobody answers",
    ]


def test_bindings_of_installed_applications_are_found_and_keys_may_be_of_any_kind(
    layer: ChannelLayer,
) -> None:
    ticket = Ticket.objects.create(room="a")
    assert payloads(layer, "room.a") == [("create", str(ticket.pk))]
    ticket.room = "b"
    ticket.save()
    assert payloads(layer, "room.a") == [("delete", str(ticket.pk))]
    assert payloads(layer, "room.b") == [("create", str(ticket.pk))]


def test_members_travel_outward(layer: ChannelLayer) -> None:
    class Members(WebsocketBindingWithMembers):
        model = Item
        stream = "members"
        fields: ClassVar[list[str]] = ["title"]
        send_members: ClassVar[list[str]] = ["size", "total", "shop.shout", "shop.name"]

        @classmethod
        def group_names(cls, instance: Any) -> list[str]:
            return ["count.1"]

    item = Item(pk=1, title="tea", count=2, price=Decimal("1.50"), shop=Shop(name="corner"))
    assert Members().serialize_data(item) == {
        "title": "tea",
        "size": 3,
        "total": "3.00",
        "shop__shout": "CORNER",
        "shop__name": "corner",
    }


# Making one.


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (
            {},
            "says neither which fields of bound.Item travel nor which do not: give it fields = [...], exclude = [...],"
            " or fields = ['__all__'] for all of them.",
        ),
        ({"fields": "title"}, "has fields = 'title': give a list of names, such as ['title']."),
        ({"exclude": "title"}, "has exclude = 'title': give a list of names, such as ['title']."),
        (
            {"fields": ["titel"]},
            "names 'titel', which bound.Item does not have. Its fields: changed, code, computed, count, labels, made,"
            " picture, price, secret, shop, title, wanted.",
        ),
    ],
)
def test_fields_have_to_be_said(attributes: dict[str, Any], text: str) -> None:
    before = [*BindingMetaclass.binding_classes]
    with pytest.raises(ValueError) as caught:
        BindingMetaclass("Wrong", (WebsocketBinding,), {"model": Item, **attributes})
    assert str(caught.value).partition(" ")[0] == "The"
    assert str(caught.value).endswith(text)
    assert "test_model_binding.Wrong" in str(caught.value)
    assert BindingMetaclass.binding_classes == before


def made(**attributes: Any) -> type[WebsocketBinding]:
    binding: type[WebsocketBinding] = BindingMetaclass(
        "Made", (WebsocketBinding,), {"model": "bound.Item", **attributes}
    )  # type: ignore[assignment]  # the metaclass makes no other
    return binding


def test_which_fields_travel() -> None:
    everything = [field.name for field in Item._meta.concrete_fields if field.name != "id"] + ["labels"]
    assert made(fields=["__all__"]).field_names() == everything
    assert made(fields=["count", "title", "id"][:2]).field_names() == ["title", "count"]
    assert made(exclude=["secret"]).field_names() == [name for name in everything if name != "secret"]
    assert made(fields=["__all__"], exclude=["secret"]).model is Item


def test_a_binding_that_is_unregistered_hears_nothing(layer: ChannelLayer) -> None:
    names = classmethod(lambda cls, instance: ["count.1"])
    binding = made(fields=["title"], group_names=names, stream="x")
    assert binding.model_label == "bound.item"
    Item.objects.create(title="tea")
    assert len(heard(layer, "count.1")) == 1
    binding.unregister()
    binding.unregister()
    Item.objects.create(title="tea")
    assert heard(layer, "count.1") == []


def test_what_a_binding_has_to_write_is_said() -> None:
    binding = made(fields=["title"])()
    item = Item(title="tea")
    for call, text in (
        (lambda: binding.group_names(item), "Made has to say which groups hear of an instance."),
        (lambda: binding.has_permission(None, CREATE, None), "Made has to say who may do what."),
        (lambda: Binding().serialize(item, CREATE), "Binding has to say what is sent."),
        (
            lambda: Binding().deserialize(Message({}, None, None)),
            "Binding has to say what a message asks for.",
        ),
    ):
        with pytest.raises(NotImplementedError) as caught:
            call()
        assert str(caught.value) == text
    with pytest.raises(ValueError) as wrong:
        binding._stream()
    assert str(wrong.value).endswith(
        "has no stream: give it the name that the demultiplexer has for it, such as stream = 'values'."
    )


# Inward.


def ask(layer: ChannelLayer, payload: Any, *, channel: str = "websocket.receive", **kwargs: Any) -> list[Any]:
    """Have the consumer do what a payload asks for; what it answered."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    message = Message({"text": text, "reply_channel": "answers"}, channel, layer)
    message.user = AnonymousUser()  # type: ignore[attr-defined]  # as a decorator would
    multiplexer = WebsocketMultiplexer("items", message.reply_channel)  # type: ignore[arg-type]  # it has one
    ItemBinding.consumer(message, multiplexer=multiplexer, **kwargs)
    found: list[Any] = []
    while True:
        _, content = layer.receive(["answers"])
        if content is None:
            return found
        frame = json.loads(content["text"])
        assert frame["stream"] == "items"
        found.append(frame["payload"])


def test_b82_create_sets_the_fields_that_travel_and_calls_save(layer: ChannelLayer) -> None:
    shop, label = Shop.objects.create(name="corner"), Label.objects.create(text="hot")
    data = {
        "title": "tea",
        "count": "5",
        "price": "2.50",
        "wanted": "2031-05-04T12:00:00Z",
        "shop": shop.pk,
        "labels": [label.pk],
        "secret": "broken into",
        "computed": "broken into",
        "changed": "2001-01-01T00:00:00Z",
        "id": 999,
        "pk": 999,
        "nothing": 1,
    }
    assert ask(layer, {"action": "create", "pk": 999, "data": data}) == []
    item = Item.objects.get()
    assert (item.title, item.count, item.price, item.secret, item.computed) == (
        "tea",
        5,
        Decimal("2.50"),
        "kept",
        "tea x 5",
    )
    assert item.pk != 999
    assert item.changed.year > 2020
    assert item.shop == shop
    assert [*item.labels.all()] == [label]
    assert ItemBinding.asked == [(AnonymousUser(), CREATE, None)]
    frames = heard(layer, "items")
    assert frames[0]["payload"]["action"] == "create"
    assert frames[-1]["payload"]["data"]["labels"] == [label.pk]


def test_b83_update_sets_only_fields_that_travel_through_save(layer: ChannelLayer) -> None:
    item = Item.objects.create(title="tea", count=1)
    data = {"count": 2, "secret": "broken into", "id": 7}
    assert ask(layer, {"action": "update", "pk": str(item.pk), "data": data}) == []
    item.refresh_from_db()
    assert (item.title, item.count, item.secret, item.computed) == ("tea", 2, "kept", "tea x 2")
    assert ItemBinding.asked == [(AnonymousUser(), UPDATE, item.pk)]
    assert payloads(layer, "count.1") == [("create", item.pk), ("delete", item.pk)]


def test_files_and_what_is_not_editable_are_never_set_by_a_client(layer: ChannelLayer) -> None:
    class Everything(WebsocketBinding):
        model = Item
        stream = "everything"
        fields: ClassVar[list[str]] = ["__all__"]

        @classmethod
        def group_names(cls, instance: Any) -> list[str]:
            return []

    data = {"title": "tea", "picture": "../../settings.py", "computed": "x", "made": "2001-01-01T00:00:00Z"}
    item = Everything().create(data)
    item.refresh_from_db()
    assert (item.picture.name, item.computed) == ("", "tea x 0")
    assert item.made.year > 2020


def test_delete(layer: ChannelLayer) -> None:
    item = Item.objects.create(title="tea")
    assert ask(layer, {"action": "delete", "pk": item.pk}) == []
    assert ItemBinding.asked == [(AnonymousUser(), DELETE, item.pk)]
    assert not Item.objects.exists()
    assert payloads(layer, "items") == [("create", item.pk), ("delete", item.pk)]
    assert ask(layer, {"action": "delete", "pk": item.pk}) == []  # gone is gone


def test_b84_without_permission_nothing_happens_without_a_word(layer: ChannelLayer) -> None:
    item = Item.objects.create(title="tea")
    ItemBinding.allowed = False
    with CaptureQueriesContext(connection) as queries:
        for payload in (
            {"action": "create", "data": {"title": "coffee"}},
            {"action": "update", "pk": item.pk, "data": {"title": "coffee"}},
            {"action": "update", "pk": 999, "data": {"count": "no number"}},
            {"action": "delete", "pk": item.pk},
            {"action": "explode", "pk": item.pk},
        ):
            assert ask(layer, payload) == []
    assert len(queries) == 0
    assert len(ItemBinding.asked) == 5


def error(kind: str, request: Any = None, pk: Any = None, /, **errors: list[str]) -> dict[str, Any]:
    return {
        "action": "error",
        "request": request,
        "pk": pk,
        "code": kind,
        "errors": errors,
        "model": "bound.item",
    }


def test_what_is_wrong_is_answered(layer: ChannelLayer) -> None:
    Item.objects.create(title="first", code="taken")
    item = Item.objects.create(title="tea")

    def update(**data: Any) -> list[Any]:
        return ask(layer, {"action": "update", "pk": item.pk, "data": data})

    def invalid(**errors: list[str]) -> list[Any]:
        return [error("invalid", "update", item.pk, **errors)]

    assert update(count="many") == invalid(count=["“many” value must be an integer."])
    assert update(price=[]) == invalid(price=["“[]” value must be a decimal number."])
    assert update(title="") == invalid(title=["This field cannot be blank."])
    assert update(title="x" * 21) == invalid(
        title=["Ensure this value has at most 20 characters (it has 21)."]
    )
    assert update(code="taken") == invalid(code=["Item with this Code already exists."])
    assert update(count=13) == invalid(__all__=["Not thirteen."])
    [answer] = update(shop=77)
    assert answer["errors"]["shop"][0].startswith(
        "shop instance with id 77"
    )  # the rest is Django's, and changes
    assert update(shop={}) == invalid(shop=["“{}” value must be an integer."])
    assert update(labels=3) == invalid(labels=["A list of keys is needed."])
    assert update(labels=[3]) == invalid(labels=["There is no such label."])
    assert update(labels=[[]]) == invalid(labels=["“[]” value must be an integer."])
    item.refresh_from_db()
    assert (item.title, item.count) == ("tea", 0)

    data_needed = "'data' has to be an object with the values of fields."
    no_objects: tuple[Any, ...] = (None, [], "title", 1)
    for data in no_objects:
        assert ask(layer, {"action": "update", "pk": item.pk, "data": data}) == [
            error("malformed", "update", item.pk, __all__=[data_needed])
        ]
        assert ask(layer, {"action": "create", "data": data}) == [
            error("malformed", "create", None, __all__=[data_needed])
        ]
    assert ask(layer, {"action": "update", "pk": 999, "data": {}}) == [
        error("not found", "update", 999, __all__=["There is no such item."])
    ]
    assert ask(layer, {"action": "update", "pk": "seven", "data": {}}) == [
        error("not found", "update", "seven", __all__=["There is no such item."])
    ]
    no_keys: tuple[Any, ...] = (None, True, [], {"id": 1})
    for pk in no_keys:
        assert ask(layer, {"action": "delete", "pk": pk}) == [
            error(
                "malformed",
                "delete",
                pk if pk is True else None,
                __all__=["'delete' needs the key of a row, as 'pk'."],
            )
        ]
    assert ask(layer, {"action": "explode", "pk": 1}) == [
        error(
            "unknown action",
            "explode",
            1,
            __all__=["There is no action 'explode': there are create, update and delete."],
        )
    ]
    shape = 'A payload is an object such as {"action": "update", "pk": 7, "data": {...}}.'
    for text in ("[]", "{", "1", "{}", '{"action": 1}', '{"action": "update", "pk": NaN}', "[" * 100_000):
        assert ask(layer, text) == [error("malformed", __all__=[shape])]


def test_what_the_database_refuses_is_answered_without_its_words(
    layer: ChannelLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def save(self: Item, *args: Any, **kwargs: Any) -> None:
        raise ValueError("A string literal cannot contain NUL")

    monkeypatch.setattr(Item, "save", save)
    assert ask(layer, {"action": "create", "data": {"title": "tea"}}) == [
        error("invalid", "create", None, __all__=["These values cannot be saved."])
    ]
    assert "NUL" in caplog.text


def test_what_nobody_can_be_told_is_raised(layer: ChannelLayer) -> None:
    message = Message({"text": '{"action": "explode", "pk": 1}'}, "websocket.receive", layer)
    with pytest.raises(ValueError) as caught:
        ItemBinding.trigger_inbound(message)
    assert isinstance(caught.value, Refused)
    assert caught.value.code == "unknown action"


def test_b85_only_frames_ask_for_something(layer: ChannelLayer) -> None:
    payload = {"action": "create", "data": {"title": "tea"}}
    for channel in ("websocket.connect", "websocket.disconnect"):
        assert ask(layer, payload, channel=channel) == []
        message = Message({"text": json.dumps(payload)}, channel, layer)
        ItemBinding.trigger_inbound(message)
    assert not Item.objects.exists()


def test_rows_outside_the_queryset_are_not_there(
    layer: ChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ItemBinding, "get_queryset", lambda self: Item.objects.filter(count__lt=10))
    item = Item.objects.create(title="tea", count=10)
    assert ask(layer, {"action": "update", "pk": item.pk, "data": {"count": 1}}) == [
        error("not found", "update", item.pk, __all__=["There is no such item."])
    ]
    assert ask(layer, {"action": "delete", "pk": item.pk}) == []
    assert Item.objects.get().count == 10


# On a demultiplexer, in a worker.


class Streams(WebsocketDemultiplexer):
    http_user = True
    groups: ClassVar[list[str]] = ["items"]
    consumers: ClassVar[dict[str, Any]] = {"items": ItemBinding.consumer}


class AsyncStreams(WebsocketDemultiplexer):
    http_user = True
    groups: ClassVar[list[str]] = ["items"]
    consumers: ClassVar[dict[str, Any]] = {"items": ItemBinding.aconsumer}


@pytest.mark.parametrize("streams", [Streams, AsyncStreams])
def test_two_sockets_see_what_one_of_them_changes(file_database: Path, streams: Any) -> None:
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import connections

    from channels_django.signals import DjangoEvents

    assert is_async_consumer(streams) is (streams is AsyncStreams)
    with connection.schema_editor() as editor:
        for model in (Shop, Label, Item):
            editor.create_model(model)
    user = User.objects.create_user("ada", password="x")
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    session["_auth_user_hash"] = user.get_session_auth_hash()
    session.save()
    bench = Bench()
    channel_layers.set("default", bench.layer)
    try:
        bench.work(Router([streams.as_route(path="^/items/$")]), events=DjangoEvents())
        sockets = [bench.layer.new_channel("websocket.send?") for _ in range(2)]
        headers = [[b"cookie", f"sessionid={session.session_key}".encode()]]
        for name in sockets:
            connect = {"reply_channel": name, "path": "/items/", "order": 0, "headers": headers}
            bench.layer.send("websocket.connect", {**connect, "query_string": b""})
            assert bench.take(name) == {"accept": True}
        frame = {"stream": "items", "payload": {"action": "create", "data": {"title": "tea", "count": 3}}}
        bench.layer.send(
            "websocket.receive",
            {"reply_channel": sockets[0], "path": "/items/", "order": 1, "text": json.dumps(frame)},
        )
        for name in sockets:
            payload = json.loads(bench.take(name)["text"])["payload"]
            assert (payload["action"], payload["data"]["title"]) == ("create", "tea")
        assert [(str(who), action) for who, action, _ in ItemBinding.asked] == [("ada", "create")]
    finally:
        bench.close()
        channel_layers.set("default", None)
        from asgiref.sync import SyncToAsync

        SyncToAsync.single_thread_executor.submit(connections.close_all).result()


def test_a_uuid_is_asked_for_as_one(layer: ChannelLayer) -> None:
    from testsite.bound.bindings import TicketBinding

    ticket = Ticket.objects.create(room="a")
    asked: list[Any] = []

    class Asking(TicketBinding):
        def has_permission(self, user: Any, action: str, pk: Any) -> bool:
            asked.append(pk)
            return True

    payload = {"action": "update", "pk": str(ticket.pk), "data": {"room": "b", "id": str(uuid.uuid4())}}
    message = Message({"text": json.dumps(payload)}, "websocket.receive", layer)
    Asking.trigger_inbound(message)
    assert asked == [ticket.pk]
    assert [*Ticket.objects.values_list("pk", "room")] == [(ticket.pk, "b")]
