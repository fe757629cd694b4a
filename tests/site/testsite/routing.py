"""The test site's routes; tests that need consumers bring their own."""

from channels_router_regex.routes import Include, Route

routes: list[Route | Include] = []
