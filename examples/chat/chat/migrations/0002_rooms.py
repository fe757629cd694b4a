"""The rooms that a new site starts with. The lobby is always there."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

ROOMS = [
    ("lobby", "Lobby", "Come in! Everybody starts here."),
    ("help", "Help desk", "Stuck with Django or channels? Ask away."),
    ("coffee", "Coffee corner", "Small talk, big cups."),
    ("night-owls", "Night owls", "For those who should be in bed."),
]


def open_rooms(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Open the rooms that are not there yet."""
    room = apps.get_model("chat", "Room")
    for slug, title, topic in ROOMS:
        room.objects.using(schema_editor.connection.alias).get_or_create(
            slug=slug, defaults={"title": title, "topic": topic}
        )


class Migration(migrations.Migration):
    """Open the first rooms."""

    dependencies = [("chat", "0001_initial")]

    operations = [migrations.RunPython(open_rooms, migrations.RunPython.noop)]
