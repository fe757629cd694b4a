"""Takes over what waits in the table that ``channels.delay`` of Channels 1.x made, where there is one.

Its rows are moved, so that a delay server of that version which still runs cannot send them again. The old table stays,
empty, for its owner to drop.
"""

from __future__ import annotations

from typing import Any, Final

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

_OLD: Final = "channels.delay_delayedmessage"
_COLUMNS: Final = ("due_date", "channel_name", "content")


def take_over(apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Move the rows of the old table, all or none."""
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        if _OLD not in connection.introspection.table_names(cursor):
            return
        new = apps.get_model("channels_delay", "DelayedMessage")._meta.db_table
        name = connection.ops.quote_name
        columns = ", ".join(map(name, _COLUMNS))
        cursor.execute(
            f"INSERT INTO {name(new)} ({columns}, {name('layer')}, {name('claim')})"
            f" SELECT {columns}, 'default', '' FROM {name(_OLD)}"
        )
        cursor.execute(f"DELETE FROM {name(_OLD)}")


class Migration(migrations.Migration):
    """Move what waits; backwards, nothing happens."""

    dependencies = (("channels_delay", "0001_initial"),)

    operations = (migrations.RunPython(take_over, migrations.RunPython.noop),)
