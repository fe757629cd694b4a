"""The PostgreSQL engine of the layer "database" keeps every law, on a real server."""

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from channels_core.testing.conformance import LayerConformance
from channels_layer_database.layer import DatabaseLayer
from channels_layer_database.postgresql.layer import PostgreSQLLayer
from channels_layer_database.schema.postgresql import tables
from database_sites import on_postgres


@pytest.fixture(scope="module")
def database() -> Iterator[Connection[Any]]:
    name = f"kit_{uuid.uuid4().hex[:8]}"
    with (
        on_postgres(name) as server,
        psycopg.connect(**server.parameters(name), autocommit=True) as connection,
    ):
        yield connection


class TestPostgreSQLLayer(LayerConformance):
    @pytest.fixture(autouse=True)
    def engine(self, database: Connection[Any]) -> None:
        database.execute(f"TRUNCATE {', '.join(tables('channels_'))}")

    def make_backend(self, **options: Any) -> DatabaseLayer:
        backend = DatabaseLayer(using="channels_pg", **options)
        assert type(backend) is PostgreSQLLayer
        return backend

    def transaction(self) -> AbstractContextManager[object]:
        from django.db import transaction

        return transaction.atomic(using="channels_pg")
