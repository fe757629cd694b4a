"""What a project does with the layer before the first message: options, migrations, checks."""

import re
import subprocess
import sys
import uuid
from typing import Any

import pytest

from channels_core.exceptions import InvalidChannelLayerError
from channels_core.plugins import PluginManager
from channels_layer_database import DatabaseLayer
from database_sites import aliased
from postgres_server import shared_server

PROJECT = """
import sys
from django.conf import settings
settings.configure(
    DATABASES={databases!r},
    INSTALLED_APPS=["channels_django", "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
                    "channels_layer_database"],
    CHANNEL_LAYERS={layers!r},
    DATABASE_ROUTERS={routers!r},
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
import django
django.setup()
from django.core.management import call_command
for command in {commands!r}:
    call_command(*command)
"""


def run(databases: Any, commands: list[list[str]], *, layers: Any = None, routers: Any = ()) -> str:
    script = PROJECT.format(
        databases=databases,
        layers=layers or {"default": {"BACKEND": "database", "ROUTING": []}},
        routers=list(routers),
        commands=commands,
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture
def entry() -> dict[str, Any]:
    server = shared_server()
    name = f"project_{uuid.uuid4().hex[:8]}"
    server.create(name)
    return server.settings(name)


def tables_of(entry: dict[str, Any]) -> set[str]:
    rows = shared_server().execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'", entry["NAME"]
    )
    return {row[0] for row in rows}


def test_migrate_makes_the_tables_also_of_other_prefixes_and_backwards_removes_them(
    entry: dict[str, Any],
) -> None:
    layers = {
        "default": {"BACKEND": "database", "ROUTING": []},
        "second": {"BACKEND": "database", "ROUTING": [], "CONFIG": {"prefix": "second_"}},
    }
    run(
        {"default": entry},
        [["migrate", "--verbosity", "0"], ["makemigrations", "--check", "--dry-run"]],
        layers=layers,
    )
    assert {"channels_msg", "channels_proc", "channels_dead", "second_msg"} <= tables_of(entry)
    run({"default": entry}, [["migrate", "channels_layer_database", "zero", "--verbosity", "0"]])
    assert not {name for name in tables_of(entry) if name.startswith("channels_")}


def test_a_layer_without_tables_is_warned_of(entry: dict[str, Any]) -> None:
    output = run({"default": entry}, [["check", "--database", "default"]])
    assert (
        re.sub(r"\s+", " ", output).count(
            "(channels.W040) The channel layer 'default' keeps its messages in the database 'default', which"
            " has no table 'channels_msg'. HINT: Run 'manage.py migrate channels_layer_database --database"
            " default'; if a database router decides, let it allow this app there."
        )
        == 1
    )
    assert "W040" not in run(
        {"default": entry}, [["migrate", "--verbosity", "0"], ["check", "--database", "default"]]
    )


def test_it_is_chosen_by_its_name() -> None:
    assert PluginManager(environ={}).load("layer", "database") is DatabaseLayer


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"using": "nowhere"},
            "Option using is 'nowhere', which DATABASES does not have. It has: channels_pg, default.",
        ),
        (
            {"prefix": "My Tables"},
            "Option prefix is 'My Tables': it must be 1 to 20 of a-z, 0-9 and '_', not beginning with a digit.",
        ),
        ({"transactional": 1}, "Option transactional is 1: it must be True or False."),
        ({"wake": "never"}, "Option wake is 'never': it must be 'inside' or 'after'."),
        ({"session": "yes"}, "Option session is 'yes': it must be True, False or None."),
        (
            {"idle_poll": 0},
            "Option idle_poll is 0: it must be a number of seconds above 0, and 60 at most.",
        ),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], text: str) -> None:
    entry = {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}
    with aliased("channels_pg", entry), pytest.raises(InvalidChannelLayerError) as caught:
        DatabaseLayer(**{"using": "channels_pg", **options})
    assert str(caught.value) == text


def test_a_database_that_the_layer_does_not_know_is_named() -> None:
    entry = {"ENGINE": "django.db.backends.dummy", "NAME": "x"}
    with aliased("channels_pg", entry), pytest.raises(InvalidChannelLayerError) as caught:
        DatabaseLayer(using="channels_pg")
    assert str(caught.value) == (
        "Option using is 'channels_pg', a database of unknown: the layer 'database' knows mysql, postgresql, sqlite."
        " Name another alias of DATABASES."
    )
