"""Migrations: the tables, in the dialect of each vendor."""

__all__: list[str] = []
