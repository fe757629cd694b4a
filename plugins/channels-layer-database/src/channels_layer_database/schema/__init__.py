"""DDL of each vendor: what the migrations run, and what the SQLite engine runs on a file of its own."""

__all__: list[str] = []
