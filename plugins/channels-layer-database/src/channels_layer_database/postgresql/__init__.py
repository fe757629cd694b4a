"""The engine for PostgreSQL: an asynchronous pipeline on libpq."""

__all__: list[str] = []
