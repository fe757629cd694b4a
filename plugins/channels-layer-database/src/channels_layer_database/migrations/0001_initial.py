"""The tables of the layer "database"."""

from typing import Any

from django.db import migrations, models

from channels_layer_database.tables import create_tables, drop_tables


def create(apps: Any, schema_editor: Any) -> None:
    """Make the tables on the database that is migrated."""
    create_tables(schema_editor.connection.alias)


def drop(apps: Any, schema_editor: Any) -> None:
    """Remove them."""
    drop_tables(schema_editor.connection.alias)


class Migration(migrations.Migration):
    """The tables by SQL of each vendor; the models, which nobody manages, for the state."""

    initial = True
    dependencies = []  # noqa: RUF012 - Django's way of writing migrations
    operations = [  # noqa: RUF012 - as above
        migrations.RunPython(create, drop, elidable=False),
        migrations.CreateModel(
            name="WaitingMessage",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("key", models.CharField(max_length=200, verbose_name="channel")),
                ("attempt", models.SmallIntegerField()),
                ("size", models.IntegerField(verbose_name="bytes")),
            ],
            options={
                "verbose_name": "waiting message",
                "db_table": "channels_msg",
                "ordering": ["key", "id"],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Process",
            fields=[
                ("id", models.CharField(max_length=26, primary_key=True, serialize=False)),
                ("kind", models.CharField(max_length=20)),
                ("label", models.CharField(max_length=200)),
                ("load", models.FloatField()),
            ],
            options={
                "verbose_name_plural": "processes",
                "db_table": "channels_proc",
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
