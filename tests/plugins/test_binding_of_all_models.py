"""Bindings of models that inherit, are proxies, hold expressions, come from fixtures, and save themselves twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from channels_core import ChannelLayer, Message, channel_layers
from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Outcome, Send
from channels_layer_memory.layer import MemoryBackend
from testsite.fixtures import set_up_django

set_up_django()

from django.core import serializers  # noqa: E402 - Django comes first
from django.db import connection, transaction  # noqa: E402 - as above
from django.db.models import F  # noqa: E402 - as above
from django.db.models.signals import post_save  # noqa: E402 - as above

from channels_model_binding import BindingMetaclass, WebsocketBinding  # noqa: E402 - as above
from testsite.bound.models import Bargain, Book, Item, Label, Reading, Shop, Ticket  # noqa: E402 - as above

pytest_plugins = ["testsite.databases"]


@pytest.fixture
def layer(file_database: Path) -> Iterator[ChannelLayer]:
    with connection.schema_editor() as editor:
        for model in (Shop, Label, Item, Ticket, Book, Reading):
            editor.create_model(model)
    made = ChannelLayer(MemoryBackend())
    channel_layers.set("default", made)
    for group in ("goods", "books", "readings", "n.1", "n.2", "room.a", "room.b"):
        made.group_add(group, f"in.{group}")
    before = [*BindingMetaclass.binding_classes]
    yield made
    for binding in [*BindingMetaclass.binding_classes]:
        if binding not in before:
            binding.unregister()
    channel_layers.set("default", None)
    made.close()


def heard(layer: ChannelLayer, group: str) -> list[dict[str, Any]]:
    found: list[Any] = []
    while True:
        _, content = layer.receive([f"in.{group}"])
        if content is None:
            return found
        found.append(json.loads(content["text"])["payload"])


def actions(layer: ChannelLayer, group: str) -> list[tuple[str, Any]]:
    return [(payload["action"], payload["pk"]) for payload in heard(layer, group)]


def bind(model: Any, stream: str, fields: list[str], **attributes: Any) -> type[WebsocketBinding]:
    namespace = {
        "__module__": __name__,
        "model": model,
        "stream": stream,
        "fields": fields,
        "group_names": classmethod(lambda cls, instance: [stream]),
        "has_permission": lambda self, user, action, pk: True,
        **attributes,
    }
    return BindingMetaclass(f"Binding{stream}", (WebsocketBinding,), namespace)  # type: ignore[return-value]  # a metaclass called by hand


def ask(layer: ChannelLayer, binding: type[WebsocketBinding], payload: str | dict[str, Any]) -> list[Any]:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    message = Message({"text": text, "reply_channel": "client"}, "websocket.receive", layer)
    message.__dict__["user"] = "somebody"
    binding.consumer(message)
    answers: list[Any] = []
    while True:
        _, content = layer.receive(["client"])
        if content is None:
            return answers
        answers.append(json.loads(content["text"])["payload"])


def test_what_a_model_inherits_travels_too(layer: ChannelLayer) -> None:
    bind(Book, "books", ["title", "count", "author", "labels", "topics"])
    label = Label.objects.create(text="new")
    book = Book.objects.create(title="Emma", count=2, author="Austen")
    [made] = heard(layer, "books")
    assert made["data"] == {"title": "Emma", "count": 2, "author": "Austen", "labels": [], "topics": []}
    book.labels.add(label)
    [labelled] = heard(layer, "books")
    assert labelled["data"]["labels"] == [label.pk]


def test_proxies_and_models_that_inherit_are_rows_of_the_bound_model(layer: ChannelLayer) -> None:
    bind(Item, "goods", ["title"])
    bargain = Bargain.objects.create(title="tea")
    book = Book.objects.create(title="Emma", author="Austen")
    bargain.title = "green tea"
    bargain.save()
    found = heard(layer, "goods")
    assert [(one["action"], one["pk"], one["data"], one["model"]) for one in found] == [
        ("create", bargain.pk, {"title": "tea"}, "bound.item"),
        ("create", book.pk, {"title": "Emma"}, "bound.item"),
        ("update", bargain.pk, {"title": "green tea"}, "bound.item"),
    ]
    keys = bargain.pk, book.pk
    bargain.delete()
    book.delete()
    assert actions(layer, "goods") == [("delete", keys[0]), ("delete", keys[1])]


def test_an_expression_is_told_as_what_it_came_to(layer: ChannelLayer) -> None:
    bind(Item, "goods", ["count"], group_names=classmethod(lambda cls, item: ["goods", f"n.{item.count}"]))
    item = Item.objects.create(title="tea", count=1)
    heard(layer, "goods"), heard(layer, "n.1")
    item.count = F("count") + 1
    item.save()
    [told] = heard(layer, "goods")
    assert (told["action"], told["data"]) == ("update", {"count": 2})
    assert actions(layer, "n.1") == [("delete", item.pk)]
    assert actions(layer, "n.2") == [("create", item.pk)]


def test_a_row_saved_anew_under_its_key_is_an_update_where_it_was(layer: ChannelLayer) -> None:
    bind(Item, "goods", ["count"], group_names=classmethod(lambda cls, item: ["goods", f"n.{item.count}"]))
    item = Item.objects.create(title="tea", count=1)
    heard(layer, "goods"), heard(layer, "n.1")
    Item(pk=item.pk, title="tea", count=2, made=item.made).save()
    assert actions(layer, "goods") == [("update", item.pk)]
    assert actions(layer, "n.1") == [("delete", item.pk)]
    assert actions(layer, "n.2") == [("create", item.pk)]


def test_fixtures_are_told_of_and_may_come_in_any_order(layer: ChannelLayer) -> None:
    bind(
        Reading,
        "readings",
        ["sensor"],
        group_names=classmethod(lambda cls, one: ["readings", f"room.{one.shop.name}"]),
    )
    fixture = json.dumps(
        [
            {"model": "bound.reading", "pk": 1, "fields": {"shop": 5, "degrees": 20.5, "sensor": "door"}},
            {"model": "bound.shop", "pk": 5, "fields": {"name": "a"}},
        ]
    )
    with transaction.atomic(), connection.constraint_checks_disabled():
        for one in serializers.deserialize("json", fixture):
            one.save()
    assert Reading.objects.get().shop.name == "a"
    assert actions(layer, "readings") == [("create", 1)]
    assert actions(layer, "room.a") == [("create", 1)]


def test_a_receiver_that_saves_again_makes_no_second_create(layer: ChannelLayer) -> None:
    def polish(instance: Item, created: bool, **_: Any) -> None:
        if instance.title != instance.title.upper():
            instance.title = instance.title.upper()
            instance.save()

    post_save.connect(polish, sender=Item)  # before the binding's
    try:
        bind(Item, "goods", ["title"])
        item = Item.objects.create(title="tea")
        assert actions(layer, "goods")[:1] == [("create", item.pk)]
        item.title = "coffee"
        item.save()
        assert {action for action, _ in actions(layer, "goods")} == {"update"}
    finally:
        post_save.disconnect(polish, sender=Item)


# What clients send.


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", '"NaN"', '"inf"'])
def test_what_is_no_json_for_others_is_not_taken(layer: ChannelLayer, value: str) -> None:
    binding = bind(Reading, "readings", ["degrees", "details"])
    shop = Shop.objects.create(name="a")
    reading = Reading.objects.create(shop=shop, degrees=20.0, sensor="door")
    heard(layer, "readings")
    for data in ('{"degrees": %s}', '{"details": {"high": %s}}'):
        if value.startswith('"') and "details" in data:
            continue
        [answer] = ask(layer, binding, f'{{"action": "update", "pk": {reading.pk}, "data": {data % value}}}')
        assert answer["code"] in ("malformed", "invalid")
    reading.refresh_from_db()
    assert (reading.degrees, reading.details) == (20.0, {})
    assert heard(layer, "readings") == []


def test_a_new_row_needs_what_a_form_would_ask_for(layer: ChannelLayer) -> None:
    binding = bind(Item, "goods", ["title", "count"])
    [answer] = ask(layer, binding, {"action": "create", "data": {"count": 3}})
    assert (answer["code"], answer["errors"]) == ("invalid", {"title": ["This field cannot be blank."]})
    assert not Item.objects.exists()
    assert ask(layer, binding, {"action": "create", "data": {"title": "tea"}}) == []
    assert Item.objects.get().count == 0


def test_an_action_that_there_is_not_is_asked_about_first(layer: ChannelLayer) -> None:
    asked: ClassVar[list[Any]] = []  # type: ignore[misc]  # replaced below
    asked = []

    def has_permission(self: Any, user: Any, action: str, pk: Any) -> bool:
        asked.append((action, pk))
        return False

    binding = bind(Item, "goods", ["title"], has_permission=has_permission)
    assert ask(layer, binding, {"action": "frob"}) == []
    assert asked == [("frob", None)]


def test_a_huge_key_is_not_sent_back(layer: ChannelLayer) -> None:
    binding = bind(Item, "goods", ["title"])
    [answer] = ask(layer, binding, {"action": "update" * 1000, "pk": {"a": "b" * 900_000}})
    assert len(json.dumps(answer)) < 2000


class Away(MemoryBackend):
    def send_one(self, send: Send) -> Outcome:
        raise LayerUnavailable("nobody answers")


def test_a_layer_that_is_away_at_the_commit_fails_nothing_either(
    layer: ChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    bind(Item, "goods", ["title"])
    away = ChannelLayer(Away())
    channel_layers.set("default", away)
    after: list[str] = []
    with transaction.atomic():
        item = Item.objects.create(title="tea")
        transaction.on_commit(lambda: after.append("ran"))
    assert Item.objects.get() == item
    assert after == ["ran"]
    assert "nobody answers" in caplog.text
    away.close()
