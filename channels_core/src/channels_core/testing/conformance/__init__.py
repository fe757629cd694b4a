"""Conformance suites: subclass one, write its fixture, and learn whether a plugin keeps every law of its contract."""

__all__: list[str] = []
