"""The application channels_delay: its checks, its migrations, and its command's page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_core import channel_layers
from testsite.fixtures import set_up_django

set_up_django()

from django.core.management import call_command  # noqa: E402 - Django comes first
from django.core.management.base import BaseCommand  # noqa: E402 - as above
from django.db import connection  # noqa: E402 - as above
from django.test import override_settings  # noqa: E402 - as above

from channels_delay import DelayedMessage, checks  # noqa: E402 - as above
from channels_delay.management.commands.rundelay import Command  # noqa: E402 - as above
from channels_delay.stored import from_text, to_text  # noqa: E402 - as above
from channels_router_regex import route  # noqa: E402 - as above

pytest_plugins = ["testsite.databases"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.fixture(autouse=True)
def _layers() -> Iterator[None]:
    from channels_django import conf

    channel_layers.configure(conf.load_config)
    yield
    channel_layers.configure(conf.load_config)


def layers(**entry: Any) -> Any:
    routing: list[Any] = []
    return override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "memory", "ROUTING": routing, **entry}})


def test_good_settings_are_good() -> None:
    with layers():
        assert checks.check_settings() == checks.check_deployment() == []


def test_e001_without_channels_django() -> None:
    with override_settings(INSTALLED_APPS=["channels_delay"]):
        [problem] = checks.check_settings()
        assert checks.check_deployment() == []
    assert (problem.id, problem.msg, problem.hint) == (
        "channels_delay.E001",
        "'channels_delay' is in INSTALLED_APPS and 'channels_django' is not.",
        "Put 'channels_django' first in INSTALLED_APPS.",
    )


def test_e002_a_consumer_that_would_take_the_orders() -> None:
    with layers(ROUTING=[route("asgi.delay", lambda message: None)]):
        [problem] = checks.check_settings()
    assert (problem.id, problem.msg, problem.hint) == (
        "channels_delay.E002",
        "CHANNEL_LAYERS['default'] routes 'asgi.delay' to a consumer: workers would take messages that the delay server"
        " waits for.",
        "Remove the route for 'asgi.delay'; `manage.py rundelay` reads that channel.",
    )


def test_w001_orders_that_a_kill_could_lose(tmp_path: Path) -> None:
    config: dict[str, Any] = {"path": str(tmp_path / "layer.sqlite3")}
    with layers(BACKEND="sqlite_layer.layer.SqliteBackend", CONFIG=config):
        [problem] = checks.check_deployment()
    assert (problem.id, problem.msg, problem.hint) == (
        "channels_delay.W001",
        "On the channel layer 'default', 'asgi.delay' is at-most-once: a delay server that is killed loses the messages"
        " it has just been given.",
        "Add 'delivery': {'asgi.delay': 'at-least-once'} to its CONFIG.",
    )
    config["delivery"] = {"asgi.*": "at-least-once"}
    with layers(BACKEND="sqlite_layer.layer.SqliteBackend", CONFIG=config):
        assert checks.check_deployment() == []


def test_layers_that_cannot_be_made_are_for_others_to_report() -> None:
    with layers(BACKEND="memroy"):
        assert checks.check_settings() == checks.check_deployment() == []
    with layers(ROUTING="no.such.module"):
        assert checks.check_settings() == []


def test_the_migrations_are_those_of_the_models(file_database: Path) -> None:
    call_command("makemigrations", "channels_delay", check=True, dry_run=True, verbosity=0)


def test_what_waited_in_the_table_of_channels_1_is_taken_over(file_database: Path) -> None:
    call_command("migrate", "channels_delay", "0001", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute(
            'CREATE TABLE "channels.delay_delayedmessage" (id integer PRIMARY KEY, due_date datetime NOT NULL,'
            " channel_name varchar(512) NOT NULL, content text NOT NULL)"
        )
        cursor.execute(
            'INSERT INTO "channels.delay_delayedmessage" (due_date, channel_name, content)'
            " VALUES ('2031-05-04 12:00:00.250000', 'later', '{\"text\": \"old\"}')"
        )
    call_command("migrate", "channels_delay", verbosity=0)
    row = DelayedMessage.objects.get()
    assert (row.channel_name, row.content, row.layer, row.claim) == (
        "later",
        '{"text": "old"}',
        "default",
        "",
    )
    assert row.due_date.isoformat() == "2031-05-04T12:00:00.250000+00:00"
    with connection.cursor() as cursor:
        cursor.execute('SELECT count(*) FROM "channels.delay_delayedmessage"')
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"a": {"__bytes__": "no base64"}}'])
def test_text_that_is_no_message_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        from_text(text)


def test_plain_json_is_read_as_it_is() -> None:
    assert from_text('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert to_text({"a": "€"}) == '{"a":"\\u20ac"}'


def test_every_option_of_the_command_and_every_check_is_documented() -> None:
    page = (PAGE / "cli.md").read_text()
    section = page.split("## `manage.py rundelay`\n", 1)[1].split("\n## ", 1)[0]
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))

    def options(command: BaseCommand) -> set[str]:
        parser = command.create_parser("manage.py", "rundelay")
        return {option for action in parser._actions for option in action.option_strings}

    assert documented == options(Command()) - options(BaseCommand())
    source = Path(checks.__file__).read_text()
    reference = (PAGE / "delay.md").read_text()
    ids = set(re.findall(r"channels_delay\.[EW]\d{3}", source))
    assert len(ids) == 3
    assert ids == set(re.findall(r"channels_delay\.[EW]\d{3}", reference))
