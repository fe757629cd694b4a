"""Django for tests: set up once per process, with a database. Conftests import what they use from here."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import django
import pytest
from django.apps import apps
from django.db import connections
from django.test.utils import (
    setup_databases,
    setup_test_environment,
    teardown_databases,
    teardown_test_environment,
)


def set_up_django() -> None:
    """``django.setup()`` on the test site's settings; nothing where that has happened."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testsite.settings")
    if not apps.ready:
        django.setup()


@pytest.fixture(scope="session")
def django_database() -> Iterator[None]:
    """The test database with all its tables: a file, so that threads have connections of their own to close."""
    set_up_django()
    setup_test_environment()
    with TemporaryDirectory(prefix="channels-tests-") as folder:
        connections["default"].settings_dict["TEST"]["NAME"] = str(Path(folder) / "test.sqlite3")
        old = setup_databases(verbosity=0, interactive=False)
        yield
        connections.close_all()
        teardown_databases(old, verbosity=0)
    teardown_test_environment()
