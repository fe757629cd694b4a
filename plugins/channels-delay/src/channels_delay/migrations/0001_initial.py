"""The tables."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """Make both tables, empty."""

    initial = True

    dependencies = ()

    operations = (
        migrations.CreateModel(
            name="DelayedMessage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("due_date", models.DateTimeField()),
                ("channel_name", models.CharField(max_length=512)),
                ("content", models.TextField()),
                ("layer", models.CharField(default="default", max_length=100)),
                ("claim", models.CharField(blank=True, default="", max_length=26)),
            ],
            options={
                "indexes": (models.Index(fields=["layer", "due_date"], name="channels_delay_due"),),
            },
        ),
        migrations.CreateModel(
            name="Receipt",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("fingerprint", models.CharField(db_index=True, max_length=40)),
                ("accepted", models.DateTimeField(db_index=True)),
            ],
        ),
    )
