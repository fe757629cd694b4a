"""Channel sessions, HTTP sessions and users for consumers, kept by Django's session engines."""

__all__: list[str] = []
