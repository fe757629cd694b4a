"""Routes and the router."""

from channels_core.default_consumers import connect_consumer, null_consumer
from channels_router_regex import Include, Route, RouteClass, Router, include, route, route_class

__all__ = [
    "Include",
    "Route",
    "RouteClass",
    "Router",
    "connect_consumer",
    "include",
    "null_consumer",
    "route",
    "route_class",
]
