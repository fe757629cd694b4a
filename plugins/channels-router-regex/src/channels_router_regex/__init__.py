"""Routes messages to consumers by channel name and regular expressions over message content."""

from channels_core.default_consumers import connect_consumer, null_consumer
from channels_router_regex.router import Router
from channels_router_regex.routes import Include, Route, RouteClass, include, route, route_class

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
