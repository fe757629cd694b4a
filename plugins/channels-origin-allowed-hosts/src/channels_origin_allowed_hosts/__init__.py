"""Lets WebSockets in only from origins that Django's ALLOWED_HOSTS names."""

__all__: list[str] = []
