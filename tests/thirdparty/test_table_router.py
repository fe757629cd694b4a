"""What the author of the table router has for tests."""

from collections.abc import Mapping

from channels_core.routing import Consumer, Router
from channels_core.testing.conformance.routers import RouterConformance
from table_router.router import TableRouter


class TestTableRouter(RouterConformance):
    def make_router(self, consumers: Mapping[str, Consumer]) -> Router:
        return TableRouter(consumers)
