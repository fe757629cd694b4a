"""Channel layer on Redis or Valkey: one server, Sentinel or Cluster."""

__all__: list[str] = []
