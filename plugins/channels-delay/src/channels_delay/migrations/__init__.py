"""Migrations of the tables of channels_delay."""

__all__: list[str] = []
